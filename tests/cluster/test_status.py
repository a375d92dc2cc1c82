"""What `hpc status`, `--watch` and `hpc logs` say: of real local jobs, and of what Slurm may answer."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from hpc import files
from hpc.cluster import logs as reading
from hpc.cluster import text, watch
from hpc.cluster.failures.why import why
from hpc.cluster.ledger import Ledger
from hpc.cluster.profile import find_profile
from hpc.cluster.progress import eta_s, progress
from hpc.cluster.status import cancel, logs, status, wait
from hpc.cluster.submit import submit
from hpc.errors import ClusterError


@pytest.fixture
def here(tmp_path):
    return find_profile("local", roots=[str(tmp_path / "root")], max_parallel=2)


def until(true, timeout_s=30):
    end = time.monotonic() + timeout_s
    while not (value := true()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return value


class Slurm:
    """Slurm's clients as scripts that print what the test wants; sbatch takes everything."""

    def __init__(self, folder, root):
        self.folder = folder
        folder.mkdir()
        for name, line in {"sbatch": "echo Submitted batch job 77", "srun": "true", "scancel": "true"}.items():
            self.write(name, line)
        self.says()
        self.profile = find_profile("slurm", roots=[str(root)], mend=False)

    def write(self, name, line):
        (self.folder / name).write_text(f"#!/bin/bash\n{line}\n")
        (self.folder / name).chmod(0o755)

    def says(self, squeue="", sacct=""):
        for name, answer in (("squeue", squeue), ("sacct", sacct)):
            (self.folder / f"{name}.txt").write_text(answer)
            self.write(name, f"cat {self.folder}/{name}.txt")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return Slurm(tmp_path / "bin", tmp_path / "root")


def line(name, word, *, job="77", index="N/A", reason="None", start="N/A", end="N/A"):
    return f"{job}|{job.partition('_')[0]}|{index}|{word}|{reason}|2026-11-22T02:00:00|{start}|{end}|{name}\n"


def ago(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - seconds))


def one(plan, state, name):
    return state["stages"][plan.key(name)]


# progress


def written(tmp_path, *lines):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.jsonl").write_text("".join(lines))
    return progress(tmp_path)


def test_progress_is_the_last_whole_row_with_the_time_that_is_left(tmp_path):
    rows = [json.dumps({"step": s, "steps": 100, "loss": 2.0, "seconds": 60 + 2.0 * s}) + "\n" for s in range(1, 51)]
    found = written(tmp_path, *rows, '{"step": 51, "lo')
    assert (found["step"], found["steps"], found["loss"]) == (50, 100, 2.0)
    assert found["eta_s"] == 100.0  # by the last rows: the minute before the first step counts no more


def test_a_loss_that_is_no_number_is_shown_and_is_valid_json(tmp_path):
    found = written(tmp_path, '{"step": 3, "loss": NaN}\n')
    assert found["loss"] == "NaN" and json.dumps(found, allow_nan=False)
    assert "eta_s" not in found


def test_counted_work_has_progress_too(tmp_path):
    files.write_json(tmp_path / "progress.json", {"done": 25, "total": 100, "seconds": 10.0})
    found = progress(tmp_path)
    assert (found["done"], found["total"], found["eta_s"]) == (25, 100, 30.0)
    assert eta_s([{"step": 5}]) is None and eta_s([{"done": 0, "total": 9, "seconds": 1.0}]) is None


# states


def test_a_failed_attempt_is_not_final_while_its_job_goes_on(toys, here, tmp_path):
    (tmp_path / "broken").touch()
    bad = ("bad", [], {"fail_while": str(tmp_path / "broken")})
    plan = toys().job("a", 0, bad, ("good", [], {"seconds": 2}))
    submit(plan.document(), here)
    until(lambda: one(plan, status(plan.document(), here), "good").get("step") == 0)
    now = one(plan, status(plan.document(), here), "bad")
    assert now["state"] == "running" and now["type"] == "RuntimeError"
    assert now["reason"] == "attempt 1 failed (RuntimeError: told to fail); its job goes on"
    done = wait(plan.document(), here, poll_s=0.2, timeout_s=40)
    assert (one(plan, done, "bad")["state"], one(plan, done, "bad")["reason"]) == ("failed", "told to fail")


@pytest.mark.parametrize("word", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL"])
def test_a_job_on_its_way_back_into_the_queue_is_not_submitted_again(toys, slurm, word):
    plan = toys().job("a", 0, ("x", [], {}))
    (array,) = submit(plan.document(), slurm.profile).arrays
    slurm.says(line(array["job_name"], word, end=ago(2)))
    now = one(plan, status(plan.document(), slurm.profile), "x")
    assert now["state"] == "pending" and word in now["reason"]
    assert submit(plan.document(), slurm.profile).jobs == 0
    slurm.says(line(array["job_name"], word, end=ago(200)))
    assert one(plan, status(plan.document(), slurm.profile), "x")["state"] == "failed"
    assert submit(plan.document(), slurm.profile).jobs == 1


@pytest.mark.parametrize(
    "said, state, reason",
    [("failed", "failed", "FAILED"), ("left", "cancelled", "CANCELLED"), ("running", "failed", "no longer knows")],
)
def test_a_job_that_slurm_forgot_is_judged_by_its_own_words(toys, slurm, said, state, reason):
    plan = toys().job("a", 0, ("x", [], {}))
    sent = submit(plan.document(), slurm.profile)
    report = {"state": "running", "stages": {}, "host": "n", "at": "2026-11-22T02:00:00Z", "restart": 0}
    folder = slurm.profile.root / "jobs" / sent.submission / "state"
    files.write_json(folder / "a.0.77.0.0.json", report)
    files.write_json(folder / "a.0.77.1.0.json", {**report, "state": said, "restart": 1})
    now = one(plan, status(plan.document(), slurm.profile), "x")
    assert now["state"] == state and reason in now["reason"]


def test_a_forgotten_job_that_said_done_is_waited_for_while_its_files_may_be_late(toys, slurm):
    plan = toys().job("a", 0, ("x", [], {}))
    sent = submit(plan.document(), slurm.profile)
    report = {"state": "done", "stages": {}, "host": "n", "restart": 0}
    path = slurm.profile.root / "jobs" / sent.submission / "state" / "a.0.77.0.0.json"
    files.write_json(path, {**report, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
    assert one(plan, status(plan.document(), slurm.profile), "x")["state"] == "running"
    files.write_json(path, {**report, "at": "2026-01-01T00:00:00Z"})
    assert one(plan, status(plan.document(), slurm.profile), "x")["state"] == "failed"


def test_a_thousand_runs_among_twenty_thousand_foreign_jobs_cost_little(toys, slurm):
    plan = toys()
    for i in range(1000):
        plan.job("train-0", i, (f"t{i}", [], {}))
    document = plan.document()
    run = document["runs"][0]
    document["runs"] = [{**run, "name": n, "stages": {"toy": {n: plan.key(n)}}} for n in plan.stages]
    sent = submit(document, slurm.profile)
    name = sent.arrays[0]["job_name"]
    foreign = "".join(line(f"other-{i}", "RUNNING", job=str(9000 + i)) for i in range(20_000))
    words = ["RUNNING"] * 500 + ["PENDING"] * 500
    own = "".join(line(name, word, job=f"77_{i}", index=str(i)) for i, word in enumerate(words))
    slurm.says(foreign + own)
    row = {"submission": sent.submission, "piece": "train-0", "restart": 0}
    for i in range(500):
        attempt = slurm.profile.root / "work" / "toy" / plan.key(f"t{i}") / "1"
        (attempt / "out").mkdir(parents=True)
        (attempt / "attempt.json").write_text(json.dumps({**row, "index": i}))
        rows = [{"step": s, "steps": 99, "loss": 1.0, "seconds": 2.0 * s} for s in range(50)]
        (attempt / "out" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    before = cpu_s()
    found = status(document, slurm.profile)
    text.status(found, Console(file=io.StringIO(), width=200))
    assert cpu_s() - before < 0.5
    assert found["totals"] == {"running": 500, "pending": 500} and one(plan, found, "t7")["eta_s"] == 100.0


def cpu_s():
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


# the table


def shown(state):
    out = io.StringIO()
    text.status(state, Console(file=out, width=220))
    return out.getvalue()


def stage(state, **fields):
    return {"stage": "train", "recipe": "r", "task": None, "state": state, **fields}


def test_a_run_says_how_far_it_is_and_why_not_further():
    stages = {
        "a": stage("running", step=20, steps=80, eta_s=7509, loss=1.25, tokens_per_s=1234.4, job="7_1", attempts=1),
        "b": stage(
            "pending", reason="QOSMaxGRESPerUser", start="2026-11-22T09:30:00", job="7_2", attempts=3, restarts=2
        ),
        "c": stage("failed", reason="ValueError: no\nsecond line", job="7_3"),
        "d": stage("published"),
    }
    runs = [{"name": f"run-{k}", "state": s["state"], "stages": {"train": k}} for k, s in stages.items()]
    totals = {"running": 1, "pending": 1, "failed": 1, "published": 1}
    out = shown({"name": "n", "profile": "p", "runs": runs, "stages": stages, "totals": totals})
    rows = {row.split()[1]: row for row in out.splitlines() if "run-" in row}
    assert list(rows) == ["run-c", "run-a", "run-b", "run-d"]  # what needs a look comes first
    for cell in ("20/80", "2:05:09", "1.25", "1,234", "7_1"):
        assert cell in rows["run-a"]
    for cell in (
        "11-22 09:30",
        "limit for one user or one job of the QoS or the account (QOSMaxGRESPerUser)",
        "3 (2 requeued)",
    ):
        assert cell in rows["run-b"]
    assert "ValueError: no" in rows["run-c"] and "second line" not in rows["run-c"]
    assert "train" not in rows["run-d"]


def test_markup_in_a_reason_is_text():
    state = {"runs": [{"name": "r", "state": "failed", "stages": {"train": "a"}}], "totals": {"failed": 1}}
    out = shown({**state, "name": "n", "profile": "p", "stages": {"a": stage("failed", reason="[/bold] [red]x")}})
    assert "[/bold] [red]x" in out


@pytest.mark.parametrize(
    "reason, words",
    [
        ("Dependency", "make its inputs"),
        ("ReqNodeNotAvail, UnavailableNodes:h100-02", "down, drained or reserved"),
        ("AssocGrpGRESMinutes", "used up"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_slurms_reasons_are_told_in_words(reason, words):
    told = text.words(stage("pending", reason=reason))
    assert words in told and reason in told
    assert text.words(stage("failed", reason="Resources of no progress")) == "Resources of no progress"


def test_the_list_below_the_table_has_words_and_first_lines_and_an_end():
    bad = {f"k{i}": stage("failed", reason="ValueError: no\nsecond line") for i in range(text.SHOWN + 5)}
    stages = {"c": stage("cancelled", reason="DependencyNeverSatisfied"), **bad}
    runs = [{"name": "r", "state": "failed", "stages": {"train": k}} for k in stages]
    state = {"name": "n", "profile": "p", "runs": runs, "stages": stages, "totals": {"failed": len(bad)}}
    rows = [row for row in shown(state).splitlines() if row.startswith("  train ")]
    assert len(rows) == text.SHOWN and "second line" not in shown(state) and "... and 6 more" in shown(state)
    assert "will never start (DependencyNeverSatisfied)" in rows[0]
    said = text.failures(state, "x lr=1", listed=False)
    assert len(said.splitlines()) == text.SHOWN + 3 and "second line" not in said and "hpc submit x lr=1" in said
    assert len(text.failures(state, "x", listed=True).splitlines()) == 2  # the table has named them


@pytest.mark.parametrize("reason", ["None", "Dependency", "Priority"])
def test_what_a_job_waited_for_is_not_why_it_was_cancelled(toys, slurm, reason):
    plan = toys().job("a", 0, ("x", [], {}))
    (array,) = submit(plan.document(), slurm.profile).arrays
    slurm.says(line(array["job_name"], "CANCELLED", reason=reason))
    assert one(plan, status(plan.document(), slurm.profile), "x")["reason"] == "CANCELLED"
    slurm.says(line(array["job_name"], "PENDING", reason=reason))
    assert cancel(plan.document(), slurm.profile).own == 1
    slurm.says(line(array["job_name"], "CANCELLED", reason=reason))
    assert one(plan, status(plan.document(), slurm.profile), "x")["reason"] == "hpc cancel"
    (failure,) = why(plan.document(), slurm.profile)["failures"]
    assert failure["words"].endswith(": hpc cancel")


def test_a_job_whose_parent_was_cancelled_says_so(toys, slurm):
    plan = toys().job("a", 0, ("x", [], {})).job("b", 0, ("y", ["x"], {}))
    first, second = submit(plan.document(), slurm.profile).arrays
    slurm.says(line(first["job_name"], "FAILED") + line(second["job_name"], "CANCELLED", reason="Dependency"))
    found = status(plan.document(), slurm.profile)
    assert one(plan, found, "y")["reason"] == "DependencyNeverSatisfied"
    assert one(plan, found, "x")["reason"] == "FAILED"


def test_a_cancel_takes_the_mender_along_once_it_has_nothing_to_wait_for(toys, slurm, tmp_path):
    profile = replace(slurm.profile, mend=True)
    slurm.write("scancel", f'echo "$@" >> {tmp_path}/cancelled')
    plan = toys().job("a", 0, ("x", [], {})).job("b", 0, ("y", [], {}))
    sent = submit(plan.document(), profile)
    first, second = (a["job_name"] for a in sent.arrays)
    mender = next(p.job_name for i in Ledger(profile.root).intents for p in i.pieces if p.name == "mend")
    rows = [line(first, "RUNNING", job="71"), line(second, "PENDING", job="72"), line(mender, "PENDING", job="73")]
    slurm.says("".join(rows))
    one_stage = {**plan.document(), "stages": [plan.stages["x"]]}
    assert cancel(one_stage, profile) == (1, 0, 0, 0)
    assert cancel(plan.document(), profile) == (1, 0, 1, 0)
    assert (tmp_path / "cancelled").read_text().splitlines() == ["71", "72 73"]
    assert (sent.submission, "mend", 0) in Ledger(profile.root).withdrawn


# --watch


def test_watching_without_a_terminal_writes_lines_and_ends(toys, here):
    plan = toys().job("a", 0, ("x", [], {"seconds": 0.5}))
    submit(plan.document(), here)
    out = io.StringIO()
    state = watch.watch(plan.document(), here, Console(file=out, width=200), every_s=0.1)
    lines = out.getvalue().splitlines()
    assert state["totals"] == {"published": 1} and lines[-1] == "toys on local: 1 published"
    assert len(lines) == len(set(lines)) >= 2


def test_ctrl_c_ends_a_watch_without_a_traceback_and_leaves_the_jobs(toys, here, tmp_path):
    plan = toys().job("a", 0, ("x", [], {"seconds": 4}))
    submit(plan.document(), here)
    files.write_json(tmp_path / "plan.json", plan.document())
    code = (
        "import sys\nfrom pathlib import Path\nfrom rich.console import Console\nfrom hpc import files\n"
        "from hpc.cluster import profile, watch\n"
        "here = profile.find_profile('local', roots=[sys.argv[1]])\n"
        "plan = files.read_json(Path(sys.argv[2]))\n"
        "state = watch.watch(plan, here, Console(force_terminal=True, width=120), every_s=0.2)\n"
        "print('left with', state['totals'])\n"
    )
    command = [sys.executable, "-c", code, str(here.root), str(tmp_path / "plan.json")]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    until(lambda: b"toy_s0" in (tmp_path / "out").read_bytes())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    said = (tmp_path / "out").read_text()
    assert "Traceback" not in said and "left with" in said
    assert wait(plan.document(), here, poll_s=0.2, timeout_s=40)["totals"] == {"published": 1}


# logs


def log_folder(profile, sent, piece="a"):
    folder = profile.root / "logs" / sent.submission / piece
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_the_newest_start_of_the_right_rank_is_the_log(toys, slurm):
    plan = toys().job("a", 0, ("x", [], {})).job("a", 1, ("y", [], {}))
    folder = log_folder(slurm.profile, submit(plan.document(), slurm.profile))
    (folder / "0-77.batch.out").write_text("module: not found")
    assert logs(plan.document(), slurm.profile, plan.key("x")).name == "0-77.batch.out"  # no start came to life
    for name in ("0-77.0.0-0", "0-77.0.1-0", "0-77.1.0-0", "0-77.1.0-1", "0-9.3.0-0", "10-77.5.0-0", "1-77.7.0-0"):
        (folder / f"{name}.out").write_text(name)
    assert logs(plan.document(), slurm.profile, plan.key("x")).name == "0-77.1.0-0.out"
    assert logs(plan.document(), slurm.profile, plan.key("x"), rank=1).name == "0-77.1.0-1.out"
    assert logs(plan.document(), slurm.profile, plan.key("x"), batch=True).name == "0-77.batch.out"
    assert logs(plan.document(), slurm.profile, plan.key("y")).name == "1-77.7.0-0.out"
    with pytest.raises(ClusterError, match="no rank 2") as caught:
        logs(plan.document(), slurm.profile, plan.key("x"), rank=2)
    assert "0, 1" in caught.value.why


def test_an_attempt_has_the_log_of_its_own_start(toys, here, tmp_path):
    plan = toys().job("a", 0, ("x", [], {}))
    (tmp_path / "broken").touch()
    broken = toys().job("a", 0, ("x", [], {"fail_while": str(tmp_path / "broken")}))
    submit(broken.document(), here)
    wait(broken.document(), here, poll_s=0.1, timeout_s=30)
    (tmp_path / "broken").unlink()
    submit(plan.document(), here)
    wait(plan.document(), here, poll_s=0.1, timeout_s=30)
    first = logs(plan.document(), here, plan.key("x"), attempt=1)
    last = logs(plan.document(), here, plan.key("x"))
    assert "told to fail" in first.read_text() and "told to fail" not in last.read_text()
    with pytest.raises(ClusterError, match="no attempt 9") as caught:
        logs(plan.document(), here, plan.key("x"), attempt=9)
    assert caught.value.why.startswith("attempts: 1, 2")


def test_a_follower_sees_every_start_and_ends_with_the_stage(toys, here):
    plan = toys().job("a", 0, ("x", [], {"seconds": 0.2, "steps": 12}))
    sent = submit(plan.document(), here)
    heard = []
    follower = threading.Thread(
        target=lambda: heard.extend(reading.follow(plan.document(), here, plan.key("x"), poll_s=0.1)), daemon=True
    )
    follower.start()
    work = here.root / "work" / "toy" / plan.key("x")
    until(lambda: (work / "1" / "out" / "metrics.jsonl").exists() and heard)
    os.kill(files.read_json(work / "1" / "attempt.json")["pid"], signal.SIGUSR2)  # saves, and asks for a restart
    wait(plan.document(), here, poll_s=0.1, timeout_s=40)
    follower.join(timeout=10)
    assert not follower.is_alive()
    said = "".join(heard)
    heads = [Path(row.split()[1]) for row in said.splitlines() if row.startswith("==> ")]
    assert len(heads) == 2 and heads == sorted(heads) and sent.submission in str(heads[0])
    assert said.index("attempt 1,") < said.index(str(heads[1])) < said.index("attempt 2,")
    assert said.rstrip().endswith("published")


@pytest.mark.parametrize("block", [7, 64, 1 << 20])
def test_a_long_log_is_read_in_blocks_and_comes_whole(tmp_path, monkeypatch, block):
    monkeypatch.setattr(reading, "BLOCK", block)
    path, lines = tmp_path / "log", "".join(f"line {i} é\n" for i in range(50)) + "no end"
    path.write_text(lines)
    pieces = list(reading.blocks(path))
    assert "".join(pieces) == lines and max(map(len, pieces)) <= block
    text, position = reading._read(path, 0, all=False)
    assert len(text) <= block and (block < 64 or text.endswith("\n"))
    while piece := reading._read(path, position, all=True)[0]:
        text, position = text + piece, reading._read(path, position, all=True)[1]
    assert text.replace("\ufffd", "") == lines.replace("é", "") if "\ufffd" in text else text == lines


def test_a_key_that_no_stage_has_is_answered_with_those_there_are(toys, here):
    plan = toys().job("a", 0, ("x", [], {}))
    for read in (lambda k: logs(plan.document(), here, k), lambda k: next(reading.follow(plan.document(), here, k))):
        with pytest.raises(ClusterError, match='there is no stage "0"') as caught:
            read("0")
        assert plan.key("x") in caught.value.why


def test_following_what_was_never_submitted_says_so(toys, here):
    plan = toys().job("a", 0, ("x", [], {}))
    with pytest.raises(ClusterError, match="never submitted"):
        next(reading.follow(plan.document(), here, plan.key("x")))
