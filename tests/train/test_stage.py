"""Real DeepSpeed ranks on CPU: any layout gives the same training, a killed run goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpc import files
from hpc.records import Example

pytest.importorskip("deepspeed", reason="training extra not installed")

RANK = Path(__file__).with_name("rank.py")
HOME = RANK.parents[2]
SETTINGS = {
    "lr": 0.01,
    "epochs": 1,
    "batch_size": 6,
    "micro_batch": 2,
    "dtype": "fp32",
    "init": "random",
    "schedule": "cosine",
    "warmup_ratio": 0.1,
    "log_every_steps": 1,
    "max_tokens": 128,
}
FORM = {
    "thinking_start": "<think>",
    "thinking_end": "</think>",
    "thinking_stop": ["</think>"],
    "answer_prefix": "",
    "end": None,
}
NUM_STEPS = 8


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A root with 45 examples (the last batch is short), a tiny Qwen2 and its word tokenizer."""
    made = Bench(tmp_path_factory.mktemp("train"))
    made.write_model()
    made.write_examples()
    return made


@pytest.fixture(scope="module")
def layouts(bench: Bench) -> dict[str, Path]:
    """One training in several layouts: on 2 ranks, all in one process group (start-up is most of their time)."""
    jobs = {
        "plain": {},
        "again": {},
        "single_rows": {"pack": False, "micro_batch": 1},
        "replicated": {"zero": {"stage": 0}},
        "sharded_gradients": {"zero": {"stage": 2}},
        "offloaded": {"zero": {"stage": 3, "offload": "all"}},
        "recomputed": {"activation_checkpointing": True},
        "sample": {"loss_average": "sample"},
        "bf16": {"dtype": "bf16"},
        "replicated_bf16": {"dtype": "bf16", "zero": {"stage": 1}},
        "small_files": {"shard_bytes": 20_000},
        "small_files_bf16": {"dtype": "bf16", "shard_bytes": 10_000},
    }
    tuned = bench.job("tuned", model=bench.attempt("plain") / "out" / "model", init="pretrained", lr=0.0)
    bench.run(2, *(bench.job(name, **changes) for name, changes in jobs.items()), tuned)
    bench.run(1, bench.job("alone"))
    return {name: bench.attempt(name) for name in [*jobs, "tuned", "alone"]}


@pytest.fixture(scope="module")
def resumed(bench: Bench) -> str:
    """What was said while a killed training went on, and one that was asked to stop stopped and went on."""
    kill = {"signal": "SIGKILL", "at_step": 5}
    bench.run(2, bench.job("killed", save_every_steps=2, signal=kill), expect=(-9,))
    ask = {"signal": "SIGUSR2", "at_step": 2, "rank": 1}
    return bench.run(2, bench.job("killed", save_every_steps=2), bench.job("asked", signal=ask), bench.job("asked"))


class Bench:
    """Runs train stages in subprocesses and finds what they left."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def job(self, key: str, *, model: Path | None = None, signal: dict[str, Any] | None = None, **changes: Any) -> Path:
        """Write a job file and return its path."""
        own = {name: changes.pop(name) for name in ("shard_bytes",) if name in changes}
        job = {
            **own,
            "root": str(self.root),
            "key": key,
            "model": str(model or self.root / "model"),
            "data": str(self.root / "data"),
            "format": FORM,
            "settings": {**SETTINGS, **changes},
            **(signal or {}),
        }
        path = self.root / f"{key}-{len(list(self.root.glob('*.json')))}.json"
        path.write_text(json.dumps(job))
        return path

    def run(self, world_size: int, *jobs: Path, expect: tuple[int, ...] = (0,)) -> str:
        """Run `jobs` in a row on `world_size` ranks; returns what they wrote to stderr."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shared = {
            **os.environ,
            "PYTHONPATH": str(HOME),
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "SLURM_NTASKS": str(world_size),
            "HF_HUB_OFFLINE": "1",
        }
        for name in ("WANDB_MODE", "WANDB_API_KEY", "HPC_WANDB"):
            shared.pop(name, None)
        ranks = [
            subprocess.Popen(
                [sys.executable, str(RANK), *map(str, jobs)],
                stderr=subprocess.PIPE,
                text=True,
                env={**shared, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            )
            for rank in range(world_size)
        ]
        try:
            errors = [rank.communicate(timeout=240)[1] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        assert all(rank.returncode in expect for rank in ranks), "\n".join(errors)
        return "\n".join(errors)

    def attempt(self, key: str, number: int = 1) -> Path:
        """An attempt's folder."""
        return self.root / "work" / "train" / key / str(number)

    def write_examples(self) -> None:
        """Additions; the ids do not follow the file's order, and lengths differ."""
        rows = []
        for n in range(45):
            terms = [(n * k) % 10 for k in range(1, 2 + n % 5)]
            rows.append(
                Example(
                    f"{n * 37 % 101:03d}", " + ".join(map(str, terms)), "so " * (n % 4) + "sum", str(sum(terms)), "test"
                ).row()
            )
        files.write_jsonl(self.root / "data" / "examples.jsonl", rows)

    def write_model(self) -> None:
        """config.json and a byte tokenizer of an untrained Qwen2 with 2 layers of width 32."""
        from tokenizers import pre_tokenizers
        from transformers import Qwen2Config, Qwen2Tokenizer

        words = ["<pad>", "<end>", "<think>", "</think>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        tokenizer = Qwen2Tokenizer(
            vocab={word: n for n, word in enumerate(words)},
            merges=[],
            unk_token=None,
            eos_token="<end>",
            pad_token="<pad>",
            additional_special_tokens=["<think>", "</think>"],
        )
        tokenizer.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }}\n{% endfor %}assistant\n"
        tokenizer.save_pretrained(self.root / "model")
        Qwen2Config(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            eos_token_id=1,
            pad_token_id=0,
            architectures=["Qwen2ForCausalLM"],
        ).save_pretrained(self.root / "model")
        # a temperature without sampling is refused by transformers when it is saved
        files.write_json(self.root / "model" / "generation_config.json", {"eos_token_id": [1, 7], "temperature": 0.7})


def losses(attempt: Path) -> list[float]:
    return [row["loss"] for row in files.read_jsonl(attempt / "out" / "metrics.jsonl")]


def weights(attempt: Path) -> str:
    return hashlib.sha256((attempt / "out" / "model" / "model.safetensors").read_bytes()).hexdigest()


def test_training_learns_and_reports_every_step(layouts: dict[str, Path]) -> None:
    rows = list(files.read_jsonl(layouts["plain"] / "out" / "metrics.jsonl"))
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert {"step", "steps", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "seconds"} <= set(rows[0])
    assert {"mfu", "tflops_per_s", "balance", "passes", "data_wait_s", "gpu_gib", "host_gib"} <= set(rows[0])
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    outcome = files.read_json(layouts["plain"] / "outcome.json")
    assert (outcome["steps"], outcome["examples"], outcome["final_loss"]) == (NUM_STEPS, 45, rows[-1]["loss"])
    assert outcome["trained_tokens"] == rows[-1]["tokens"]


def test_same_ranks_give_the_same_bits(layouts: dict[str, Path]) -> None:
    assert losses(layouts["plain"]) == losses(layouts["again"])
    assert weights(layouts["plain"]) == weights(layouts["again"])


@pytest.mark.parametrize(
    "layout", ["alone", "single_rows", "replicated", "sharded_gradients", "offloaded", "recomputed"]
)
def test_every_layout_has_the_same_losses(layouts: dict[str, Path], layout: str) -> None:
    assert losses(layouts[layout]) == pytest.approx(losses(layouts["plain"]), abs=1e-5)


def test_loss_average_and_dtype_are_not_a_matter_of_layout(layouts: dict[str, Path]) -> None:
    assert losses(layouts["sample"])[0] != pytest.approx(losses(layouts["plain"])[0], abs=1e-5)
    assert losses(layouts["bf16"]) != pytest.approx(losses(layouts["plain"]), abs=1e-5)
    assert losses(layouts["bf16"]) == pytest.approx(losses(layouts["plain"]), abs=0.05)


def test_exported_model_is_the_trained_one(layouts: dict[str, Path]) -> None:
    """Loaded again (sharded at load, ZeRO-3) and trained at a rate of 0, the exported weights come out unchanged."""
    assert weights(layouts["tuned"]) == weights(layouts["plain"])
    assert losses(layouts["tuned"])[0] < losses(layouts["plain"])[0] - 0.5


@pytest.mark.parametrize(("layout", "dtype"), [("plain", "float32"), ("bf16", "bfloat16")])
def test_exported_model_loads_in_transformers_with_its_chat_template(
    bench: Bench, layouts: dict[str, Path], layout: str, dtype: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = layouts[layout] / "out" / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert str(model.dtype) == f"torch.{dtype}" and model.config.use_cache
    source = AutoTokenizer.from_pretrained(bench.root / "model")
    assert tokenizer("3 + 4<think>so<end>")["input_ids"] == source("3 + 4<think>so<end>")["input_ids"]
    turns = [{"role": "user", "content": "1 + 2"}]
    prompt = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
    assert model.generate(**prompt, max_new_tokens=3, do_sample=False).shape[1] > prompt["input_ids"].shape[1]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


@pytest.mark.parametrize("layout", ["plain", "replicated", "tuned", "replicated_bf16"])
def test_exported_model_generates_as_its_base_says_whatever_the_stage_of_zero(
    layouts: dict[str, Path], layout: str
) -> None:
    """Drawn weights and read ones, sharded at load and whole."""
    found = files.read_json(layouts[layout] / "out" / "model" / "generation_config.json")
    assert (found["eos_token_id"], found["temperature"]) == ([1, 7], 0.7)
    assert not found.get("_from_model_config")


@pytest.mark.parametrize(("small", "single"), [("small_files", "plain"), ("small_files_bf16", "bf16")])
def test_weights_in_several_files_are_those_of_one_file(layouts: dict[str, Path], small: str, single: str) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    folder = layouts[small] / "out" / "model"
    index = files.read_json(folder / "model.safetensors.index.json")
    shards = {path.name: load_file(path) for path in sorted(folder.glob("model-*.safetensors"))}
    whole = load_file(layouts[single] / "out" / "model" / "model.safetensors")
    assert len(shards) > 2 and not (folder / "model.safetensors").exists()
    assert index["weight_map"] == {name: file for file, held in shards.items() for name in held}
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())
    assert index["metadata"]["total_parameters"] == sum(t.numel() for t in whole.values())
    merged = {name: tensor for held in shards.values() for name, tensor in held.items()}
    assert merged.keys() == whole.keys()
    assert all(merged[n].dtype == t.dtype and merged[n].equal(t) for n, t in whole.items())
    for file, held in shards.items():
        limit = 20_000 if small == "small_files" else 10_000
        assert len(held) == 1 or sum(t.nbytes for t in held.values()) <= limit
        with safe_open(folder / file, framework="pt") as handle:
            assert handle.metadata() == {"format": "pt"}
    assert (
        AutoModelForCausalLM.from_pretrained(folder)
        .state_dict()["lm_head.weight"]
        .equal(whole["model.embed_tokens.weight"])
    )


def test_killed_training_resumes_to_the_bits_of_the_undisturbed_one(
    bench: Bench, layouts: dict[str, Path], resumed: str
) -> None:
    first, second = bench.attempt("killed"), bench.attempt("killed", 2)
    assert [p.name for p in first.glob("checkpoints/step_*")] == ["step_4"]  # the last two of both attempts
    assert losses(first) == losses(layouts["plain"])[:5]
    assert "killed/1/checkpoints/step_4" in resumed
    assert losses(second) == losses(layouts["plain"])
    assert weights(second) == weights(layouts["plain"])
    assert [p.name for p in second.glob("checkpoints/step_*")] == ["step_6"]


def test_signal_to_one_rank_saves_on_all_and_the_next_attempt_goes_on(
    bench: Bench, layouts: dict[str, Path], resumed: str
) -> None:
    assert "asked/1/checkpoints/step_3" in resumed
    assert "stopped after step 3 of 8" in files.read_json(bench.attempt("asked") / "outcome.json")["interrupted"]
    assert losses(bench.attempt("asked", 2)) == losses(layouts["plain"])
    assert weights(bench.attempt("asked", 2)) == weights(layouts["plain"])
