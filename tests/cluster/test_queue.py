"""Slurm's answers: fixed fields, every kind of id, unknown words, silence."""

import os
import time

import pytest

from hpc.cluster import queue
from hpc.cluster.queue import State, look, parse_sacct, parse_squeue
from hpc.errors import ClusterError


def test_squeue_lines_of_arrays_and_plain_jobs():
    text = (
        "12|12|N/A|RUNNING|None|2026-11-22T02:00:00|2026-11-22T02:00:01|2026-11-22T03:00:01|one\n"
        "15_3|13|3|PENDING|Dependency|2026-11-22T02:00:00|N/A|N/A|many\n"
        "99|99|N/A|RUNNING|None|2026-11-22T02:00:00|N/A|N/A|some|one|else\n"
    )
    assert parse_squeue(text, {"one", "many"}) == {
        ("one", None): State(
            "RUNNING", "None", "12", "2026-11-22T02:00:00", start="2026-11-22T02:00:01", end="2026-11-22T03:00:01"
        ),
        ("many", 3): State("PENDING", "Dependency", "13_3", "2026-11-22T02:00:00"),
    }


def test_sacct_keeps_the_newest_record_and_expands_waiting_arrays():
    text = (
        "17|NODE_FAIL|0:0|2026-11-22T02:00:00|None|2026-11-22T02:01:00|one\n"
        "17|COMPLETED|0:0|2026-11-22T02:05:00|None|2026-11-22T02:09:00|one\n"
        "18_[2-3,7%2]|CANCELLED by 0|0:0|2026-11-22T02:00:00|Dependency|Unknown|many\n18_1|TIMEOUT|0:0|T|None|T|many\n"
    )
    found = parse_sacct(text, {"one", "many"})
    assert found[("one", None)].word == "COMPLETED"
    assert {i for n, i in found if n == "many"} == {1, 2, 3, 7}
    assert found[("many", 7)].word == "CANCELLED" and found[("many", 1)].over


def test_a_list_of_indices_that_slurm_cut_off_is_no_error():
    assert {i for _, i in parse_sacct("17_[1,3-7:2,...]|PENDING|0:0|T|None|T|many\n", {"many"})} == {1, 3, 5, 7}
    assert {i for _, i in parse_sacct("17_[1,3,5-...]|PENDING|0:0|T|None|T|many\n", {"many"})} == {1, 3}


@pytest.mark.parametrize("word", ["SUSPENDED", "CONFIGURING", "COMPLETING", "SOMETHING_NEW", "REQUEUE_HOLD"])
def test_only_documented_ends_are_ends(word):
    state = State(word, "", "1", "")
    assert not state.over and state.word == word


@pytest.mark.parametrize("word", ["NODE_FAIL", "BOOT_FAIL", "PREEMPTED"])
def test_a_word_seen_on_the_way_back_into_the_queue_is_no_end_for_a_minute(word):
    at = lambda ago: time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - ago))  # noqa: E731
    line = "7|7|N/A|{}|None|2026-11-22T02:00:00|2026-11-22T02:00:01|{}|a\n"
    fresh, old, unknown = (parse_squeue(line.format(word, end), {"a"})[("a", None)] for end in (at(3), at(120), "N/A"))
    assert fresh.settling and not fresh.over
    assert old.over and not old.settling
    assert not unknown.over  # squeue forgets it in minutes; until then nobody takes it for finished
    record = "7|{}|0:0|2026-11-22T02:00:00|None|{}|a\n"
    assert parse_sacct(record.format(word, "Unknown"), {"a"})[("a", None)].over
    assert not parse_sacct(record.format(word, at(3)), {"a"})[("a", None)].over
    assert parse_squeue(line.format("TIMEOUT", at(3)), {"a"})[("a", None)].over


def test_a_job_whose_parent_failed_is_hopeless():
    assert State("PENDING", "DependencyNeverSatisfied", "1", "").hopeless
    assert not State("PENDING", "Dependency", "1", "").hopeless


def test_one_squeue_and_one_sacct_whatever_the_number_of_jobs(monkeypatch):
    calls = []

    def run(command, **options):
        calls.append(command)
        return "" if command[0] == "sacct" else "1|1|N/A|RUNNING|None|T|T|T|n0\n"

    monkeypatch.setattr(queue, "run", run)
    look([(f"n{i}", None) for i in range(50)], 1e9)
    assert [c[0] for c in calls] == ["squeue", "sacct"]
    assert "--starttime" in calls[1] and {"-D", "-P", "-n"} <= set(calls[1])


def test_without_accounting_what_left_the_queue_is_simply_not_there(monkeypatch):
    def run(command, **options):
        if command[0] == "sacct":
            raise ClusterError("sacct failed", why="Slurm accounting storage is disabled", next="x")
        return ""

    monkeypatch.setattr(queue, "run", run)
    assert look([("a", None)], 1e9) == {}


def test_elements_that_left_the_queue_before_their_neighbours_are_looked_up(monkeypatch):
    def run(command, **options):
        return "7_1|COMPLETED|0:0|T|None|T|a\n" if command[0] == "sacct" else "7_2|7|2|RUNNING|None|T|T|T|a\n"

    monkeypatch.setattr(queue, "run", run)
    assert {i: s.word for (_, i), s in look([("a", 1), ("a", 2)], 1e9).items()} == {1: "COMPLETED", 2: "RUNNING"}


def shim(tmp_path, monkeypatch, name, text):
    (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
    (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_a_silent_command_is_an_error_with_a_time(tmp_path, monkeypatch):
    shim(tmp_path, monkeypatch, "squeue", "sleep 20")
    with pytest.raises(ClusterError, match="did not answer in 0 s"):
        queue.run(["squeue"], timeout_s=0.3)


def test_slurm_is_asked_for_full_lists_and_times_that_sort(tmp_path, monkeypatch):
    shim(tmp_path, monkeypatch, "squeue", 'echo "$SLURM_BITSTR_LEN $SLURM_TIME_FORMAT"')
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    assert queue.run(["squeue"]) == "0 standard\n"


def test_a_failing_command_shows_slurms_words(tmp_path, monkeypatch):
    shim(tmp_path, monkeypatch, "squeue", "echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1")
    with pytest.raises(ClusterError) as caught:
        queue.run(["squeue"])
    assert "Unable to contact" in caught.value.why


def test_no_slurm_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="no Slurm") as caught:
        queue.run(["squeue"])
    assert "--on local" in caught.value.next


def test_a_root_with_jobs_of_slurm_on_a_machine_without_it_says_whose_jobs_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="no Slurm") as caught:
        look([("a", None)], 1e9)
    assert "ledger" in caught.value.why and "HPC_ROOT" in caught.value.next and "--on local" not in caught.value.next


def test_variables_of_an_outer_job_do_not_reach_a_new_one(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK", "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "x")
    kept = queue.clean_environment()
    assert "SLURM_CONF" in kept and "SBATCH_ACCOUNT" in kept
    assert not {"SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK"} & kept.keys()
