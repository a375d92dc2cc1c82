"""Fits the constants of the plan's time model to published throughput, and says how well they tell an unseen source.

    python -m bench.fit             fit, print the errors, write hpc/plan/constants.yaml
    python -m bench.fit memory      the memory model beside published peaks
    python -m bench.run fit         the same errors as a dated result; writes no constants

Rows: bench/published/throughput.csv (torchtitan, Mosaic, TRL, prime-rl) and memory.csv. Every source weighs the same;
each constant is drawn to a value that is known apart from these rows (PRIORS), so that few rows cannot bend it. Left
out one source at a time, the root of the mean squared error of ln(predicted / published) becomes the plan's `error`.
The published runs of s1 and Sky-T1 are no part of the fit.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hpc.plan import machine, memory, shapes, speed
from hpc.plan.memory import Setup

PUBLISHED = Path(__file__).parent / "published"
CONSTANTS = Path(speed.__file__).with_name("constants.yaml")

PRIORS = {
    "dense": (0.65, 0.15),  # large bf16 products by cuBLAS on H100: 600 to 700 of 989 TFLOP/s
    "attention_triton": (0.18, 0.40),  # FlashAttention-1 in Triton, 2023: half of FlashAttention-2
    "attention_fa2": (0.30, 0.30),  # FlashAttention-2 forward and backward; 6 of the 7 products of a pass are counted
    "attention_fa3": (0.45, 0.30),  # FlashAttention-3 (its paper): 1.5 to 2 times that
    "traffic": (8.0, 0.5),  # activations: written, read, read again, with fp32 copies in norms
    "compiled": (0.4, 0.4),  # torch.compile: +16 % on Llama 8B (torchtitan)
    "launch_s": (0.001, 0.7),  # some 60 kernels of 10 us a layer and pass, and the sharding's hooks
}
"""Name: (value, standard deviation of its logarithm)."""
PRIOR_ROWS = 1.0
"""A prior weighs as much as this share of one source at an error of ERROR."""
ERROR = 0.1
FIRST_STEP, LAST_STEP = 0.2, 0.003
"""Constants are moved one by one by this share, up and down, then by half of it, as long as that helps."""


@dataclass(frozen=True)
class Row:
    """A published throughput with its settings."""

    source: str
    label: str
    shape: shapes.Shape
    setup: Setup
    work: speed.Work
    machine: machine.Machine
    kernel: Any
    compiled: bool
    seconds: float
    fitted: bool
    note: str


def main() -> None:
    """Fit and write, or print the memory table."""
    if sys.argv[1:] == ["memory"]:
        return print("\n".join(memory_lines()))
    constants, errors = fit(), left_out()
    found = replace(constants, error=round(pooled(errors), 4))
    CONSTANTS.write_text(text(found), encoding="utf-8")
    return print("\n".join([*lines(found, errors), f"wrote {CONSTANTS}"]))


def measure() -> dict[str, Any]:
    """Errors of the committed constants, for bench/results."""
    known, errors = speed.fitted(), left_out()
    memory_errors = [p / m - 1 for _, _, p, m, _ in memory_rows()]
    return {
        "constants": asdict(known),
        "left_out_rms_ln_error": {source: round(_rms(found), 4) for source, found in errors.items()},
        "pooled_rms_ln_error": round(pooled(errors), 4),
        "memory_mean_abs_error": round(sum(map(abs, memory_errors)) / len(memory_errors), 4),
    }


@cache
def rows() -> list[Row]:
    """The published throughputs."""
    with (PUBLISHED / "throughput.csv").open(encoding="utf-8", newline="") as file:
        return [_row(row) for row in csv.DictReader(file)]


def fit(without: str = "") -> speed.Constants:
    """The constants that tell the rows best; `without` one source."""
    chosen = [row for row in rows() if row.fitted and row.source != without]
    values = {name: value for name, (value, _) in PRIORS.items()}
    step, best = FIRST_STEP, _loss(values, chosen)
    while step > LAST_STEP:
        before = best
        for name in PRIORS:
            for factor in (math.exp(step), math.exp(-step)):
                moved = {**values, name: values[name] * factor}
                if (loss := _loss(moved, chosen)) < best:
                    values, best = moved, loss
        step = step if best < before else step / 2
    return speed.Constants(**{name: float(f"{value:.4g}") for name, value in values.items()}, error=0.0)


@cache
def left_out() -> dict[str, list[float]]:
    """ln(predicted / published) of every source's rows under constants that were fitted to the others."""
    sources = dict.fromkeys(row.source for row in rows() if row.fitted)
    return {
        source: [_error(fit(source), row) for row in rows() if row.fitted and row.source == source]
        for source in sources
    }


def pooled(errors: dict[str, list[float]]) -> float:
    """Root of the mean squared error, every source alike."""
    return math.sqrt(sum(_rms(found) ** 2 for found in errors.values()) / len(errors))


def text(constants: speed.Constants) -> str:
    """The file of constants."""
    head = "# Written by `python -m bench.fit` from bench/published/throughput.csv. What each is: hpc/plan/speed.py.\n"
    return head + "".join(f"{name}: {value:.6g}\n" for name, value in asdict(constants).items())


def lines(constants: speed.Constants, errors: dict[str, list[float]]) -> Iterable[str]:
    """The fit for people."""
    yield f"{'throughput, tokens/s/GPU':53s}published predicted error"
    for row in rows():
        error = _error(constants, row)
        rate = row.work.batch_tokens / row.seconds / row.setup.ranks
        tail = "" if row.fitted else "   (not fitted)"
        told = f"{rate:8.0f}{rate / math.exp(error):8.0f}  {100 * math.expm1(-error):+6.1f} %{tail}"
        yield f"{row.source:11s}{row.label:42s}{told}"
    for name, (prior, _) in PRIORS.items():
        yield f"{name:14s} {getattr(constants, name):8.4g}  (prior {prior:g})"
    for source, found in errors.items():
        mean = 100 * sum(found) / len(found)
        yield f"left out: {source:11s} rms error of time {100 * _rms(found):5.1f} %, mean {mean:+5.1f} %"
    yield f"pooled: {100 * constants.error:.1f} %"


def memory_rows() -> list[tuple[str, str, float, float, str]]:
    """(source, settings, predicted, published bytes, exception) of bench/published/memory.csv."""
    with (PUBLISHED / "memory.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    return [
        (
            r["source"],
            _label(r),
            memory.predict(_shape(r["model"]), _setup(r)).gpu_bytes,
            float(r["peak_gb"]) * 1e9,
            r["exception"],
        )
        for r in found
    ]


def memory_lines() -> Iterable[str]:
    """The memory model beside published peaks."""
    yield f"{'peak of one GPU, GB':53s}published predicted error"
    errors = []
    for source, label, predicted, published, exception in memory_rows():
        error = predicted / published - 1
        errors.append(error)
        told = f"{published / 1e9:8.1f}{predicted / 1e9:8.1f}  {100 * error:+6.1f} %"
        yield f"{source:11s}{label:42s}{told}{'  ' + exception if exception else ''}"
    yield f"mean absolute error {100 * sum(map(abs, errors)) / len(errors):.1f} %, all {len(errors)} rows"


def _row(row: dict[str, str]) -> Row:
    setup = _setup(row)
    passes, tokens = int(row["passes"]), setup.row_tokens
    squares = passes * int(row["rows_per_pass"]) * int(row["seq_tokens"]) ** 2
    work = speed.Work(passes, passes * tokens, squares, 1.0, passes * tokens * setup.groups, tokens)
    place = replace(machine.typical("h100", setup.ranks), tflops=float(row["tflops"]), hbm_gb_s=float(row["hbm_gb_s"]))
    rate = float(row["tokens_per_s_per_gpu"])
    return Row(
        row["source"],
        _label(row),
        _shape(row["model"]),
        setup,
        work,
        place,
        row["kernel"],
        row["compiled"] == "true",
        work.batch_tokens / rate / setup.ranks,
        row["fitted"] == "true",
        row["note"],
    )


def _setup(row: dict[str, str]) -> Setup:
    logit_bytes = int(row["logit_bytes"])
    return Setup(
        ranks=int(row["gpus"]),
        row_tokens=int(row["seq_tokens"]) * int(row["rows_per_pass"]),
        offload=row["offload"],  # type: ignore[arg-type]
        ratio=1.0 if row["offload"] != "none" else 0.0,
        sharing=int(row["sharing"]),
        checkpointing=row["checkpointing"],  # type: ignore[arg-type]
        loss_chunk=0 if logit_bytes else 1024,
        gradient_bytes=2,
        logit_bytes=logit_bytes,
        head_bytes=4,
    )


def _label(row: dict[str, str]) -> str:
    share = f" SP{row['sharing']}" if row["sharing"] != "1" else ""
    return f"{row['model']} {row['gpus']}x {row['rows_per_pass']}x{row['seq_tokens']}{share} {row['checkpointing']}"


@cache
def _shape(name: str) -> shapes.Shape:
    own = yaml.safe_load((PUBLISHED / "shapes.yaml").read_text(encoding="utf-8"))
    return shapes.Shape(name, **own[name]) if name in own else shapes.shape(name)


def _error(constants: speed.Constants, row: Row) -> float:
    """ln(predicted / published) of the time of a step."""
    found = speed.step(row.shape, row.setup, row.work, row.machine, constants, kernel=row.kernel, compiled=row.compiled)
    return math.log(found.seconds / row.seconds)


def _loss(values: dict[str, float], chosen: Sequence[Row]) -> float:
    constants = speed.Constants(**values, error=0.0)
    sources: dict[str, list[float]] = {}
    for row in chosen:
        sources.setdefault(row.source, []).append(_error(constants, row))
    drawn = sum((math.log(values[name] / value) / spread) ** 2 for name, (value, spread) in PRIORS.items())
    return sum(_rms(found) ** 2 for found in sources.values()) + PRIOR_ROWS * ERROR**2 * drawn


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(v * v for v in values) / len(values))


if __name__ == "__main__":
    main()
