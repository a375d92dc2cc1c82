"""GPU-hours by time limits, and which run has most of them."""

from hpc.cluster.budget import budget
from hpc.cluster.profile import find_profile


def test_gpu_hours_are_counted_by_limits_and_shared_jobs_belong_to_every_run(toys):
    plan = toys("costly").job("train-0", 0, ("base", [], {}), gpus=4)
    plan.job("generate-0", 0, ("short", ["base"], {}), gpus=1).job("generate-0", 1, ("long", ["base"], {}), gpus=2)
    plan.job("grade-0", 0, ("grade", ["long"], {}))
    document = plan.document()
    document["runs"] = [
        {"name": "a", "stages": {"generate": plan.key("short")}},
        {"name": "b", "stages": {"grade": {"t": plan.key("grade")}}},
    ]
    found = budget(document, find_profile("slurm", usd_per_gpu_hour=2.0, su_per_gpu_hour=10.0))
    assert round(found.gpu_hours, 6) == round(0.1 * (4 + 1 + 2), 6)
    assert (found.run, round(found.run_gpu_hours, 6)) == ("b", 0.6)
    assert (round(found.usd, 6), round(found.service_units, 6)) == (1.4, 7.0)
    assert "0.7 GPU-hours at most (1 USD, 7 SU); the costliest run is b: 0.6" in str(found)
