"""Useful tokens a second of our training loop beside TRL's SFTTrainer, on one core: the same model, batches, optimizer.

    python -m bench.run training

Lengths are s1K's (histogram of its paper) divided by 16, the model is a Qwen2 of 2.5M parameters in fp32: what one core
does in minutes. CPU seconds are compared step by step over the same batches, ways of training in the order A-B-B-A;
equal losses show that the same work was timed. It says nothing of GPUs: there all have a kernel for rows of several
documents, while TRL's padding-free and packed rows pay here for a mask of the whole row (transformers' sdpa).
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from bench.peers.sft import Outcome, Task, Worker
from hpc.plan import lengths

FORM = {
    "vocab_size": 8192,
    "hidden_size": 160,
    "intermediate_size": 448,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
SHORTER = 16
"""Lengths are divided by it."""
SAMPLES = 256
ROW = 2048
"""Tokens of TRL's packed rows: 32,768 / SHORTER."""
WAYS: dict[str, dict[str, Any]] = {
    "ours": {"by": "ours"},
    "ours_zero_0": {"by": "ours", "zero_stage": 0},
    "trl_padded_2_a_pass": {"by": "trl", "per_pass": 2},
    "trl_padded_16_a_pass": {"by": "trl", "per_pass": 16},
    "trl_padding_free_2_a_pass": {"by": "trl", "per_pass": 2, "padding_free": True},
    "trl_padding_free_16_a_pass": {"by": "trl", "per_pass": 16, "padding_free": True},
    "trl_packed_bfd": {"by": "trl", "per_pass": 1, "row_tokens": ROW},
}
"""`ours` is as recipes have it (ZeRO-3, though one rank has nothing to share); TRL's model is not wrapped at all."""


def measure(samples: int = SAMPLES, rounds: int = 2) -> dict[str, Any]:
    """CPU seconds a step and useful tokens a CPU second, by way; ratios are ours to theirs, above 1 ours is faster."""
    os.environ["OMP_NUM_THREADS"] = "1"
    job = task(samples)
    found: dict[str, list[Outcome]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as place, Worker(job, place) as ours, Worker(job, place) as theirs:
        for number in range(rounds):
            for name in reversed(WAYS) if number % 2 else WAYS:
                worker = ours if WAYS[name]["by"] == "ours" else theirs
                found[name].append(worker.train(WAYS[name]))
    return {
        "samples": samples,
        "batch": job.batch_size,
        "mean_tokens": round(statistics.fmean(job.tokens), 1),
        "longest_tokens": max(job.tokens),
        "rounds": rounds,
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "deepspeed")},
        "ways": {name: summary(found[name], found["ours"]) for name in WAYS},
    }


def task(samples: int) -> Task:
    """Documents with s1K's lengths, shorter."""
    drawn = random.Random(0).sample(lengths.drawn("simplescaling/s1K").tokens, samples)
    return Task(FORM, tuple(n // SHORTER for n in drawn))


def summary(mine: Sequence[Outcome], ours: Sequence[Outcome]) -> dict[str, Any]:
    """One way of training, over its rounds; first steps, which warm up, are left out."""
    steps = [t for one in mine for t in one.cpu_s[1:]]
    tokens = sum(n for one in mine for n in one.step_tokens[1:])
    same = mine[0].step_tokens == ours[0].step_tokens
    ratios = _paired(mine, ours) if same else [_rate(b) / _rate(a) for a, b in zip(mine, ours, strict=True)]
    losses = zip([n for one in mine for n in one.losses], [n for one in ours for n in one.losses], strict=same)
    return {
        "cpu_s_a_step": _spread(steps),
        "wall_s_a_step": _spread([t for one in mine for t in one.step_s[1:]]),
        "useful_tokens_a_cpu_s": round(tokens / sum(steps)),
        "ours_is_times_as_fast": _spread(ratios),
        "same_batches": same,
        "most_loss_difference": max(abs(a - b) for a, b in losses) if same else None,
        "mean_loss": round(statistics.fmean(mine[0].losses), 5),
        "passes_a_step": round(statistics.fmean(mine[0].passes), 2),
        "laid_out": mine[0].about,
    }


def _paired(mine: Sequence[Outcome], ours: Sequence[Outcome]) -> list[float]:
    """Their time over ours for every step of every round."""
    return [
        a / b
        for one, other in zip(mine, ours, strict=True)
        for a, b in zip(one.cpu_s[1:], other.cpu_s[1:], strict=True)
    ]


def _rate(one: Outcome) -> float:
    return sum(one.step_tokens[1:]) / sum(one.cpu_s[1:])


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }
