"""The judgement over failed jobs, on records as workers leave them: what changes, what is held, which node is left."""

import json
from types import SimpleNamespace

import pytest

from hpc import artifact, files
from hpc.cluster import rescue
from hpc.cluster.cover import Cover, Job
from hpc.cluster.judge import judge
from hpc.cluster.ledger import Intent, Ledger, Piece
from hpc.cluster.profile import find_profile
from hpc.recipe import schema, typed

OOM = (
    "CUDA out of memory. Tried to allocate 5.25 GiB. GPU 0 has a total capacity of 79.11 GiB of which 2.84 GiB is free."
)


class Field:
    """A submission `SUB` of toy jobs in a root, and what its attempts left behind."""

    def __init__(self, toys, root, kind="train", num=4, config=None, **resources):
        self.root, self.plan = root, toys("judged")
        for i in range(num):
            self.plan.job(f"{kind}-0", i, (f"j{i}", [], {"micro_batch": 4, **(config or {})}), kind=kind)
        self.kind, self.cover = kind, Cover()
        asked = {"memory_gib": 64.0, "hours": 24.0, "nodes": 1, "gpus": 0, "ranks": 1, **resources}
        elements = {str(i): {"stages": [self.plan.stages[f"j{i}"]], "needs": []} for i in range(num)}
        self.jobfile = root / "jobs/SUB" / f"{kind}-0.json"
        self.document = {"kind": kind, "resources": asked, "elements": elements}
        files.write_json(self.jobfile, self.document)
        rows = {i: {"stages": [self.plan.key(f"j{i}")], "needs": []} for i in range(num)}
        piece = Piece(f"{kind}-0", kind, "judged.train-0.SUB", str(self.jobfile), rows)
        Ledger(root).intend(Intent("SUB", "judged", "slurm", "slurm", [piece]))

    def fail(self, index, host, kind="RuntimeError", message="told to fail", word="FAILED", code="", attempt=1):
        key = self.plan.key(f"j{index}")
        start = f"9.0.{attempt - 1}"
        folder = self.root / "work" / self.kind / key / str(attempt)
        about = {"submission": "SUB", "piece": f"{self.kind}-0", "index": index, "job_id": "9", "restart": 0}
        files.write_json(
            folder / "attempt.json", {**about, "try": attempt - 1, "code": code or artifact.code()["digest"]}
        )
        if kind:
            row = {"type": kind, "message": message, "traceback": f"{kind}: {message}", "key": key, "host": host}
            row |= {"at": "2026-01-01T00:00:00Z", "rank": 0, "job": f"{self.kind}-0.{index}.{start}"}
            files.write_json(folder / "failure.json", row)
        self.state(index, host, "failed", start)
        others = [j for j in self.cover.jobs if j.element[2] != index]
        self.cover = Cover(jobs=[*others, Job(("SUB", f"{self.kind}-0", index), [key], [], word, single=False)])
        return key

    def state(self, index, host, state, start="9.0.0"):
        row = {"state": state, "stages": {}, "host": host, "at": "2026-01-01T00:00:00Z", "restart": 0, "try": 0}
        files.write_json(self.root / "jobs/SUB/state" / f"{self.kind}-0.{index}.{start}.json", row)

    def judge(self, **options):
        profile = find_profile("slurm", roots=[str(self.root)], max_hours=48)
        return judge(self.plan.document(), profile, self.cover, **options)


@pytest.fixture
def field(toys, tmp_path, monkeypatch):
    monkeypatch.setattr("hpc.cluster.failures.evidence.steps", lambda *a: {})
    return lambda **options: Field(toys, tmp_path / "root", **options)


def test_a_bug_of_the_code_is_no_nodes_fault(field):
    """Eight jobs on one big node with one bug: the node must not be left, and the bug must not be tried again."""
    found = field()
    keys = [found.fail(i, "h100-01") for i in (0, 1)]
    found.state(2, "cpu-01", "done")
    judgement = found.judge(mender=True)
    assert not judgement.poisoned and set(judgement.held) == set(keys)


def test_a_node_where_the_driver_is_missing_is_left_and_only_by_what_it_alone_says(field):
    found = field()
    keys = [found.fail(i, "h100-01", message="No CUDA GPUs are available") for i in (0, 1)]
    found.state(2, "h100-02", "done")
    judgement = found.judge(mender=True)
    assert judgement.poisoned == {"h100-01"} and set(judgement.changes) == set(keys)
    found.fail(3, "h100-02", message="No CUDA GPUs are available")
    assert not found.judge(mender=True).poisoned


def test_a_cured_exception_followed_by_another_end_is_no_repetition(field):
    found = field()
    for attempt in (1, 2):
        key = found.fail(0, "h100-01", kind="Hung", message=f"no progress for 3{attempt} s", attempt=attempt)
    assert "twice" in found.judge().held[key]
    found.fail(0, "h100-01", kind="", word="NODE_FAIL", attempt=3)
    assert key in found.judge().changes


def test_new_code_is_a_new_chance(field):
    found = field()
    found.fail(0, "h100-01")
    key = found.fail(0, "h100-01", attempt=2)
    assert key in found.judge().held
    found.fail(0, "h100-01", code="older")
    found.fail(0, "h100-01", attempt=2, code="older")
    assert key in found.judge().changes
    assert key in found.judge(again=[key]).changes


def test_what_was_raised_once_stays_raised(field):
    found = field()
    key = found.fail(0, "h100-01", kind="", word="NODE_FAIL")
    found.document["elements"]["0"]["change"] = {
        "memory_gib": 96.0,
        "hours": 36.0,
        "exclude": ["h100-07"],
        "settings": {key: {"micro_batch": 2}},
        "why": "host_oom: ...",
    }
    found.document["resources"] |= {"memory_gib": 96.0, "hours": 36.0}
    files.write_json(found.jobfile, found.document)
    change = found.judge(mender=True).changes[key]
    assert (change.memory_gib, change.hours, change.settings) == (96.0, 36.0, {key: {"micro_batch": 2}})
    assert "h100-07" in change.exclude


def test_more_time_stops_at_the_partitions_limit(field):
    found = field(hours=36.0)
    key = found.fail(0, "h100-01", kind="", word="TIMEOUT")
    assert found.judge(mender=True).changes[key].hours == 48


def test_a_full_gpu_halves_the_stage_that_failed_and_no_other(field, tmp_path):
    found = field(kind="generate", num=1, config={"engine_batch": None, "batch_size": 256})
    first = found.plan.stages["j0"]
    second = {**first, "key": "f" * 16, "config": {"batch_size": 16}}
    found.document["elements"]["0"]["stages"] = [first, second]
    files.write_json(found.jobfile, found.document)
    assert rescue.smaller(found.jobfile, 0, {second["key"]}) == {second["key"]: {"engine_batch": 8}}
    key = found.fail(0, "h100-01", kind="torch.OutOfMemoryError", message=OOM)
    assert found.judge(mender=True).changes[key].settings == {key: {"engine_batch": 128}}


def test_a_full_gpu_leaves_packed_rows_a_smaller_share_of_its_memory_until_half_of_it(field):
    found = field(kind="train", num=1, config={"pack": True, "memory_share": 0.92, "row_tokens": 65536})
    key = found.fail(0, "h100-01", kind="torch.OutOfMemoryError", message=OOM)
    change = found.judge(mender=True).changes[key]
    assert change.settings == {key: {"memory_share": 0.82, "row_tokens": "auto"}}
    assert typed.build(schema.Train, change.settings[key]).memory_share == 0.82
    found.plan.stages["j0"]["config"]["memory_share"] = 0.55
    files.write_json(found.jobfile, found.document)
    assert not rescue.smaller(found.jobfile, 0, {key})


def test_a_full_gpu_of_a_job_from_before_memory_share_gets_a_smaller_one_too(field):
    found = field(kind="train", num=1, config={"pack": True, "row_tokens": 65536})
    key = found.plan.stages["j0"]["key"]
    assert rescue.smaller(found.jobfile, 0, {key}) == {key: {"memory_share": 0.82, "row_tokens": "auto"}}


def test_a_cancelled_job_is_left_by_the_mender_and_resumed_by_a_user(field):
    found = field()
    key = found.fail(0, "h100-01", kind="", word="CANCELLED")
    assert "cancelled" in found.judge(mender=True).held[key]
    assert key in found.judge().changes and not found.judge().changes[key].why
    assert json.dumps(found.document)  # nothing of it was changed


def test_a_full_disk_is_tried_again_only_when_there_is_room(field, monkeypatch):
    found = field()
    key = found.fail(0, "h100-01", kind="OSError", message="[Errno 28] No space left on device: 'states.bin'")
    monkeypatch.setattr("hpc.cluster.judge.shutil.disk_usage", lambda root: SimpleNamespace(total=2**40, free=2**30))
    assert "1.00 GiB of 1024.00 GiB are free" in found.judge(mender=True).held[key]
    monkeypatch.setattr("hpc.cluster.judge.shutil.disk_usage", lambda root: SimpleNamespace(total=2**40, free=2**39))
    assert found.judge(mender=True).changes[key].why.startswith("no_space")
