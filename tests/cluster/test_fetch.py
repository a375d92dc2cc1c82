"""`hpc fetch` against a small hub on this machine, and what submit refuses when something is missing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpc.cluster import fetch as fetching
from hpc.cluster.profile import find_profile
from hpc.errors import PlanError
from hpc.plan import disk, document, hub, room
from hpc.recipe import names, sweep
from tests.hub import serve

HOME = Path(__file__).parents[2]
MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "generation_config.json": b"{}",
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    ).encode(),
    "model-00001-of-00002.safetensors": bytes(range(256)) * 40,
    "model-00002-of-00002.safetensors": bytes(reversed(range(256))) * 40,
    "consolidated.safetensors": b"the same weights again",
    "pytorch_model.bin": b"the same weights once more",
    "onnx/model.onnx": b"and again",
    "README.md": b"words",
    "modeling.py": b"code",
}
TABLE = {"README.md": b"", "data/test.jsonl": b'{"problem": "1+1", "answer": "2"}\n', "picture.png": b"x"}
RECIPE = """
model: org/model
format: plain
data: {source: {name: records, hub: org/traces}, decontaminate: [./quiz.yaml], tokenizer: org/words}
train: {lr: 1e-4, save_every_steps: 5}
generate: {tasks: [./quiz.yaml], engine: transformers, thinking: {max: null}}
resources: {train: {gpus: 0}}
"""
QUIZ = "source: {name: records, hub: org/quiz, split: test, question: problem, reference: answer}\n"


@pytest.fixture
def server():
    with serve() as server:
        server.add("models", "org/model", MODEL)
        server.add("models", "org/words", {n: f for n, f in MODEL.items() if n != "consolidated.safetensors"})
        server.add("datasets", "org/traces", TABLE)
        server.add("datasets", "org/quiz", TABLE)
        yield server


@pytest.fixture
def place(server, tmp_path, monkeypatch):
    """A working folder with one recipe, an empty cache, and `hpc` as its own process against the small hub."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/base.yaml").write_text(RECIPE)
    (tmp_path / "recipes/quiz.yaml").write_text(QUIZ + "prompt: '{question}'\ngrader: exact\n")
    (tmp_path / "sbatch/profiles").mkdir(parents=True)
    (tmp_path / "sbatch/profiles/here.yaml").write_text(
        f"kind: local\nroots: [{tmp_path}/root]\ncache: {tmp_path}/cache\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("HPC_DATA_DIR", "HPC_ROOT", "HF_TOKEN", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HPC_PATH", f"{tmp_path}{os.pathsep}{HOME}")
    variables = {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(HOME)}

    def run(*words, **more):
        return subprocess.run(
            [sys.executable, "-m", "hpc.cli", *words, "--on", "here"],
            env={**os.environ, **variables, **more},
            capture_output=True,
            text=True,
            timeout=120,
        )

    cache = tmp_path / "cache/huggingface/hub"
    return SimpleNamespace(path=tmp_path, run=run, cache=cache, variables=variables)


def plan(place):
    monkey = find_profile("here")
    hub.use(monkey.cache)
    return document.document(document.make(sweep.load("base"))), monkey


@pytest.fixture(autouse=True)
def same_cache_afterwards(monkeypatch):
    """`hub.use` changes this process's environment: put back what was there."""
    monkeypatch.setenv("HF_HUB_CACHE", "set only so that it is restored")
    monkeypatch.delenv("HF_HUB_CACHE")


def fetched(place):
    done = place.run("fetch", "base", "--json", "--yes")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_only_what_jobs_read_is_fetched_and_the_commit_enters_the_keys(place, server):
    before, profile = plan(place)
    assert len(fetching.missing(before, profile)) == 4
    first = fetched(place)
    assert {r["name"] for r in first["repositories"]} == {
        "org/model", "org/words", "datasets/org/traces", "datasets/org/quiz",
    }  # fmt: skip
    there = {
        str(p.relative_to(place.cache)).split("/", 3)[3] for p in place.cache.glob("models--org--model/snapshots/*/*")
    }
    assert there == {n for n in MODEL if n.endswith(".json") or n.startswith("model-0")}
    assert not list(place.cache.glob("models--org--words/snapshots/*/*.safetensors")), "a tokenizer needs no weights"
    assert [p.name for p in place.cache.glob("datasets--org--quiz/snapshots/*/data/*")] == ["test.jsonl"]
    after, profile = plan(place)
    assert fetching.missing(after, profile) == [] and after["unpinned"] == []
    train = next(s for s in after["stages"] if s["stage"] == "train")
    assert train["inputs"]["model"]["ref"] == f"org/model@{server.repos[('models', 'org/model')].commit}"
    assert {s["key"] for s in before["stages"]}.isdisjoint({s["key"] for s in after["stages"]})


def test_a_second_fetch_asks_nothing_and_a_newer_main_changes_no_key(place, server):
    fetched(place)
    keys = [s["key"] for s in plan(place)[0]["stages"]]
    server.add("models", "org/model", {**MODEL, "config.json": b'{"newer": 1}'})
    server.requests.clear()
    again = fetched(place)
    assert (again["held"], again["repositories"], server.downloads()) == (4, [], [])
    assert [s["key"] for s in plan(place)[0]["stages"]] == keys


def test_dry_run_counts_and_leaves_no_trace(place, server):
    done = place.run("fetch", "base", "--dry-run")
    assert done.returncode == 0 and "to fetch" in done.stderr and "free:" in done.stderr
    assert server.downloads() == [] and not place.cache.exists()


def test_killed_fetch_goes_on_where_it_stopped_and_stays_at_its_commit(place, server):
    big = os.urandom(24 << 20)
    (place.path / "recipes/base.yaml").write_text(RECIPE.replace("org/model", "org/big"))
    old = server.add("models", "org/big", {**MODEL, "model-00001-of-00002.safetensors": big})
    server.delay_s = 0.05
    running = subprocess.Popen(
        [sys.executable, "-m", "hpc.cli", "fetch", "base", "--yes", "--on", "here"],
        env={**os.environ, **place.variables},
        stderr=subprocess.DEVNULL,
    )
    partial = lambda: max((p.stat().st_size for p in place.cache.glob("*/blobs/*.incomplete")), default=0)  # noqa: E731
    end = time.monotonic() + 60
    while partial() < 4 << 20:
        assert time.monotonic() < end and running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    held = partial()
    server.delay_s = 0.0
    document_before, profile = plan(place)
    assert any("org/big" in line for line in fetching.missing(document_before, profile))
    server.add("models", "org/other", MODEL)
    server.requests.clear()
    report = fetched(place)
    row = next(r for r in report["repositories"] if r["name"] == "org/big")
    assert row["commit"] == old.commit and row["bytes"] <= row["bytes_whole"] - held
    ranges = [r for method, path, r, _ in server.requests if method == "GET" and "model-00001" in path]
    assert ranges and all(r == f"bytes={held}-" for r in ranges)
    (place_of_big,) = place.cache.glob("models--org--big/snapshots/*/model-00001-of-00002.safetensors")
    assert place_of_big.read_bytes() == big
    assert not list(place.cache.glob("*/blobs/*.incomplete"))


def test_gated_repositories_stop_it_before_anything_is_downloaded(place, server):
    server.add("models", "org/model", MODEL, gated=True)
    server.add("datasets", "org/quiz", TABLE, gated=True)
    for more in ({}, {"HF_TOKEN": "some-other-token"}):
        done = place.run("fetch", "base", "--yes", **more)
        assert done.returncode == 2 and server.downloads() == []
        for word in ("https://huggingface.co/org/model", "https://huggingface.co/datasets/org/quiz", "hf auth login"):
            assert word in done.stderr
        assert "some-other-token" not in done.stderr
    done = place.run("fetch", "base", "--yes", HF_TOKEN="accepted-token")
    assert done.returncode == 0, done.stderr
    assert fetching.missing(*plan(place)) == []
    assert not any("accepted-token" in p.read_text() for p in place.cache.rglob("*.json"))


def test_repository_that_is_not_there_is_named(place, server):
    del server.repos[("datasets", "org/traces")]
    done = place.run("fetch", "base", "--yes")
    assert done.returncode == 2 and "datasets/org/traces is not there, or private" in done.stderr
    assert server.downloads() == []


def test_damaged_bytes_are_thrown_away(place, server):
    server.damage = True
    done = place.run("fetch", "base", "--yes")
    assert done.returncode == 2 and "came damaged" in done.stderr
    assert any("org/model" in line for line in fetching.missing(*plan(place)))
    server.damage = False
    fetched(place)
    assert fetching.missing(*plan(place)) == []


def test_unreachable_hub_and_offline_shell_are_told_apart(place):
    done = place.run("fetch", "base", "--yes", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 2 and "cannot be reached" in done.stderr and "127.0.0.1:9" in done.stderr
    done = place.run("fetch", "base", "--yes", HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and "unset HF_HUB_OFFLINE" in done.stderr


@pytest.mark.parametrize(
    ("limit", "word"),
    [
        ("quota_gib: 0.5", "512.0 MiB are free (quota_gib 0.5 of the profile"),
        ("quota_files: 1010", "1,010 are free (quota_files 1,010 of the profile"),
    ],
)
def test_nearly_full_quota_stops_it_before_it_starts_with_numbers(place, server, limit, word):
    with (place.path / "sbatch/profiles/here.yaml").open("a") as profile:
        profile.write(limit + "\n")
    done = place.run("fetch", "base", "--yes")
    assert done.returncode == 2 and "too little room" in done.stderr and word in done.stderr
    assert server.downloads() == [] and not place.cache.exists()


def test_full_file_system_stops_a_fetch_with_its_numbers(place, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    small = tmp_path / "cache"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        done = place.run("fetch", "base", "--yes")
        assert done.returncode == 2 and "1.0 MiB are free" in done.stderr and "too little room" in done.stderr
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("harm", ["shard", "blob", "torn", "config", "snapshot", "record"])
def test_submit_stops_at_one_missing_file_and_names_the_command(place, harm):
    fetched(place)
    (snapshot,) = place.cache.glob("models--org--model/snapshots/*")
    shard = snapshot / "model-00002-of-00002.safetensors"
    if harm == "shard":
        shard.unlink()
    elif harm == "blob":
        shard.resolve().unlink()
    elif harm == "torn":
        os.truncate(shard.resolve(), 100)
    elif harm == "config":
        (snapshot / "config.json").unlink()
    elif harm == "snapshot":
        for path in snapshot.iterdir():
            path.unlink()
        snapshot.rmdir()
    else:  # fetched by another tool, and one shard lost: the index knows
        hub.record(hub.Need("models", "org/model", snapshot.name, "model"), snapshot.name)
        (place.cache / "models--org--model/hpc" / f"{snapshot.name}.json").unlink()
        shard.unlink()
    with pytest.raises(PlanError, match="nothing is submitted") as caught:
        fetching.refuse(*plan(place), "base --on here")
    assert "org/model" in caught.value.why and "hpc fetch base --on here" in caught.value.next
    again = fetched(place)
    assert [r["name"] for r in again["repositories"]] == ["org/model"]
    fetching.refuse(*plan(place), "base --on here")


def test_repository_that_another_tool_fetched_whole_is_accepted(place):
    fetched(place)
    for path in place.cache.glob("*/hpc"):
        for record in path.iterdir():
            record.unlink()
    assert fetching.missing(*plan(place)) == []


def test_data_file_that_no_hub_stands_in_for_is_missing_before_a_job_starts(place, monkeypatch):
    fetched(place)
    (place.path / "recipes/base.yaml").write_text(
        RECIPE.replace("{name: records, hub: org/traces}", "{name: math_solved, minus: ./quiz.yaml}")
    )
    with pytest.raises(PlanError) as caught:
        fetching.refuse(*plan(place), "base --on here")
    assert "math_test5000_solved.jsonl" in caught.value.why and "HPC_DATA_DIR" in caught.value.next
    assert "hpc fetch" not in caught.value.next
    (place.path / "data").mkdir()
    (place.path / "data/math_test5000_solved.jsonl").write_text("")
    monkeypatch.setenv("HPC_DATA_DIR", str(place.path / "data"))
    fetching.refuse(*plan(place), "base --on here")


def test_missing_imports_no_library_of_the_hub_and_takes_milliseconds(place):
    lines = "".join(f"    l{i}: {{train.lr: {1e-5 + i * 1e-8:g}}}\n" for i in range(1000))
    (place.path / "thousand.yaml").write_text("recipe: base\naxes:\n  a:\n" + lines)
    code = (
        "import sys, time\nfrom hpc.cluster import fetch, profile\nfrom hpc.plan import document\n"
        "from hpc.recipe import sweep\nhere = profile.find_profile('here')\n"
        "plan = document.document(document.make(sweep.load('thousand.yaml')))\n"
        "begin = time.process_time()\nlost = fetch.missing(plan, here)\nspent = time.process_time() - begin\n"
        "assert len(plan['runs']) == 1000 and len(lost) == 4, lost\n"
        "print(spent, *sorted({'huggingface_hub', 'torch', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **place.variables}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    spent, *imported = done.stdout.split()
    assert imported == [] and float(spent) < 0.05


def test_fetched_data_set_is_read_without_network_at_its_commit(place):
    fetched(place)
    hub.use(find_profile("here").cache)
    code = (
        "from hpc.data import sources\n"
        "rows = sources.load({'name': 'records', 'hub': 'org/quiz', 'split': 'test', 'question': 'problem', "
        "'reference': 'answer'})\nprint([(r.question, r.reference) for r in rows])"
    )
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(HOME)}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().splitlines()[-1:] == ["[('1+1', '2')]"], done.stderr


def test_cache_of_the_profile_is_where_commits_are_read(place, monkeypatch):
    fetched(place)
    assert hub.environment("") == {}
    monkeypatch.setenv("SCRATCH", str(place.path))
    assert hub.environment("$SCRATCH/cache")["HF_HUB_CACHE"] == str(place.cache)
    hub.use("$SCRATCH/cache")
    assert len(names.commit("models", "org/model")) == 40


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("     /scratch  1000* 0 3000 - 40 0 100 -\n", (2000 * 1024, 60)),
        ("/scratch\n   1000 1500 0 6d23h 40 0 0 -\n", (500 * 1024, None)),
        ("Filesystem blocks quota limit grace files quota limit grace\nsrv:/home 10 20 30 0 7 0 0 0\n", None),
        ("", None),
    ],
)
def test_quota_tables_are_read(text, left):
    assert room.parse_quota(text, ["/scratch"]) == left


def test_a_mount_point_with_a_space_is_read(tmp_path, monkeypatch):
    table = "/dev/a / ext4 rw 0 0\nsrv:/b /my\\040data nfs4 rw 0 0\nsrv:/c /my\\040data lustre rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **_: table)
    assert room.mount(Path("/my data/x")) == ("/my data", "srv:/c", "lustre"), "the one mounted last hides the other"
    assert room.mount(Path("/my")).kind == "ext4"


def test_quota_of_the_profile_counts_what_is_in_use(tmp_path):
    (tmp_path / "root/deep").mkdir(parents=True)
    (tmp_path / "root/deep/file").write_bytes(b"x" * (1 << 20))
    (tmp_path / "cache").mkdir()
    left = room.of(tmp_path / "cache/hub", quota_gib=1, quota_files=100, beside=tmp_path / "root")
    assert left.files == 100 - 2 and (1 << 30) - (1 << 20) - (64 << 10) < left.bytes <= (1 << 30) - (1 << 20)
    assert "profile" in left.bytes_by


def test_disk_is_predicted_from_weights_or_shape_and_unknown_where_neither_is_here(place):
    unknown = plan(place)[0]["totals"]["disk"]
    assert unknown["peak_bytes"] is None and unknown["unknown"] == ["org/model"] and "unknown" in disk.line(unknown)
    (place.path / "recipes/base.yaml").write_text(
        RECIPE.replace("org/model", str(HOME / "recipes/mini_model")).replace("lr: 1e-4", "lr: 1e-4, dtype: bf16")
    )
    known = plan(place)[0]["totals"]["disk"]
    count = disk.parameters(
        next(s for s in document.make(sweep.load("base")).graph.stages.values() if s.stage == "train"), {}
    )
    from hpc.infer.vocabulary import count_parameters

    assert count == count_parameters(str(HOME / "recipes/mini_model"))
    assert (known["models_bytes"], known["checkpoints_bytes"]) == (2 * count, 3 * 12 * count)
    assert "predicted" in disk.line(known)


def test_parameters_of_cached_weights_are_counted_by_their_headers(tmp_path):
    header = json.dumps({"__metadata__": {}, "a": {"shape": [3, 4]}, "b": {"shape": [5]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert disk._count(tmp_path) == 17
