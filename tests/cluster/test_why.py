"""`hpc why` on real jobs of the local profile that fail, and on the reasons for which jobs wait."""

import json
import re
from pathlib import Path

import pytest

from hpc.cluster.failures import evidence, reasons
from hpc.cluster.failures.cures import CAUSES
from hpc.cluster.failures.why import text, why
from hpc.cluster.profile import find_profile
from hpc.cluster.status import cancel, wait
from hpc.cluster.submit import submit
from hpc.errors import ClusterError


@pytest.fixture
def here(tmp_path):
    return find_profile("local", roots=[str(tmp_path / "root")], max_parallel=2, mend=False)


@pytest.fixture
def ran(here):
    """Submit a plan, wait until it is over, and ask why."""

    def run(plan, **asked):
        submit(plan.document(), here)
        wait(plan.document(), here, poll_s=0.1, timeout_s=60)
        return why(plan.document(), here, **asked)

    return run


def broken(tmp_path):
    (tmp_path / "broken").touch()
    return {"fail_while": str(tmp_path / "broken")}


def test_an_exception_is_proven_by_its_line_and_its_attempt_is_listed(toys, here, ran, tmp_path):
    plan = toys().job("a", 0, ("bad", [], broken(tmp_path)), ("good", [], {}))
    (failure,) = ran(plan)["failures"]
    assert (failure["cause"], failure["cure"]) == ("bug", "stop")
    assert failure["exception"] == "RuntimeError: told to fail"
    assert [s["key"] for s in failure["stages"]] == [plan.key("bad")]
    assert failure["stages"][0]["runs"] == ["toy_s0"]
    proof = failure["proof"][0]
    assert Path(proof["path"]).read_text().split("\n")[proof["line"] - 1] == proof["text"]
    assert proof["text"] == "RuntimeError: told to fail"
    attempts = [t for t in failure["tried"] if t["what"] == "attempt"]
    assert [(t["number"], t["words"]) for t in attempts] == [(1, "RuntimeError: told to fail")]


def test_a_cancelled_child_points_to_the_parent_that_failed(toys, here, ran, tmp_path):
    plan = toys().job("a", 0, ("bad", [], broken(tmp_path)), ("late", ["bad"], {}))
    plan.job("b", 0, ("child", ["bad"], {})).job("c", 0, ("grandchild", ["child"], {}))
    (failure,) = ran(plan)["failures"]
    assert [s["key"] for s in failure["stages"]] == [plan.key("bad")]
    assert set(failure["dependents"]) == {plan.key(n) for n in ("late", "child", "grandchild")}
    (of_child,) = why(plan.document(), here, key=plan.key("grandchild"))["failures"]
    assert (of_child["cause"], of_child["dependents"]) == ("bug", [plan.key("grandchild")])
    assert [s["key"] for s in of_child["stages"]] == [plan.key("bad")]


def test_equal_causes_are_one_group_and_others_are_not(toys, here, ran, tmp_path):
    plan = toys()
    for index in range(3):
        plan.job("a", index, (f"bad{index}", [], broken(tmp_path)))
    plan.job("b", 0, ("odd", [], {"no_such_input": 1, "steps": "three"}))
    failures = ran(plan)["failures"]
    assert [len(f["stages"]) for f in failures] == [3, 1]
    assert failures[1]["exception"].startswith("TypeError: ")


def test_what_users_read_names_file_line_and_next_command(toys, here, ran, tmp_path):
    plan = toys().job("a", 0, ("bad", [], broken(tmp_path)))
    found = ran(plan)
    shown = text(found, "sweeps/toys.yaml", here.root)
    proof = found["failures"][0]["proof"][0]
    assert f"{Path(proof['path']).relative_to(here.root)}:{proof['line']}: RuntimeError: told to fail" in shown
    assert "bug, 1 stage" in shown and "attempt 1" in shown
    named = why(plan.document(), here, x="sweeps/toys.yaml lr=1 --smoke", plain="sweeps/toys.yaml lr=1")
    assert "hpc submit sweeps/toys.yaml lr=1 --smoke" in text(named, "", here.root)
    json.dumps(found, allow_nan=False)


def test_an_attempt_of_an_earlier_submission_is_listed_but_does_not_decide(toys, here, ran, tmp_path):
    plan = toys().job("a", 0, ("bad", [], broken(tmp_path)))
    ran(plan)
    log = next((here.root / "logs").glob("*/*/*-0.out"))
    log.write_text(log.read_text() + "slurmstepd: error: Detected 1 oom_kill event in StepId=17.0.\n")
    assert why(plan.document(), here)["failures"][0]["cause"] == "host_oom"  # so it is read
    (failure,) = ran(plan)["failures"]
    assert failure["cause"] == "bug"
    assert [t["number"] for t in failure["tried"] if t["what"] == "attempt"] == [1, 2]


def test_a_cancelled_job_says_who_did_it(toys, here):
    plan = toys().job("a", 0, ("slow", [], {"seconds": 30}))
    submit(plan.document(), here)
    cancel(plan.document(), here)
    wait(plan.document(), here, poll_s=0.1, timeout_s=60)
    (failure,) = why(plan.document(), here)["failures"]
    assert failure["cause"] == "cancelled" and "hpc cancel" in failure["words"]


def test_a_healthy_plan_has_nothing_to_explain(toys, here, ran):
    plan = toys().job("a", 0, ("good", [], {}))
    found = ran(plan)
    assert (found["failures"], found["pending"]) == ([], [])
    assert "nothing failed" in text(found, "toys", here.root)


def test_an_unknown_run_or_stage_lists_the_valid_ones(toys, here):
    plan = toys().job("a", 0, ("x", [], {}))
    with pytest.raises(ClusterError, match='no run "toy_s1"') as caught:
        why(plan.document(), here, run="toy_s1")
    assert "toy_s0" in caught.value.why
    with pytest.raises(ClusterError, match="no stage"):
        why(plan.document(), here, key="0")


def test_a_waiting_stage_says_what_it_waits_for(toys, here):
    plan = toys().job("a", 0, ("slow", [], {"seconds": 30})).job("b", 0, ("child", ["slow"], {}))
    submit(plan.document(), here)
    try:
        found = why(plan.document(), here, key=plan.key("child"))
    finally:
        cancel(plan.document(), here)
        wait(plan.document(), here, poll_s=0.1, timeout_s=60)
    (waiting,) = found["pending"]
    assert waiting["stages"] == [plan.key("child")] and waiting["next"]


REASONS = [
    ("Priority", "ahead"),
    ("Resources", "free nodes"),
    ("(ReqNodeNotAvail, UnavailableNodes:cpu-02)", "drained"),
    ("PartitionTimeLimit", "never start"),
    ("QOSMaxGRESPerUser", "limit for one user"),
    ("QOSMaxJobsPerUserLimit", "limit for one user"),
    ("AssocGrpCPUMinutesLimit", "budget"),
    ("AssocGrpGRESRunMinutes", "budget"),
    ("AssocGrpGRES", "fill its limit"),
    ("DependencyNeverSatisfied", "failed"),
    ("Dependency", "make its inputs"),
    ("None", "not looked"),
    ("BeginTime", "two minutes"),
    ("JobHeldUser", "hold"),
    ("JobHeldAdmin", "staff"),
    ("launch failed requeued held", "could not start"),
    ("JobArrayTaskLimit", "array_throttle"),
    ("InvalidQOS", "never start"),
]


@pytest.mark.parametrize(("reason", "part"), REASONS)
def test_a_reason_of_slurms_is_told_in_plain_words(reason, part):
    words, advice = reasons.explain(reason)
    assert part in words and advice and advice != reasons.OTHER


def test_a_reason_that_slurm_invents_later_is_shown_verbatim():
    words, advice = reasons.explain("MoonPhase")
    assert "MoonPhase" in words and advice == reasons.OTHER


def test_every_command_that_is_advised_is_one_and_names_the_plan():
    advice = [*(c.next for c in CAUSES.values()), *(r[2] for r in reasons.REASONS), reasons.OTHER]
    found = [m for a in advice for m in re.findall(r"\bhpc (\w+)( \{x\}| \{plain\})?", a)]
    assert len(found) > 30
    for verb, named in (f for f in found if f[0] != "is"):  # the environment that hpc is installed in
        assert named == {"fetch": " {plain}", "doctor": "", "gc": ""}.get(verb, " {x}"), verb
        assert verb in ("submit", "status", "logs", "why", "cancel", "fetch", "doctor", "gc")


SACCT = """\
17_3|FAILED|toys.a-0.1f
17_3.batch|FAILED|batch
17_3.0|OUT_OF_MEMORY|python
17_4|COMPLETED|toys.a-0.1f
17_4.0|COMPLETED|python
18|CANCELLED by 0|toys.b-0.1f
18.0|CANCELLED by 0|python
19|FAILED|strange
19.0|FAILED|python
"""


def test_steps_are_found_by_the_names_of_their_jobs():
    found = evidence.parse_steps(SACCT, {"toys.a-0.1f", "toys.b-0.1f"})
    assert found == {
        ("toys.a-0.1f", 3): ["FAILED", "OUT_OF_MEMORY"],
        ("toys.a-0.1f", 4): ["COMPLETED"],
        ("toys.b-0.1f", None): ["CANCELLED"],
    }


def test_a_long_log_is_read_from_its_end_with_right_line_numbers(tmp_path):
    path = tmp_path / "0-1.0.0-0.out"
    path.write_text("".join(f"line {n}\n" for n in range(1, 2001)))
    log = evidence.tail(path, 100)
    lines = log.text.split("\n")
    assert lines[0] == f"line {log.first}" and lines[-2] == "line 2000" and len(log.text) <= 100
    assert evidence.tail(tmp_path / "absent") is None


BATCH = """\
======== job 17 restart 0 on n1, 2026-11-22T05:00:00Z
srun: error: n1: task 0: Segmentation fault
hpc: start 17.0.0 failed with code 139: native code crashed -> here
srun: error: n1: task 0: Bus error
hpc: start 17.0.1 failed with code 135: shared memory -> stop
======== job 17 restart 1 on n2, 2026-11-22T05:10:00Z
slurmstepd: error: *** JOB 17 ON n2 CANCELLED AT 2026-11-22T05:20:00 DUE TO TIME LIMIT ***
"""


@pytest.mark.parametrize(
    ("start", "first", "words"),
    [("17.0.0", 1, "Segmentation fault"), ("17.0.1", 4, "Bus error"), ("17.1.0", 6, "TIME LIMIT")],
)
def test_of_the_batch_log_only_the_lines_of_the_start_count(tmp_path, start, first, words):
    logs = tmp_path / "logs" / "S" / "a-0"
    logs.mkdir(parents=True)
    (logs / "0-17.batch.out").write_text(BATCH)
    (log,) = evidence.of_start(tmp_path, "S", "a-0", 0, start).logs
    assert log.first == first and words in log.text
    assert sum(w in log.text for w in ("Segmentation fault", "Bus error", "TIME LIMIT")) == 1


def test_the_newest_start_is_taken_by_its_numbers_and_other_elements_are_left_alone(tmp_path):
    logs = tmp_path / "logs" / "S" / "a-0"
    logs.mkdir(parents=True)
    for name in ("1-17.2.0-0", "1-17.10.0-0", "1-17.10.0-1", "1-17.9.3-0", "11-17.30.0-0"):
        (logs / f"{name}.out").write_text(name)
    assert [log.text for log in evidence.of_start(tmp_path, "S", "a-0", 1).logs] == ["1-17.10.0-0", "1-17.10.0-1"]


def test_nothing_there_is_no_error(tmp_path):
    found = evidence.of_start(tmp_path, "S", "a-0", 0)
    assert (found.logs, found.failures, found.hosts) == ([], [], [])
