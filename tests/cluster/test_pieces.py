"""Which sbatch calls a plan becomes, and what each waits for."""

import time

import pytest

from hpc import artifact, files
from hpc.cluster.cover import SETTLING, Cover, Job, look
from hpc.cluster.ledger import Intent, Ledger, Piece
from hpc.cluster.pieces import group, todo
from hpc.cluster.profile import find_profile
from hpc.cluster.submit import _dependency
from hpc.errors import ClusterError


def shapes(plan, profile, cover=None, size=1001):
    cover = cover or Cover()
    groups = group(todo(plan.document(), profile, cover), "NOW", cover, size)
    return [(g.name, sorted(t.index for t in g.jobs), _dependency(g, {})) for g in groups]


@pytest.fixture
def slurm_profile(tmp_path):
    return find_profile("slurm", roots=[str(tmp_path / "root")])


def pairs(toys, number, own=lambda i: i):
    plan = toys()
    for i in range(number):
        plan.job("train-0", i, (f"t{i}", [], {}))
    for i in range(number):
        plan.job("generate-0", i, (f"g{i}", [f"t{own(i)}"], {}))
    return plan


def live(plan, name, element, single=False):
    return Job(element, [plan.key(name)], [], "RUNNING", job_id="17", single=single)


def test_a_child_waits_for_its_own_partner(toys, slurm_profile):
    assert shapes(pairs(toys, 3), slurm_profile) == [
        ("train-0", [0, 1, 2], ""),
        ("generate-0", [0, 1, 2], "aftercorr:ID_OF_train-0"),
    ]


def test_children_of_one_parent_wait_for_it_together(toys, slurm_profile):
    plan = toys().job("data-0", 0, ("base", [], {}))
    for i in range(3):
        plan.job("train-0", i, (f"t{i}", ["base"], {}))
    assert shapes(plan, slurm_profile)[1] == ("train-0", [0, 1, 2], "afterok:ID_OF_data-0")


def test_children_of_one_element_of_an_array_name_it(toys, slurm_profile):
    plan = toys().job("train-0", 0, ("a", [], {})).job("train-0", 1, ("b", [], {}))
    plan.job("generate-0", 0, ("x", ["b"], {})).job("generate-0", 1, ("y", ["b"], {}))
    assert shapes(plan, slurm_profile)[1] == ("generate-0", [0, 1], "afterok:ID_OF_train-0_1")


def test_partners_with_other_indices_are_split_rather_than_mixed_up(toys, slurm_profile):
    found = shapes(pairs(toys, 3, own=lambda i: (i + 1) % 3), slurm_profile)
    assert [f[1:] for f in found[1:]] == [
        ([0], "afterok:ID_OF_train-0_1"),
        ([1], "afterok:ID_OF_train-0_2"),
        ([2], "afterok:ID_OF_train-0_0"),
    ]


def test_children_of_published_parents_wait_for_nothing(toys, slurm_profile, tmp_path):
    plan = pairs(toys, 3)
    cover = Cover(published={plan.key("t1"): tmp_path})
    assert shapes(plan, slurm_profile, cover) == [
        ("train-0", [0, 2], ""),
        ("generate-0", [1], ""),
        ("generate-0-part1", [0, 2], "aftercorr:ID_OF_train-0"),
    ]


def test_running_parents_of_an_earlier_submission_are_waited_for(toys, slurm_profile):
    plan = pairs(toys, 2)
    jobs = [live(plan, "t0", ("OLD", "train-0", 0)), live(plan, "t1", ("OLD", "train-0", 1))]
    cover = Cover(jobs=jobs, live={plan.key("t0"): jobs[0], plan.key("t1"): jobs[1]})
    assert shapes(plan, slurm_profile, cover) == [("generate-0", [0, 1], "aftercorr:ID_OF_train-0")]


def test_indices_stay_below_what_slurm_allows(toys, slurm_profile):
    found = shapes(pairs(toys, 5), slurm_profile, size=2)
    assert [f[:2] for f in found[:3]] == [("train-0", [0, 1]), ("train-0-part1", [0, 1]), ("train-0-part2", [0])]
    assert [f[2] for f in found[3:]] == [
        "aftercorr:ID_OF_train-0",
        "aftercorr:ID_OF_train-0-part1",
        "afterok:ID_OF_train-0-part2",
    ]


def test_a_thousand_runs_are_three_sbatch_calls(toys, slurm_profile):
    plan = pairs(toys, 1000)
    for i in range(1000):
        plan.job("grade-0", i, (f"r{i}", [f"g{i}"], {}))
    assert [len(f[1]) for f in shapes(plan, slurm_profile)] == [1000, 1000, 1000]


def test_an_input_that_nobody_makes_is_an_error(toys, slurm_profile):
    plan = pairs(toys, 1)
    document = plan.document()
    document["arrays"] = document["arrays"][1:]
    with pytest.raises(ClusterError, match="nobody makes"):
        todo(document, slurm_profile, Cover())


def test_a_waiting_child_of_a_dead_parent_does_not_count_as_on_its_way(toys, slurm_profile, monkeypatch):
    plan = pairs(toys, 1)
    ledger = Ledger(slurm_profile.root)
    rows = [
        Piece("train-0", "toy", "name-t", "", {0: {"stages": [plan.key("t0")], "needs": []}}),
        Piece("generate-0", "toy", "name-g", "", {0: {"stages": [plan.key("g0")], "needs": [plan.key("t0")]}}),
    ]
    ledger.intend(Intent("OLD", "toys", "slurm", "slurm", rows))
    ledger.decide("OLD", "train-0", {"job_id": "1"})
    ledger.decide("OLD", "generate-0", {"job_id": "2"})
    answers = {"FAILED": {}, "RUNNING": {plan.key("t0"), plan.key("g0")}}
    for word, expected in answers.items():
        lines = f"1|1|N/A|{word}|None|T|T|T|name-t\n2|2|N/A|PENDING|Dependency|T|N/A|N/A|name-g\n"
        monkeypatch.setattr("hpc.cluster.queue.run", lambda *a, lines=lines, **k: lines)
        assert set(look(plan.document(), slurm_profile).live) == set(expected)


def test_a_job_that_has_just_completed_is_not_submitted_again_before_its_artifact_shows(
    toys, slurm_profile, monkeypatch
):
    plan = pairs(toys, 1)
    ledger = Ledger(slurm_profile.root)
    row = Piece("train-0", "toy", "name-t", "", {0: {"stages": [plan.key("t0")], "needs": []}})
    ledger.intend(Intent("OLD", "toys", "slurm", "slurm", [row]))
    ledger.decide("OLD", "train-0", {"job_id": "1"})
    monkeypatch.setattr("hpc.cluster.queue.run", lambda *a, **k: "1|1|N/A|COMPLETED|None|T|T|T|name-t\n")
    assert not look(plan.document(), slurm_profile).live  # its worker said nothing
    said = slurm_profile.root / "jobs/OLD/state/train-0.0.1.0.json"
    for age_s, expected in ((5, {plan.key("t0")}), (artifact.PATIENCE_S + 5, set())):
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age_s))
        files.write_json(said, {"state": "done", "at": at, "restart": 0, "stages": {plan.key("t0"): "done"}})
        cover = look(plan.document(), slurm_profile)
        assert set(cover.live) == expected
        assert [j.word for j in cover.jobs] == [SETTLING if expected else "COMPLETED"]
