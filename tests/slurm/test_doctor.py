"""The doctor on a real Slurm: drafts a profile that really submits, probes two nodes, sees what is broken."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from hpc.cluster.profile import Place, find_profile
from hpc.cluster.site import build, doctor, draft
from hpc.cluster.status import wait
from hpc.cluster.submit import submit

pytestmark = pytest.mark.slurm
HOME = Path(__file__).parents[2]


@pytest.fixture
def drafted(slurm, tmp_path, monkeypatch):
    """The profile that `doctor --init box` writes, with an empty root."""
    monkeypatch.chdir(tmp_path)
    for name in ("SCRATCH", "PSCRATCH", "WORK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HOME), os.environ.get("PYTHONPATH", "")]))
    path = draft.write("box")
    return find_profile("box", roots=[str(tmp_path / "root")]), path


def by_name(rows):
    found = {}
    for row in rows:
        found.setdefault(row.name, []).append(row)
    return found


def test_a_drafted_profile_says_what_the_cluster_has(drafted):
    profile, path = drafted
    assert (profile.partition, profile.cpu_partition, profile.gpu) == ("gpu", "debug", "h100")
    assert (profile.gpus_per_node, profile.cpus_per_gpu, profile.max_hours) == (8, 12, 48)
    assert (profile.debug.partition, profile.max_array_size) == ("debug", 1001)
    assert "# sinfo" in path.read_text()


def test_a_drafted_profile_really_submits_with_and_without_gpus(drafted, toys, attempts_of):
    profile, _ = drafted
    plan = toys()
    plan.job("train-0", 0, ("model", [], {}), ranks=2, nodes=2, gpus=2, kind="toy")
    plan.job("grade-0", 0, ("grades", ["model"], {}))
    submit(plan.document(), profile)
    state = wait(plan.document(), profile, timeout_s=90)
    assert attempts_of(plan, profile.root) == {"model": (1, 1), "grades": (1, 1)}, state


def test_the_login_node_finds_this_cluster_fit_and_says_what_to_mind(drafted):
    profile, _ = drafted
    found = by_name(doctor.diagnose(profile))
    assert not [r for rows in found.values() for r in rows if r.state == "fail"]
    assert re.search(r"\d+\.\d+", found["slurm"][0].found), "its version"
    assert found["limits at submit"][0].state == "warn", "EnforcePartLimits is NO here"
    assert found["accounting"][0].state == "warn", "there is none here"
    assert found["clock of the controller"][0].state == "ok"
    assert found["gpus of gpu"][0].found == "h100 x 8 on a node"


def test_a_partition_that_is_down_and_a_wrong_type_are_found(drafted, slurm):
    profile, _ = drafted
    slurm.out("scontrol", "update", "PartitionName=preemptible", "State=DOWN")
    try:
        asked = find_profile("box", roots=profile.roots, partition="preemptible", gpu="a100", max_array_size=5000)
        wrong = {r.name: r for r in doctor.diagnose(asked) if r.state == "fail"}
        assert {"partition preemptible", "gpus of preemptible", "array size"} <= set(wrong)
        assert "set gpu: h100" in wrong["gpus of preemptible"].next
    finally:
        slurm.out("scontrol", "update", "PartitionName=preemptible", "State=UP")


def test_preemption_is_told_as_this_cluster_does_it(drafted):
    profile, _ = drafted
    asked = find_profile("box", roots=profile.roots, partition="preemptible")
    row = next(r for r in doctor.diagnose(asked) if r.name == "signal at preemption")
    assert row.state == "warn" and "preemptible REQUEUE with 5 s" in row.found


def test_a_job_probes_two_nodes(drafted):
    profile, _ = drafted
    begin = time.monotonic()
    found = by_name(doctor.job(profile, wait_s=120))
    assert time.monotonic() - begin < 120
    assert not [r for rows in found.values() for r in rows if r.state == "fail"]
    assert {r.where for r in found["node"]} == {"h100-01", "h100-02"}
    assert found["TCP between nodes"][0].state == "ok" and "GB/s" in found["TCP between nodes"][1].found
    assert found["GPUs given"][0].found.startswith("CUDA_VISIBLE_DEVICES=") and found["GPUs given"][0].state == "ok"
    assert (
        "2 ranks" in found["all-reduce between nodes"][0].found
        or "no torch" in found["all-reduce between nodes"][0].found
    )
    assert found["sbatch from nodes"][0].found == "works" and found["scontrol from nodes"][0].found == "works"
    assert "after" in found["new file seen by another node"][0].found
    assert "there and back" in found["files to and from the login node"][0].found
    assert found["root"][0].where == "h100-01, h100-02"


def test_nodes_that_may_not_call_sbatch_are_found(drafted, shim):
    profile, _ = drafted
    refuse = 'case $(hostname) in h100*) echo "sbatch: error: Access/permission denied" >&2; exit 1;; esac'
    shim("sbatch", refuse)
    row = by_name(doctor.job(profile, wait_s=120))["sbatch from nodes"][0]
    assert row.state == "warn" and "Access/permission denied" in row.found and "mend: false" in row.next


def test_a_node_job_without_gpus_needs_one_node(drafted):
    profile, _ = drafted
    cpus = find_profile(
        "box", roots=profile.roots, partition="debug", gpus_per_node=0, memory_gib=4, max_hours=1, hours=1
    )
    found = by_name(doctor.job(cpus, wait_s=120))
    assert len(found["node"]) == 1 and "TCP between nodes" not in found and "GPUs given" not in found


def test_a_setup_line_that_fails_is_told_with_its_words(drafted):
    profile, _ = drafted
    broken = find_profile("box", roots=profile.roots, debug=Place(partition="debug", setup=["no_such_module"]))
    row = by_name(doctor.job(broken, wait_s=60))["job"][0]
    assert row.state == "fail" and "no_such_module" in row.found


def test_a_dead_controller_is_told_within_its_time_limit(drafted, slurm):
    profile, _ = drafted
    slurm.call("kill", "slurmctld")
    try:
        begin = time.monotonic()
        rows = by_name(doctor.diagnose(profile))
        assert time.monotonic() - begin < 60
        assert rows["slurm controller"][0].state == "fail" and "root" in rows, "the local checks go on"
    finally:
        slurm.call("start", "slurmctld")
        for _ in range(100):
            try:
                slurm.out("scontrol", "show", "config")
                break
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired):  # not up yet
                time.sleep(0.2)


@pytest.mark.proof_ci
def test_kernels_are_built_by_a_job(drafted, tmp_path):
    pytest.importorskip("deepspeed")
    profile = find_profile("box", roots=[str(tmp_path / "root")], cache=str(tmp_path / "cache"))
    found = by_name(build.rows(profile))
    assert not [r for rows in found.values() for r in rows if r.state == "fail"], found
    assert "compiled in" in found["kernel CPUAdamBuilder"][0].found and found["kernel CPUAdamBuilder"][0].where
