"""What `hpc gc` finds and deletes, on roots that real jobs of the local profile have filled."""

import errno
import io
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from hpc import artifact, files
from hpc.cluster.ledger import Intent, Ledger, Piece, new_submission
from hpc.cluster.profile import find_profile
from hpc.cluster.status import cancel, status, wait
from hpc.cluster.submit import submit
from hpc.cluster.tidy import gc, heap
from hpc.cluster.tidy import uses as using
from hpc.errors import ClusterError
from hpc.plan import room

DAY = 86400


@pytest.fixture
def here(tmp_path):
    return find_profile("local", roots=[str(tmp_path / "root")], max_parallel=2)


def later(days=2.0):
    return time.time() + days * DAY


def until(true, timeout_s=30):
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def made(plan, here):
    submit(plan.document(), here)
    assert set(wait(plan.document(), here, poll_s=0.1, timeout_s=60)["totals"]) == {"published"}
    until(lambda: not using.look(here).making)  # a job ends a moment after its last publication
    return plan


def pair(toys):
    return toys().job("a", 0, ("base", [], {})).job("b", 0, ("top", ["base"], {}))


def work(here, plan, name, number=1):
    return here.root / "work/toy" / plan.key(name) / str(number)


def find(here, *kinds, days=2.0, older=1.0):
    return [i for i in heap.look(here, older_days=older, now=later(days)) if i.kind in (kinds or heap.KINDS)]


def checkpoint(attempt, step, num_bytes=1000, **layout):
    folder = attempt / "checkpoints" / f"step_{step}"
    folder.mkdir(parents=True)
    (folder / "shard").write_bytes(b"x" * num_bytes)
    files.write_json(folder / "COMPLETE", {"step": step, **layout})


def counted(paths):
    """Bytes and names below some paths, by another way than the module's."""
    lines = subprocess.run(["find", *map(str, paths), "-printf", "%y %s\n"], capture_output=True, text=True).stdout
    rows = [line.split() for line in lines.splitlines()]
    return sum(int(size) for kind, size in rows if kind != "d"), len(rows)


def test_scratch_of_published_stages_is_counted_and_deleted_and_their_records_stay(toys, here):
    plan = made(pair(toys), here)
    checkpoint(work(here, plan, "base"), 4)
    files.write_json(work(here, plan, "base") / "failure.3.json", {"type": "Hung"})
    found = {i.key: i for i in find(here, "finished")}
    assert set(found) == {plan.key("base"), plan.key("top")}
    item = found[plan.key("base")]
    assert {p.name for p in item.parts} == {"checkpoints", "rank0", "saved"}
    assert (item.bytes, item.inodes) == counted(item.parts) and item.bytes > 1000 and item.mine
    assert set(gc.sweep(here, find(here)).items) >= set(found.values())
    assert sorted(p.name for p in work(here, plan, "base").iterdir()) == ["attempt.json", "failure.3.json"]
    assert find(here) == []
    assert status(plan.document(), here)["totals"] == {"published": 2}
    for name in ("base", "top"):
        artifact.check(here.root / "artifacts/toy" / plan.key(name))
    assert (here.root / "logs").is_dir() and submit(plan.document(), here).jobs == 0


def test_what_was_used_within_the_days_asked_for_is_spared(toys, here):
    made(pair(toys), here)
    assert find(here, days=0.0) == []
    assert find(here, "finished", days=2.0, older=3.0) == []
    assert len(find(here, "finished", "code", days=0.01, older=0.0)) == 3


def test_looking_changes_nothing(toys, here):
    made(pair(toys), here)
    before = counted([here.root])
    assert find(here) and counted([here.root]) == before


def test_attempts_at_a_purged_artifact_are_kept(toys, here):
    plan = made(pair(toys), here)
    (here.root / "artifacts/toy" / plan.key("base") / "result.json").unlink()
    assert [i.key for i in find(here, "finished")] == [plan.key("top")]


def failed(toys, here, tmp_path, starts=2):
    """A plan whose stage was started `starts` times and failed each time."""
    broken = tmp_path / "broken"
    broken.touch()
    plan = toys().job("a", 0, ("bad", [], {"fail_while": str(broken)}))
    for _ in range(starts):
        # each start is a submission of its own, as a user's retry is
        submit(plan.document(), here, again=[plan.key("bad")])
        wait(plan.document(), here, poll_s=0.1, timeout_s=60)
        until(lambda: not using.look(here).making)
    assert len(artifact.attempts(here.root / "work/toy" / plan.key("bad"))) == starts
    return plan


def test_an_attempt_is_given_up_when_a_younger_one_has_come_as_far(toys, here, tmp_path):
    plan = failed(toys, here, tmp_path, starts=3)
    first, second, third = (work(here, plan, "bad", n) for n in (1, 2, 3))
    assert find(here, "superseded", "finished") == []  # nothing younger has a checkpoint
    checkpoint(first, 40, world_size=2)
    checkpoint(second, 20, world_size=2)
    assert find(here, "superseded") == []  # the older one is further
    checkpoint(third, 60, world_size=4)
    assert find(here, "superseded") == []  # another layout cannot be resumed from
    checkpoint(third, 40, world_size=2)
    found = find(here, "superseded")
    assert {i.path for i in found} == {first, second}
    assert all(i.bytes == counted(i.parts)[0] for i in found)
    gc.sweep(here, found)
    assert {p.name for p in first.iterdir()} == {"attempt.json", "failure.json"}
    assert (third / "checkpoints/step_60/COMPLETE").exists() and (third / "out").is_dir()
    assert find(here, "superseded", "finished") == []


def test_an_attempt_without_any_checkpoint_is_given_up_too_and_the_newest_never(toys, here, tmp_path):
    plan = failed(toys, here, tmp_path, starts=2)
    checkpoint(work(here, plan, "bad", 2), 5)
    torn = work(here, plan, "bad", 1) / "checkpoints/step_9"
    torn.mkdir(parents=True)
    (torn / "shard").touch()  # COMPLETE is missing
    assert [i.path for i in find(here, "superseded")] == [work(here, plan, "bad", 1)]


def test_nothing_of_a_job_that_runs_is_found(toys, here, tmp_path):
    plan = failed(toys, here, tmp_path, starts=1)
    (tmp_path / "broken").unlink()
    slow = toys().job("a", 0, ("bad", [], {"seconds": 30, "fail_while": str(tmp_path / "broken")}))
    submit(slow.document(), here, again=[slow.key("bad")])
    until(lambda: (work(here, plan, "bad", 2) / "attempt.json").exists())
    checkpoint(work(here, plan, "bad", 1), 1)
    checkpoint(work(here, plan, "bad", 2), 2)
    assert find(here) == []  # neither attempt, nor the code that the job imports
    cancel(slow.document(), here)
    until(lambda: not using.look(here).making)
    assert {i.kind for i in find(here)} == {"superseded", "code"}


def test_a_worker_that_no_ledger_knows_is_seen_by_its_process(toys, here):
    plan = made(toys().job("a", 0, ("base", [], {})), here)
    head = work(here, plan, "base") / "attempt.json"
    # as `sbatch sbatch/train.sbatch JOBFILE` leaves it: no intent, only an attempt
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "hpc.cluster.worker"])
    try:
        files.write_json(head, files.read_json(head) | {"pid": process.pid})
        assert find(here, "finished") == []
    finally:
        process.kill()
        process.wait()
    assert len(find(here, "finished")) == 1


def test_leftovers_of_dead_writers_go_after_a_day(toys, here):
    plan = made(toys().job("a", 0, ("base", [], {})), here)
    name = uuid.uuid4().hex
    left = [
        here.root / "artifacts/toy" / f".purged-{name}",
        here.root / "ledger" / f".x.json.{name}",
        here.root / "code" / f".0123456789abcdef.{name}",
        work(here, plan, "base") / f".failure.json.{name}",
    ]
    for folder in (left[0], left[2]):
        folder.mkdir()
        (folder / "data").write_bytes(b"x" * 100)
    for path in (left[1], left[3]):
        path.write_bytes(b"x" * 10)
    other = here.root / "ledger/.nfs0000"
    other.touch()
    assert find(here, "leftover", days=0.5, older=0.0) == []
    found = find(here, "leftover")
    assert {i.path for i in found} == set(left) and sum(i.bytes for i in found) == 220
    gc.sweep(here, found)
    assert not any(p.exists() for p in left) and other.exists() and find(here, "leftover") == []


def test_code_goes_when_no_unfinished_submission_imports_it(toys, here):
    plan = made(toys().job("a", 0, ("base", [], {})), here)
    (code,) = find(here, "code")
    assert (code.path / "hpc/artifact.py").is_file() and code.bytes == counted(code.parts)[0] > 100_000
    dry = toys("other").job("a", 0, ("x", [], {}))
    submit(dry.document(), here, dry_run=True)  # its job files may be run by hand
    assert find(here, "code") == []
    for path in here.root.glob("jobs/*/a.json"):
        os.utime(path, (0, 0))
    found = find(here, "code")
    gc.sweep(here, found)
    assert not code.path.exists() and find(here, "code") == []
    assert submit(plan.document(), here).jobs == 0


def orphan(here, name="0" * 16, inputs=None):
    """An artifact that was published without a ledger, as by a job file run by hand."""
    attempt = artifact.claim(here.root, "toy", name)
    made = artifact.Work("toy", name, {}, {}, {}, 0, attempt)
    (made.out / "result.json").write_text(json.dumps({"name": name, "inputs": {}, "padding": "x" * 5000}))
    assert artifact.publish(made, here.root, inputs=inputs or {}, counts={})
    return artifact.target(here.root, "toy", name)


def test_artifacts_that_no_submission_names_go_only_on_request(toys, here):
    plan = made(pair(toys), here)
    folder = orphan(here)
    (item,) = find(here, "unreferenced")
    assert (item.path, item.bytes) == (folder, counted([folder])[0])
    assert item not in gc.sweep(here, find(here)).items and folder.exists()
    assert gc.sweep(here, [item], unreferenced=True).items == [item]
    assert not folder.exists() and find(here, "unreferenced") == []
    assert status(plan.document(), here)["totals"] == {"published": 2}


def test_an_artifact_that_is_an_input_of_a_job_is_referenced(toys, here):
    given = toys().job("a", 0, ("base", [], {}))
    folder = orphan(here, given.key("base"))
    assert len(find(here, "unreferenced")) == 1
    # published before: the submission makes only what reads it
    made(pair(toys), here)
    assert find(here, "unreferenced") == [] and folder.exists()


def test_what_was_made_from_an_unreferenced_artifact_counts_as_its_use(here):
    here.root.mkdir()
    folder = orphan(here)
    done = files.read_json(folder / "DONE")
    files.write_json(folder / "DONE", {**done, "finished": "2020-01-01T00:00:00Z"})
    for path in (folder, *folder.iterdir()):
        os.utime(path, (0, 0))
    assert heap.utc(find(here, "unreferenced")[0].used) == "2020-01-01T00:00:00Z"
    orphan(here, "1" * 16, {"x": f"toy/{'0' * 16}"})
    assert {i.used > time.time() - 60 for i in find(here, "unreferenced")} == {True}


def test_nothing_of_another_user_is_deleted(toys, here, monkeypatch):
    plan = made(pair(toys), here)
    orphan(here)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    found = find(here)
    assert found and not any(i.mine for i in found)
    before = counted([here.root])
    assert gc.sweep(here, found, unreferenced=True).items == [] and counted([here.root]) == before
    assert (work(here, plan, "base") / "rank0").exists()


def told(here, items, swept=None, older=1.0):
    """What `hpc gc` prints."""
    console = Console(file=io.StringIO(), width=200)
    gc.show(here, items, swept, console, older_days=older)
    return console.file.getvalue()


def test_what_may_not_be_written_is_told_with_its_owner_and_blames_no_job(toys, here, monkeypatch):
    plan = made(pair(toys), here)
    folder, real = work(here, plan, "base"), Path.rename

    def refused(self, target):
        if self.is_relative_to(folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    found = find(here, "finished")
    swept = gc.sweep(here, found)
    assert [i.key for i in swept.items] == [plan.key("top")] and not swept.failed
    said = told(here, found, swept)
    assert f"1 stayed: {folder} may not be written (owner {folder.owner()})" in said and "a job" not in said
    found = find(here, "finished")
    swept = gc.sweep(here, found)
    assert swept.failed and [i["refused"] for i in gc.document(here, found, swept)["items"]] == list(
        swept.refused.values()
    )
    assert (folder / "rank0").exists()


def test_what_is_spared_for_its_age_is_told(toys, here, tmp_path):
    empty = find_profile("local", roots=[str(tmp_path / "empty")])
    assert told(empty, find(empty)) == f"nothing to delete in {empty.root}\n"
    made(pair(toys), here)
    young = heap.look(here, older_days=0.0)
    assert len(young) == 3 and heap.look(here) == []
    size = room.size(sum(i.bytes for i in young))
    assert (
        told(here, []) == f"nothing older than 1 day; 3 item(s), {size} were used since: hpc gc --on local --older 0\n"
    )
    assert told(here, [], gc.Swept([]), older=2.5).startswith("nothing older than 2.5 days; 3 item(s)")


def test_a_crash_before_the_removal_leaves_whole_artifacts_and_the_next_run_ends_it(toys, here, monkeypatch):
    plan = made(pair(toys), here)
    checkpoint(work(here, plan, "base"), 4)
    folder = orphan(here)
    removed = []

    def dies(path):
        removed.append(path)
        if len(removed) == 2:
            raise KeyboardInterrupt
        return real(path)

    real = gc._remove
    monkeypatch.setattr(gc, "_remove", dies)
    with pytest.raises(KeyboardInterrupt):
        gc.sweep(here, find(here), unreferenced=True)
    monkeypatch.setattr(gc, "_remove", real)
    assert not folder.exists() and len(removed) == 2
    for key in (plan.key("base"), plan.key("top")):
        artifact.check(here.root / "artifacts/toy" / key)
    assert list(here.root.rglob(".gone-*"))
    assert {i.kind for i in find(here)} == {"leftover"}
    gc.sweep(here, find(here))
    assert not list(here.root.rglob(".gone-*")) and find(here) == []


def test_what_a_submission_comes_to_need_meanwhile_goes_back(toys, here, monkeypatch):
    made(toys("first").job("a", 0, ("x", [], {})), here)
    plan = toys()
    folder = orphan(here, plan.job("a", 0, ("base", [], {})).key("base"))
    found = find(here, "unreferenced", "code", "finished")
    assert {i.kind for i in found} == {"unreferenced", "code", "finished"}
    real = using.look

    def meanwhile(profile, now=None):
        submit(pair(toys).document(), profile)  # while everything is aside: it takes the code anew
        return real(profile, now)

    monkeypatch.setattr(using, "look", meanwhile)
    deleted = gc.sweep(here, found, unreferenced=True)
    monkeypatch.setattr(using, "look", real)
    assert {i.kind for i in deleted.items} == {"finished"} and not deleted.refused
    assert wait(pair(toys).document(), here, poll_s=0.1, timeout_s=60)["totals"] == {"published": 2}
    assert (folder / "DONE").exists() and not list(here.root.rglob(".gone-*"))


def slurm_root(tmp_path, toys, line=""):
    """A root whose one submission Slurm has had as job 18, after jobs 16 and 17, and a squeue that says `line`."""
    here = find_profile("slurm", roots=[str(tmp_path / "root")], mend=False)
    plan = toys().job("a", 0, ("base", [], {}))
    tries = []
    for number in (16, 17):
        tries.append(artifact.claim(here.root, "toy", plan.key("base")))
        files.write_json(tries[-1] / "attempt.json", {"job_id": str(number), "host": "node9", "pid": 1})
        checkpoint(tries[-1], number)
    ledger, submission = Ledger(here.root), new_submission()
    row = Piece("a", "toy", "toys.a.1", "", {0: {"stages": [plan.key("base")], "needs": []}})
    ledger.intend(Intent(submission, "toys", "slurm", "slurm", [row]))
    ledger.decide(submission, "a", {"job_id": "18"})
    shim = tmp_path / "bin"
    shim.mkdir()
    (shim / "squeue").write_text(f"#!/bin/sh\necho '{line}'\n")
    (shim / "squeue").chmod(0o755)
    return SimpleNamespace(profile=here, shim=shim, first=tries[0])


def line(job, word, name):
    return f"{job}|{job}|N/A|{word}|None|2026-11-22T02:00:00|2026-11-22T02:00:01|2026-11-22T02:00:09|{name}"


@pytest.mark.parametrize(
    ("text", "num"),
    [
        (line(18, "RUNNING", "toys.a.1"), 0),
        (line(18, "PENDING", "toys.a.1"), 0),
        (line(18, "SOMETHING_NEW", "toys.a.1"), 0),
        (line(18, "FAILED", "toys.a.1"), 1),
        (line(17, "RUNNING", "by-hand"), 0),
        (line(17, "TIMEOUT", "by-hand"), 1),
        (line(99, "RUNNING", "foreign"), 1),
        ("", 1),
    ],
)
def test_slurm_is_asked_which_jobs_are_alive(tmp_path, toys, monkeypatch, text, num):
    made = slurm_root(tmp_path, toys, text)
    monkeypatch.setenv("PATH", f"{made.shim}:{os.environ['PATH']}")
    assert [i.path for i in find(made.profile, "superseded")] == [made.first][:num]


def test_jobs_of_a_runner_on_another_host_count_as_alive_for_a_month(toys, here):
    made(pair(toys), here)
    (folder,) = here.root.glob("jobs/*")
    files.write_json(folder / "runner.json", files.read_json(folder / "runner.json") | {"host": "login2"})
    assert {i.kind for i in find(here)} == {"finished", "code"}  # it ended them all
    rows = files.read_json(folder / "states.json")
    files.write_json(folder / "states.json", [{**rows[0], "word": "RUNNING"}, *rows[1:]])
    assert find(here, days=29) == []
    assert {i.kind for i in find(here, days=31)} == {"finished", "code"}


def test_a_tracking_run_that_was_not_sent_is_kept(toys, here):
    plan = made(toys().job("a", 0, ("base", [], {})), here)
    run = work(here, plan, "base") / "wandb/offline-run-20260101_000000-x/run-x.wandb"
    run.parent.mkdir(parents=True)
    run.touch()
    gc.sweep(here, find(here))
    assert run.exists() and find(here) == []
    run.with_name("run-x.wandb.synced").touch()
    gc.sweep(here, find(here, "finished"))
    assert not run.exists()


def test_without_an_answer_nothing_is_deleted(tmp_path, toys, monkeypatch):
    made = slurm_root(tmp_path, toys)
    monkeypatch.setenv("PATH", f"{made.shim}:{os.environ['PATH']}")
    found = find(made.profile)
    (made.shim / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    before = counted([made.profile.root])
    with pytest.raises(ClusterError, match="squeue failed"):
        gc.sweep(made.profile, found)
    assert counted([made.profile.root]) == before and not list(made.profile.root.rglob(".gone-*"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="nobody here can say") as caught:
        find(made.profile)
    assert "login node" in caught.value.next


def test_the_verb_shows_first_and_deletes_when_told(toys, here, monkeypatch):
    plan = made(pair(toys), here)
    monkeypatch.setenv("HPC_ROOT", str(here.root))

    def hpc(*options):
        command = [sys.executable, "-m", "hpc.cli", "gc", "--on", "local", "--older", "0", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "160"})
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = hpc()
    assert "finished: 2 item(s)" in shown and f"work/toy/{plan.key('base')}/1" in shown
    assert "next: hpc gc --on local --apply --older 0  deletes 3 item(s)" in shown
    listed = json.loads(hpc("--json"))
    assert listed["dry_run"] and listed["totals"]["finished"]["items"] == 2 and listed["deleted"]["items"] == 0
    told = json.loads(hpc("--apply", "--json"))
    assert told["deleted"] == {n: sum(i[n] for i in listed["items"]) for n in ("bytes", "inodes")} | {"items": 3}
    assert "nothing to delete" in hpc()
