"""Jobs without network: fetch outside, then a whole study inside a network namespace that has no route.

The hub is a small server outside; inside the namespace its address leads nowhere, as on a compute node. Nothing but the
profile says that jobs have no network.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.hub import serve

HOME = Path(__file__).parents[2]
SMOL = HOME / "models/smollm2-135m-instruct"
DATA = os.environ.get("HPC_DATA_DIR", "")
INSIDE = 'ip link set lo up && exec "$@"'


def why_not():
    """Why no namespace can be made here; empty if one can."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        return "unshare and ip are needed"
    probe = subprocess.run(["unshare", "--net", "sh", "-c", INSIDE, "sh", "true"], capture_output=True, text=True)
    return f"no network namespace: {probe.stderr.strip()}" if probe.returncode else ""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A working folder, a profile with a cache, a hub; `hpc` runs outside or, with inside=True, in the namespace."""
    if reason := why_not():
        pytest.skip(reason)
    for folder in ("recipes", "sbatch/profiles"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sbatch/profiles/nodes.yaml").write_text(
        f"kind: local\nmax_parallel: 2\nroots: [{tmp_path}/root]\ncache: {tmp_path}/cache\n"
    )
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HPC_DATA_DIR", "HPC_ROOT", "HF_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with serve() as server:
        variables = {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path / "home"),
            "HPC_PATH": str(HOME),
            "PYTHONPATH": str(HOME),
            "OMP_NUM_THREADS": "1",
        }

        def run(*command, inside=False, timeout=120):
            return subprocess.run(
                ["unshare", "--net", "sh", "-c", INSIDE, "sh", *command] if inside else command,
                cwd=tmp_path,
                env={**os.environ, **variables},
                capture_output=True,
                text=True,
                timeout=timeout,
            )

        def hpc(*words, **how):
            return run(sys.executable, "-m", "hpc.cli", *words, "--on", "nodes", **how)

        yield SimpleNamespace(path=tmp_path, run=run, hpc=hpc, server=server, hub=tmp_path / "cache/huggingface/hub")


def whole_way(cluster, study, timeout):
    """Refused, fetched outside, one file lost and refused again, brought back, run inside; returns the last state."""
    refused = cluster.hpc("submit", study, inside=True)
    assert refused.returncode == 2 and f"hpc fetch {study} --on nodes" in refused.stderr, refused.stderr
    cut_off = cluster.hpc("fetch", study, "--yes", inside=True)
    assert cut_off.returncode == 2 and "cannot be reached" in cut_off.stderr, "the namespace has a way out"
    done = cluster.hpc("fetch", study, "--yes")
    assert done.returncode == 0, done.stderr
    weights = max(cluster.hub.glob("models--*/snapshots/*/*.safetensors"))
    blob = weights.resolve().read_bytes()
    weights.resolve().unlink()
    refused = cluster.hpc("submit", study, inside=True)
    assert refused.returncode == 2 and weights.name in refused.stderr, refused.stderr
    assert f"hpc fetch {study} --on nodes" in refused.stderr
    assert not list(cluster.path.glob("root/jobs/*/*")), "a job was submitted"
    assert cluster.hpc("fetch", study, "--yes").returncode == 0
    assert weights.read_bytes() == blob
    cluster.server.requests.clear()
    # one command in one namespace: the runner of the jobs lives in it
    line = f"{sys.executable} -m hpc.cli submit {study} --on nodes && {sys.executable} -m hpc.cli status {study}"
    end = cluster.run("sh", "-c", f"{line} --on nodes --wait --json", inside=True, timeout=timeout)
    assert end.returncode == 0, end.stdout + end.stderr + logs(cluster)
    assert cluster.server.requests == []
    return json.loads(end.stdout[end.stdout.index("{") :])


def logs(cluster):
    return "\n".join(p.read_text(errors="replace")[-3000:] for p in cluster.path.glob("root/logs/*/*/*.out"))


def tiny_model(folder):
    """The mini study's architecture with random weights, in several shards."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(HOME / "recipes/mini_model", folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.save_pretrained(folder, max_shard_size="1MB")
    return {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}


def chains(**asked):
    from hpc.data import sources

    return "".join(json.dumps(e.row()) + "\n" for e in sources.mini(**asked)).encode()


TINY = """
model: org/tiny
format: mini
data: {source: {name: records, hub: org/chains, question: question, thinking: thinking, answer: answer,
                reference: reference}, select: random, size: 32, decontaminate: [./quiz.yaml], tokenizer: org/tiny@main}
train: {lr: 1.0e-3, epochs: 1, batch_size: 16, max_tokens: 256, dtype: fp32, zero: {stage: 3, offload: none}}
generate: {tasks: [./quiz.yaml], engine: transformers, dtype: fp32, thinking: {max: 8}, max_tokens: 24,
           answer_tokens: 8}
resources: {train: {ranks: 2}}
"""
QUIZ = """
source: {name: records, hub: org/quiz, split: test, question: question, reference: reference}
prompt: "{question}"
grader: exact
"""


@pytest.mark.proof_ci
def test_study_of_a_tiny_model_runs_without_network_after_fetch(cluster):
    cluster.server.add("models", "org/tiny", tiny_model(cluster.path / "tiny"))
    cluster.server.add("datasets", "org/chains", {"data/train.jsonl": chains(per_step=[40, 40], seed=1)})
    cluster.server.add("datasets", "org/quiz", {"test.jsonl": chains(per_step=[5, 5], part="test", seed=2)})
    (cluster.path / "recipes/tiny.yaml").write_text(TINY)
    (cluster.path / "recipes/quiz.yaml").write_text(QUIZ)
    state = whole_way(cluster, "tiny", 400)
    assert {run["state"] for run in state["runs"]} == {"published"}
    assert len(state["stages"]) == 4


SMOL_RECIPE = """
extends: smol
model: HuggingFaceTB/SmolLM2-135M-Instruct
data: {source: {name: math_solved, hub: org/math_solved, split: train, minus: math500}, size: 32}
train: {max_tokens: 256, micro_batch: 1}
generate: {tasks: [{name: math500, limit: 6}], max_tokens: 48, answer_tokens: 16, context_tokens: 1024, batch_size: 8}
"""
SMOL_SWEEP = """
recipe: smol_cut
axes:
  who: {released: {recipe: smol_cut_base}, tuned: {}}
  budget:
    when: {who: [tuned]}
    values: {max_0: {generate.thinking.max: 0}, auto: {}, waits_1: {generate.thinking.waits: 1}}
"""
SMOL_BASE = "extends: smol_cut\nformat: plain\ndata: null\ntrain: null\ngenerate: {thinking: {max: null}}\n"


@pytest.mark.proof
def test_smol_study_runs_without_network_after_fetch(cluster):
    if not (SMOL / "model.safetensors").is_file():
        pytest.skip("the model is not there: make smol-model")
    if not (Path(DATA) / "math500.jsonl").is_file():
        pytest.skip("HPC_DATA_DIR has no MATH files")
    files = {str(p.relative_to(SMOL)): p for p in SMOL.rglob("*") if p.is_file()}
    cluster.server.add("models", "HuggingFaceTB/SmolLM2-135M-Instruct", files)
    solved = (Path(DATA) / "math_test5000_solved.jsonl").read_bytes().splitlines(keepends=True)[:600]
    cluster.server.add("datasets", "org/math_solved", {"train.jsonl": b"".join(solved)})
    asked = Path(DATA) / "math500.jsonl"
    cluster.server.add("datasets", "simplescaling/openaimath", {"test.jsonl": asked})
    (cluster.path / "recipes/smol_cut.yaml").write_text(SMOL_RECIPE)
    (cluster.path / "recipes/smol_cut_base.yaml").write_text(SMOL_BASE)
    (cluster.path / "recipes/study.yaml").write_text(SMOL_SWEEP)
    state = whole_way(cluster, "study", 1500)
    assert len(state["runs"]) == 4 and {run["state"] for run in state["runs"]} == {"published"}
