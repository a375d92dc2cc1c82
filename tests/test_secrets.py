"""Planted tokens are in nothing that a submission leaves: scripts, snapshots, ledger, job files, records, logs."""

import hashlib
import json
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.slurm.conftest import slurm as slurm  # a private cluster, for the one test here that needs it

HOME = Path(__file__).parents[1]
PARTS = ("hpc", "analysis", "recipes", "sweeps", "sbatch", "pyproject.toml")
NAMES = ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "SLURM_JWT", "GITHUB_TOKEN", "OMP_API_KEY")
PLANTED = (
    ".env",
    ".netrc",
    "token.txt",
    "hpc/.env",
    "hpc/cluster/secret.txt",
    "hpc/credentials.json",
    "hpc/key.pem",
    "hpc/notes.md",
)
SOURCE = """
import hashlib, os
from hpc.records import Example

def seen(*, fail=False):
    if fail:
        raise RuntimeError("told to fail")
    mark = hashlib.sha256(os.environ["WANDB_API_KEY"].encode()).hexdigest()
    for number in range(8):
        yield Example(f"{number}", f"{number} + 1?", "think", "2", "own", reference=mark)
"""
RECIPE = """
model: {home}/recipes/mini_model
format: mini
data: {{source: {{name: "./own.py:seen", fail: false}}}}
train: {{init: random, epochs: 1, batch_size: 8, max_tokens: 64, dtype: fp32, zero: {{stage: 1, offload: none}}}}
generate: null
resources: {{train: {{ranks: 1}}}}
"""
SWEEP = "recipe: base\naxes: {works: {yes: {}, no: {data.source.fail: true}}}\n"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A checkout with uncommitted and untracked files that hold tokens, and tokens in the environment."""
    folder = tmp_path / "tree"
    folder.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (HOME / part).is_dir() else shutil.copy
        copy(HOME / part, folder / part)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "start"], check=True)
    tokens = {}
    for name in NAMES:
        tokens[name] = f"planted_{uuid.uuid4().hex}"
        monkeypatch.setenv(name, tokens[name])
    for name in PLANTED:
        tokens[name] = f"planted_{uuid.uuid4().hex}"
        (folder / name).write_text(f"TOKEN={tokens[name]}\n")
    (folder / "recipes/own.py").write_text(SOURCE)
    (folder / "recipes/base.yaml").write_text(RECIPE.format(home=HOME))
    (folder / "recipes/secret.yaml").write_text(SWEEP)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("HPC_PATH", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    return SimpleNamespace(path=folder, root=tmp_path / "root", tokens=tokens)


def hpc(tree, *words):
    return subprocess.run(
        [sys.executable, "-m", "hpc.cli", *words, "--on", "secret"],
        cwd=tree.path,
        capture_output=True,
        text=True,
        timeout=300,
    )


def study(tree, profile):
    """Plan, submit, wait, read the logs and report; everything that was printed."""
    text = f"{profile}\nroots: [{tree.root}]\nenv: {{WANDB_API_KEY: $WANDB_API_KEY}}\nmend: false\n"
    (tree.path / "sbatch/profiles/secret.yaml").write_text(text)
    verbs = ("plan", "--scripts"), ("submit", "--json"), ("status", "--wait", "--json"), ("status",), ("logs",)
    done = [hpc(tree, verb, "secret", *more) for verb, *more in verbs]
    assert done[1].returncode == 0, done[1].stderr
    state = json.loads(done[2].stdout)
    assert {run["state"] for run in state["runs"]} == {"published", "failed"}, state
    return "\n".join(one.stdout + one.stderr for one in done)


def check(tree, printed):
    """No token anywhere below the root, or printed; and the jobs did have them."""
    mark = hashlib.sha256(tree.tokens["WANDB_API_KEY"].encode()).hexdigest()
    whole = {p: p.read_bytes() for p in tree.root.rglob("*") if p.is_file()}
    kinds = {p.relative_to(tree.root).parts[0] for p in whole}
    assert {"ledger", "jobs", "logs", "artifacts", "work", "code"} <= kinds, kinds
    examples = b"".join(data for path, data in whole.items() if path.name == "examples.jsonl")
    assert mark.encode() in examples, "the job did not see the token, so this test proves nothing"
    assert any(path.name.startswith("failure") for path in whole)
    found = {
        f"{name} in {path.relative_to(tree.root)}"
        for path, data in whole.items()
        for name, token in tree.tokens.items()
        if token.encode() in data
    }
    found |= {f"{name} was printed" for name, token in tree.tokens.items() if token in printed}
    assert not found


def test_no_token_is_left_by_local_jobs(tree):
    check(tree, study(tree, "kind: local\nmax_parallel: 2"))


@pytest.mark.slurm
def test_no_token_is_left_by_slurm_jobs(tree, slurm):
    check(tree, study(tree, "kind: slurm\nmemory_gib: 2\nhours: 0.2"))
