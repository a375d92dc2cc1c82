"""On one Hopper GPU: tokens/s and MFU beside TRL's SFTTrainer, and peak memory beside the plan's prediction.

    python -m bench.run gpu                 all of it, about 40 minutes on an H200; the result is a dated JSON
    python -m bench.gpu PART ...            parts of it (qwen2.5-1.5b, qwen2.5-3b, memory), printed
    python -m bench.gpu --dry [PART ...]    the same code with tiny shapes on CPUs: nothing that it prints is a claim

Qwen2.5's 1.5B and 3B shapes with random weights in bf16 (fp32 master weights on both sides), lengths of s1K, 16
examples a step. MFU counts the model's FLOPs over useful tokens: neither padding nor recomputation.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from bench import Absent
from bench.peers.sft import Outcome, Task, Worker
from hpc.errors import PlanError
from hpc.plan import layouts, lengths, machine, shapes
from hpc.plan.memory import Memory
from hpc.plan.shapes import Shape
from hpc.recipe.schema import Train, Zero

STEPS, WARM = 13, 3
"""Steps of one training, and those of them that are not timed."""
ROUNDS = 2
"""Each way is measured so often, the second time in reverse order."""
BATCH = 16
THROUGHPUT = ("qwen2.5-1.5b", "qwen2.5-3b")
MEMORY: tuple[tuple[str, int, int, str], ...] = (
    ("qwen2.5-0.5b", 8192, 1024, "none"),
    ("qwen2.5-0.5b", 32768, 1024, "full"),
    ("qwen2.5-0.5b", 16384, 0, "full"),
    ("qwen2.5-1.5b", 8192, 1024, "none"),
    ("qwen2.5-1.5b", 16384, 1024, "selective"),
    ("qwen2.5-1.5b", 32768, 1024, "full"),
    ("qwen2.5-1.5b", 8192, 0, "full"),
    ("qwen2.5-1.5b", 32768, 0, "full"),
    ("qwen2.5-3b", 8192, 1024, "selective"),
    ("qwen2.5-3b", 8192, 1024, "full"),
    ("qwen2.5-3b", 32768, 1024, "full"),
    ("qwen2.5-3b", 16384, 0, "full"),
)
"""(shape, tokens of a row, positions of a chunk of the loss, activation checkpointing)."""
MEAN_ERROR, LEAST_ERROR = 0.08, -0.05
"""What is promised of the memory model: mean of the absolute errors, and the most that it may predict too little."""
MFU = {"qwen2.5-3b": 0.45}
"""What is promised of ours, packed."""
PACKAGES = ("torch", "transformers", "trl", "deepspeed", "accelerate", "flash-attn")


@dataclass(frozen=True)
class Scale:
    """The size of everything: real, or `--dry`.

    Attributes:
        gpu: of the machine; shorter: lengths are divided by it.
    """

    gpu: machine.Machine
    device: str = "cuda"
    shorter: int = 1
    steps: int = STEPS
    warm: int = WARM
    rounds: int = ROUNDS

    def shape(self, name: str) -> Shape:
        """A row of the plan's table, made tiny for a dry run."""
        found = shapes.shape(name)
        if self.device == "cuda":
            return found
        return replace(found, hidden=64, layers=2, heads=4, kv_heads=2, ffn=96, vocab=512)


def measure(scale: Scale | None = None, parts: Sequence[str] = (*THROUGHPUT, "memory")) -> dict[str, Any]:
    """The numbers of these parts.

    Raises:
        Absent: there is no GPU.
    """
    scale = scale or _here()
    found: dict[str, Any] = {"dry": scale.device != "cuda", "gpu": gpu_state(), "versions": versions()}
    for part in parts:
        found[part] = memory(scale) if part == "memory" else throughput(scale, part)
    return found


def throughput(scale: Scale, name: str) -> dict[str, Any]:
    """Tokens a second and MFU of one shape, by way of training."""
    todo = ways(scale)
    found: dict[str, list[Outcome | str]] = {way: [] for way in todo}
    task = _task(scale, name)
    for number in range(scale.rounds):
        for way in reversed(todo) if number % 2 else todo:
            found[way].append(_train(task, {**todo[way], "steps": scale.steps}))
    ours = [one for one in found["ours"] if isinstance(one, Outcome)]
    rows: dict[str, Any] = {way: summary(scale, name, rounds, ours) for way, rounds in found.items()}
    best = max(
        (min(row["mfu"]) for way, row in rows.items() if way.startswith("ours") and row.get("mfu")), default=None
    )
    kept = best >= MFU[name] if best is not None and name in MFU else None
    return {**rows, "mfu_promised": MFU.get(name), "promise_kept": kept}


def ways(scale: Scale) -> dict[str, dict[str, Any]]:
    """By name: ours as recipes have it and with whole layers recomputed, TRL with and without recomputation."""
    trl = {"by": "trl", "attention": "flash_attention_2" if find_spec("flash_attn") else "sdpa"}
    row, short = 32768 // scale.shorter, 9216 // scale.shorter  # s1K's longest example has 8,956 tokens
    return {
        "ours": {"by": "ours"},
        "ours_full_checkpointing": {"by": "ours", "activation_checkpointing": "full"},
        "trl_padded_full_checkpointing": {**trl, "per_pass": 2, "checkpointing": True},
        "trl_padded": {**trl, "per_pass": 1},
        "trl_packed_full_checkpointing": {**trl, "per_pass": 1, "row_tokens": row, "checkpointing": True},
        "trl_packed": {**trl, "per_pass": 1, "row_tokens": short},
    }


def summary(scale: Scale, name: str, rounds: Sequence[Outcome | str], ours: Sequence[Outcome]) -> dict[str, Any]:
    """One way of training over its rounds; or why it failed."""
    done = [one for one in rounds if isinstance(one, Outcome)]
    if len(done) < len(rounds):
        return {"failed": next(one for one in rounds if isinstance(one, str))}
    shape, peak = scale.shape(name), scale.gpu.tflops * 1e12
    rates = [sum(one.step_tokens[scale.warm :]) / sum(one.step_s[scale.warm :]) for one in done]
    flops = [
        shape.flops(sum(one.step_tokens[scale.warm :]), sum(one.step_squares[scale.warm :]))
        / sum(one.step_s[scale.warm :])
        for one in done
    ]
    same = bool(ours) and done[0].step_tokens == ours[0].step_tokens
    apart = zip(done[0].losses, ours[0].losses, strict=False) if ours else []
    return {
        "useful_tokens_per_s": [round(rate) for rate in rates],
        "mfu": [round(each / peak, 4) for each in flops] if scale.device == "cuda" else None,
        "step_s_median": round(statistics.median(t for one in done for t in one.step_s[scale.warm :]), 3),
        "peak_reserved_gb": max(one.peak_reserved_bytes for one in done) / 1e9,
        "same_batches_as_ours": same,
        "most_loss_difference_to_ours": max((abs(a - b) for a, b in apart), default=None) if same else None,
        "laid_out": done[0].about,
    }


def memory(scale: Scale) -> dict[str, Any]:
    """Peaks of the GPU beside the plan's prediction; configurations that the plan would not fit are left out."""
    rows = [row for config in MEMORY if (row := _beside(scale, *config)) is not None]
    errors = [row["error"] for row in rows if row["error"] is not None]
    kept = bool(errors) and statistics.fmean(map(abs, errors)) <= MEAN_ERROR and min(errors) >= LEAST_ERROR
    return {
        "configurations": rows,
        "mean_absolute_error": round(statistics.fmean(map(abs, errors)), 4) if errors else None,
        "least_error": min(errors, default=None),
        "promise_kept": kept if errors else None,
    }


def predicted(scale: Scale, name: str, row_tokens: int, loss_chunk: int, checkpointing: Any) -> layouts.Layout:
    """The plan's layout of exactly this configuration.

    Raises:
        hpc.errors.PlanError: it does not fit.
    """
    asked = Train(
        max_tokens=row_tokens,
        batch_size=8,
        row_tokens=row_tokens,
        loss_chunk=loss_chunk,
        activation_checkpointing=checkpointing,
        zero=Zero(offload="none"),
    )
    return layouts.choose(scale.shape(name), asked, [row_tokens // 4] * 16, scale.gpu)


def _told(scale: Scale, *config: Any) -> Memory | None:
    """The prediction; None where the plan would not start such a training."""
    try:
        return predicted(scale, *config).memory
    except PlanError:
        return None


def _beside(scale: Scale, name: str, row_tokens: int, loss_chunk: int, checkpointing: str) -> dict[str, Any] | None:
    row_tokens //= scale.shorter
    told = _told(scale, name, row_tokens, loss_chunk, checkpointing)
    if told is None:
        return None
    task = Task(_form(scale.shape(name)), (row_tokens // 4,) * 16, batch_size=8, dtype="bf16", device=scale.device)
    way = {"by": "ours", "row_tokens": row_tokens, "loss_chunk": loss_chunk, "activation_checkpointing": checkpointing}
    outcome = _train(task, way)
    peak = outcome.peak_reserved_bytes if isinstance(outcome, Outcome) else 0
    return {
        "shape": name,
        "row_tokens": row_tokens,
        "loss_chunk": loss_chunk,
        "activation_checkpointing": checkpointing,
        "predicted_gb": round(told.gpu_bytes / 1e9, 2),
        "reserved_gb": round(peak / 1e9, 2) or None,
        "allocated_gb": round(outcome.peak_allocated_bytes / 1e9, 2) if isinstance(outcome, Outcome) else None,
        "error": round(told.gpu_bytes / peak - 1, 4) if peak else None,
        "failed": outcome if isinstance(outcome, str) else None,
        "arithmetic": told.arithmetic(),
    }


def _train(task: Task, way: dict[str, Any]) -> Outcome | str:
    """One training in a process of its own, whose memory is clean; or its last words."""
    with tempfile.TemporaryDirectory() as place, Worker(task, place) as worker:
        try:
            return worker.train(way)
        except RuntimeError as error:
            return str(error)[-600:]


def _task(scale: Scale, name: str) -> Task:
    drawn = random.Random(0).sample(lengths.drawn("simplescaling/s1K").tokens, scale.steps * BATCH)
    tokens = tuple(n // scale.shorter for n in drawn)
    return Task(_form(scale.shape(name)), tokens, batch_size=BATCH, dtype="bf16", device=scale.device)


def _form(shape: Shape) -> dict[str, Any]:
    return {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": shape.tied,
    }


def gpu_state() -> str:
    """Name, memory, driver, power limit and clocks, as nvidia-smi has them; empty without a GPU."""
    if not shutil.which("nvidia-smi"):
        return ""
    fields = "name,memory.total,driver_version,power.limit,clocks.max.sm"
    asked = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def versions() -> dict[str, str | None]:
    """Of what was measured with; null is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _here() -> Scale:
    """This machine's first GPU."""
    state = gpu_state()
    if not state:
        raise Absent(
            "no GPU is here",
            where="bench gpu",
            why="nvidia-smi names none",
            next="python -m bench.run gpu on a node with an H100 or H200; python -m bench.gpu --dry tries the code",
        )
    name, size, *_ = state.splitlines()[0].split(", ")
    bytes_ = float(size.split()[0]) * 2**20
    return Scale(machine.seen(name, gpus=1, gpus_per_node=1, gpu_memory_bytes=bytes_, host_memory_bytes=0.0))


def dry() -> Scale:
    """Tiny shapes on CPUs."""
    return Scale(machine.typical("h200", 1), device="cpu", shorter=128, steps=2, warm=1, rounds=1)


if __name__ == "__main__":
    asked_for = [word for word in sys.argv[1:] if word != "--dry"] or [*THROUGHPUT, "memory"]
    print(json.dumps(measure(dry() if "--dry" in sys.argv else None, asked_for), indent=1))
