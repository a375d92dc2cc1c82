"""What Slurm itself does where its manual is silent, and what our jobs rely on. No code of ours runs here.

The clock of the controller goes 20 times faster, so the fixed 120 s before a requeued job starts are 6 s.
"""

import subprocess
import tempfile
import time
from itertools import takewhile
from pathlib import Path

import pytest

from tests.slurm.conftest import cluster, no_fast_clock

pytestmark = [pytest.mark.slurm, pytest.mark.proof_ci]

GONE = {"COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT"}


@pytest.fixture
def sbatch(fast, tmp_path):
    """sbatch(lines, *options) -> job id; output goes to tmp_path/ID.out, of arrays to tmp_path/ID_INDEX.out."""

    def send(lines, *options, user=()):
        script = tmp_path / "script.sh"
        script.write_text(f"#!/bin/bash\n{lines}\n")
        array = any(o.startswith("--array") for o in options)
        out = f"{tmp_path}/{'%A_%a' if array else '%j'}.out"
        words = [
            *user,
            "sbatch",
            "--parsable",
            "--requeue",
            "--open-mode=append",
            "-p",
            "debug",
            "-D",
            str(tmp_path),
            "-o",
            out,
            *options,
        ]
        return fast.out(*words, str(script)).strip()

    return send


def table(box, *jobs):
    """State and reason of every element: {"17_3": ("PENDING", "Dependency")}."""
    text = box.out("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%r|%N")
    rows = [line.split("|") for line in text.splitlines()]
    return {i: (state, reason, node) for i, state, reason, node in rows if i.partition("_")[0] in jobs}


def word(box, job):
    return table(box, job.partition("_")[0]).get(job, ("", "", ""))[0]


def until(true, timeout_s=40):
    end = time.monotonic() + timeout_s
    while not (value := true()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
    return value


def over(box, *jobs):
    until(lambda: (t := table(box, *jobs)) and all(v[0] in GONE for v in t.values()))
    return {i: v[0] for i, v in table(box, *jobs).items()}


def down(box, node):
    """The node dies; its processes too. It comes back by itself when its slurmd is started again."""
    box.call("crash", node)
    box.out("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")


def test_aftercorr_children_need_only_their_own_indices(fast, sbatch):
    """A child array may be a part of its parent's. An element whose index the parent never had waits for all of it."""
    parent = sbatch("sleep 1; [ $SLURM_ARRAY_TASK_ID != 3 ]", "--array=0-5")
    part = sbatch("true", "--array=1,3,5", f"--dependency=aftercorr:{parent}", "--kill-on-invalid-dep=yes")
    more = sbatch("true", "--array=4-7", f"--dependency=aftercorr:{parent}", "--kill-on-invalid-dep=yes")
    assert over(fast, part) == {f"{part}_1": "COMPLETED", f"{part}_3": "CANCELLED", f"{part}_5": "COMPLETED"}
    assert over(fast, more) == {
        **dict.fromkeys([f"{more}_4", f"{more}_5"], "COMPLETED"),
        **dict.fromkeys([f"{more}_6", f"{more}_7"], "CANCELLED"),
    }


def test_aftercorr_children_of_absent_indices_run_when_the_whole_parent_is_done(fast, sbatch):
    parent = sbatch("sleep 0.$((RANDOM % 9)); date +%s.%N", "--array=1,3,5")
    child = sbatch("date +%s.%N", "--array=0-5", f"--dependency=aftercorr:{parent}", "--kill-on-invalid-dep=yes")
    assert set(over(fast, child).values()) == {"COMPLETED"}


@pytest.mark.parametrize("kind", ["aftercorr", "afterok"])
def test_children_of_an_element_on_a_dead_node_wait_until_it_has_run_again(fast, sbatch, kind):
    """Also with --kill-on-invalid-dep: the short NODE_FAIL before a requeue does not count as a failure."""
    parent = sbatch("sleep 3; hostname", "--array=0-1", "--exclusive")
    child = sbatch("true", "--array=0-1", f"--dependency={kind}:{parent}", "--kill-on-invalid-dep=yes")
    node = until(lambda: table(fast, parent).get(f"{parent}_0", ("", "", ""))[2])
    until(lambda: word(fast, f"{parent}_1") == "RUNNING")
    down(fast, node)
    until(lambda: word(fast, f"{parent}_0") == "PENDING")
    assert word(fast, f"{child}_0") == "PENDING"
    fast.call("start", f"slurmd.{node}")
    assert set(over(fast, parent, child).values()) == {"COMPLETED"}


def test_a_child_can_be_pointed_at_the_parents_new_id(fast, sbatch):
    """Without --kill-on-invalid-dep it waits for ever, and its owner may change what it waits for."""
    parent = sbatch("false", "--array=0-1")
    child = sbatch("true", "--array=0-1", f"--dependency=aftercorr:{parent}")
    until(lambda: table(fast, child).get(f"{child}_0", ("", ""))[1] == "DependencyNeverSatisfied")
    again = sbatch("true", "--array=0-1")
    fast.out("scontrol", "update", f"JobId={child}", f"Dependency=aftercorr:{again}")
    assert set(over(fast, child).values()) == {"COMPLETED"}


def test_a_child_of_a_failed_parent_is_cancelled_and_a_new_parent_does_not_revive_it(fast, sbatch):
    parent = sbatch("false", "--array=0-1")
    child = sbatch("true", "--array=0-1", f"--dependency=aftercorr:{parent}", "--kill-on-invalid-dep=yes")
    assert set(over(fast, child).values()) == {"CANCELLED"}
    again = sbatch("true", "--array=0-1")
    over(fast, again)
    assert set(over(fast, child).values()) == {"CANCELLED"}


@pytest.fixture
def nobody(tmp_path):
    """Words before a command that make it run as a user without rights, who may write into tmp_path."""
    for folder in takewhile(lambda f: f != Path(tempfile.gettempdir()), [tmp_path, *tmp_path.parents]):
        folder.chmod(0o777)
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def test_a_user_may_exclude_a_node_for_one_requeued_element(fast, sbatch, nobody):
    """While it runs Slurm refuses; once it waits again it is allowed, and the other elements are not touched."""
    job = sbatch("sleep 2; hostname", "--array=0-1", "--exclusive", user=nobody)
    node = until(lambda: table(fast, job).get(f"{job}_1", ("", "", ""))[2])
    until(lambda: word(fast, f"{job}_1") == "RUNNING")
    update = [*nobody, "scontrol", "update", f"JobId={job}_1", f"ExcNodeList={node}"]
    refused = subprocess.run(update, capture_output=True, text=True, timeout=30)
    assert "Job is no longer pending execution" in refused.stderr
    fast.out(*nobody, "scontrol", "requeue", f"{job}_1")
    until(lambda: word(fast, f"{job}_1") == "PENDING")
    fast.out(*update)
    assert f"ExcNodeList={node}" in fast.out("scontrol", "show", "job", f"{job}_1", "-o")
    assert f"ExcNodeList={node}" not in fast.out("scontrol", "show", "job", f"{job}_0", "-o")
    assert set(over(fast, job).values()) == {"COMPLETED"}
    assert table(fast, job)[f"{job}_1"][2] != node


def test_afterany_waits_for_requeued_elements(fast, sbatch, tmp_path):
    """The last job of a sweep starts when nothing runs any more: not between two starts of an element."""
    job = sbatch("sleep 2; date +%s.%N", "--array=0-2", "--exclusive")
    last = sbatch("date +%s.%N", f"--dependency=afterany:{job}")
    node = until(lambda: table(fast, job).get(f"{job}_0", ("", "", ""))[2])
    until(lambda: word(fast, f"{job}_2") == "RUNNING")
    fast.out("scontrol", "requeue", f"{job}_1")
    down(fast, node)
    until(lambda: word(fast, f"{job}_0") == "PENDING")
    assert word(fast, last) == "PENDING"
    fast.call("start", f"slurmd.{node}")
    assert set(over(fast, job, last).values()) == {"COMPLETED"}
    times = [max(map(float, (tmp_path / f"{job}_{i}.out").read_text().split()[-1:])) for i in range(3)]
    assert float((tmp_path / f"{last}.out").read_text()) > max(times)


def ran(box, sbatch, tmp_path, lines, *options):
    """The output of a batch job, when it is over."""
    job = sbatch(lines, *options)
    over(box, job)
    return (tmp_path / f"{job}.out").read_text()


def codes(text):
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("code ")]


DEATHS = {"kill -KILL $$": 137, "kill -SEGV $$": 139, "kill -ABRT $$": 134, "kill -TERM $$": 143, "exit 87": 87}


def test_srun_tells_by_its_code_how_its_only_rank_died(fast, sbatch, tmp_path):
    lines = "\n".join(f"srun --kill-on-bad-exit=1 --wait=0 bash -c '{does}'; echo code $?" for does in DEATHS)
    assert codes(ran(fast, sbatch, tmp_path, lines)) == list(DEATHS.values())


@pytest.mark.parametrize("does", ["kill -KILL $$", "exit 87"])
def test_the_code_of_several_ranks_is_that_of_the_ranks_which_srun_ended(fast, sbatch, tmp_path, does):
    """srun gives the highest of all, and TERM, which it sends to the others, makes 143: its words tell the root."""
    rank = f"if [ $SLURM_PROCID = 1 ]; then {does}; fi; exec sleep 60"
    text = ran(fast, sbatch, tmp_path, f"srun --kill-on-bad-exit=1 --wait=0 bash -c '{rank}'; echo code $?", "-n", "2")
    assert codes(text) == [143]
    words = [line for line in text.splitlines() if "task 1:" in line]
    assert words and ("Killed" if "KILL" in does else "Exited with exit code 87") in words[0], text


@pytest.mark.parametrize(("own", "expected"), [("exit 0", 137), ("exit 5", 137), ("sleep 9", 137)])
def test_a_rank_that_takes_the_term_of_srun_leaves_the_code_to_the_root(fast, sbatch, tmp_path, own, expected):
    """TERM, and SIGKILL after KillWait for a rank that does not go."""
    rank = f'if [ $SLURM_PROCID = 1 ]; then sleep 0.5; kill -KILL $$; fi; trap "{own}" TERM; sleep 30 & wait; {own}'
    text = ran(fast, sbatch, tmp_path, f"srun --kill-on-bad-exit=1 --wait=0 bash -c '{rank}'; echo code $?", "-n", "2")
    assert codes(text) == [expected], text


def test_of_several_codes_srun_gives_the_highest(fast, sbatch, tmp_path):
    text = ran(fast, sbatch, tmp_path, "srun --wait=0 bash -c 'exit $((3 + SLURM_PROCID))'; echo code $?", "-n", "2")
    assert codes(text) == [4]


def test_srun_can_be_started_again_in_the_same_allocation(fast, sbatch, tmp_path):
    lines = (
        "until srun --kill-on-bad-exit=1 bash -c '[ -e here ] || { touch here; kill -KILL $$; }'; do echo code $?; done"
    )
    assert codes(ran(fast, sbatch, tmp_path, f"cd {tmp_path}; {lines}; echo code $?")) == [137, 0]


GROW = "import os, time; x = bytearray(300 << 20 if os.environ['SLURM_PROCID'] == '0' else 1); time.sleep(5)"


def over_memory(box, tmp_path, ranks):
    script = tmp_path / "script.sh"
    script.write_text(f'#!/bin/bash\nsrun --kill-on-bad-exit=1 --wait=0 python3 -c "{GROW}"; echo code $?\n')
    options = [f"--ntasks={ranks}", "--mem=100M", "-o", f"{tmp_path}/%j.out"]
    job = box.out("sbatch", "--parsable", *options, str(script)).strip()
    over(box, job)
    return (tmp_path / f"{job}.out").read_text()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_rank_killed_for_memory_by_the_kernel(cgroup, tmp_path, ranks):
    """srun's code is 1, and not 137: its words alone tell."""
    text = over_memory(cgroup, tmp_path, ranks)
    assert codes(text) == [1], text
    assert "task 0: Out Of Memory" in text and "oom-kill event" in text


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_rank_killed_for_memory_by_slurm(policed, tmp_path, ranks):
    """All ranks of the job are killed, whoever took the memory."""
    text = over_memory(policed, tmp_path, ranks)
    assert codes(text) == [137], text
    assert "exceeded memory limit" in text


def test_a_requeue_sends_term_to_the_batch_shell_too(fast, sbatch, tmp_path):
    """A shell that does not trap it is gone before the ranks have saved; the job starts again all the same."""
    job = sbatch("trap 'echo told' TERM; for i in 1 2 3 4 5 6; do sleep 0.3; done; echo end")
    until(lambda: word(fast, job) == "RUNNING")
    time.sleep(0.5)
    fast.out("scontrol", "requeue", job)
    assert over(fast, job) == {job: "COMPLETED"}
    assert "told" in (tmp_path / f"{job}.out").read_text().split()


def test_its_owner_may_release_a_job_that_slurm_holds_after_a_failed_launch(monkeypatch, nobody, tmp_path):
    """A prolog that fails (or an id that was given twice) leaves it pending for ever otherwise."""
    if why := no_fast_clock():
        pytest.skip(why)
    flag, prolog = tmp_path / "broken", tmp_path / "prolog"
    prolog.write_text(f"#!/bin/bash\n[ ! -e {flag} ]\n")
    prolog.chmod(0o755)
    flag.touch()
    with cluster(BOX_SPEED="20", BOX_EXTRA=f"Prolog={prolog}\\n") as box:
        words = [*nobody, "sbatch", "--parsable", "-D", "/tmp", "-o", "/dev/null", "--array=0-1", "--wrap", "true"]
        job = box.out(*words).strip()
        held = ("PENDING", "launch failed requeued held", "")
        until(lambda: set(table(box, job).values()) == {held})
        time.sleep(7)
        assert set(table(box, job).values()) == {held}
        flag.unlink()
        for index in (0, 1):
            box.out(*nobody, "scontrol", "release", f"{job}_{index}")
        assert set(over(box, job).values()) == {"COMPLETED"}
