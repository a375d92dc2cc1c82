"""How long a training step takes: a prediction, by parts. Constants are fitted to published throughput (bench/fit.py).

    python -m bench.fit                 fits them anew, and says how well they tell a source they have not seen

One pass of one rank: matrix products at a share of the peak, attention at another, elementwise work and logits at the
memory's bandwidth, a launch for every layer; gathers and reductions behind them, as far as they fit. All ranks wait for
the costliest row of a pass, and once a step for the optimizer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from hpc.plan import memory
from hpc.plan.machine import Machine
from hpc.plan.memory import Checkpointing, Setup
from hpc.plan.shapes import Shape
from hpc.train import pack

UNHIDDEN = 0.2
"""Share of the shorter of computing and communicating that the longer does not hide; assumed (no row tells it)."""
FP32_SHARE = 0.07
"""Peak in fp32 beside that in bf16: no tensor cores (67 of 989 TFLOP/s on an H100)."""
LOGIT_TRAFFIC = 40
"""Bytes read and written for every logit of the loss, forward and backward."""
ADAM_TRAFFIC = 60
"""Bytes read and written for every parameter of a GPU's optimizer step: norm, clipping, fused AdamW, bf16 copy."""
CPU_ADAM_TRAFFIC = 46
"""The same on a host: gradient clipped in place; weight, moments, gradient read; weight, moments, bf16 copy written."""
CORE_GB_S = 10
"""What one core moves in CPUAdam."""
CPU_ADAM_GB_S = 60
"""Most that the cores of one rank move: 3.1G parameters took two ranks 1.1 s (DeepSpeed's ZenFlow blog)."""
SURE = 1.645
"""Standard deviations to either side of a prediction: 90 % of outcomes, if errors are normal."""
ASSUMED = 2.0
"""Parts that no published row tells apart (gathers, swaps, optimizer) may take this many times as long, or as short."""
FITTED = ("matrix products", "attention", "elementwise", "launches")
STEP_S = 0.05
"""Batch, gradient norm, scheduler, log: once a step."""
SAMPLED = {"balanced": 128, "length": 2048, "random": 2048}
"""Examples that balance is computed on, in at least 2 global batches; balanced ones differ little."""

Order = Literal["balanced", "length", "random"]
Kernel = Literal["triton", "fa2", "fa3"]


@dataclass(frozen=True)
class Constants:
    """What is fitted; see bench/fit.py.

    Attributes:
        dense: share of the peak that large matrix products reach.
        attention_triton, attention_fa2, attention_fa3: the same of attention, counted as 6 L q n^2 (the real work is
            more), by class of kernel; fa3 stands for cuDNN's too.
        traffic: times that a layer's activations pass through memory, forward and backward, without torch.compile.
        compiled: share of that which is left with it.
        launch_s: seconds a layer and pass that no size of work hides.
        error: standard deviation of ln(predicted / published) where a source was left out of the fit.
    """

    dense: float
    attention_triton: float
    attention_fa2: float
    attention_fa3: float
    traffic: float
    compiled: float
    launch_s: float
    error: float


@dataclass(frozen=True)
class Work:
    """What the ranks of one group compute in a step, on average over batches.

    Attributes:
        passes: forward passes.
        tokens, squares: of the costliest row of each pass, added up over passes: tokens, and squared lengths.
        balance: share of the ranks' time that is work.
        batch_tokens: of the whole global batch.
        longest_row: tokens of the longest row of all.
    """

    passes: float
    tokens: float
    squares: float
    balance: float
    batch_tokens: float
    longest_row: int


@dataclass(frozen=True)
class Step:
    """Seconds of one optimizer step, by part; `parts` add up to `seconds`."""

    parts: dict[str, float]
    work: Work
    mfu: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.parts.values())


def step(
    shape: Shape,
    setup: Setup,
    work: Work,
    machine: Machine,
    constants: Constants | None = None,
    *,
    kernel: Kernel = "fa2",
    compiled: bool = False,
    overlap: bool = True,
) -> Step:
    """The time of one optimizer step.

    Args:
        kernel: class of the attention kernel.
        compiled: the model went through torch.compile.
        overlap: gathers are prefetched by whole layers; else they wait.
    """
    known = constants or fitted()
    parts = _compute(shape, setup, work, machine, known, kernel, compiled)
    exchange = _exchange(shape, setup, machine) * work.passes
    swaps = _swaps(shape, setup, work, machine)
    computing = sum(parts.values())
    hidden = min(computing, exchange) * (1 - UNHIDDEN) if overlap else 0.0
    parts["gathers"] = exchange - hidden
    parts["all-to-all"] = swaps
    parts["optimizer"] = _optimizer(shape, setup, machine)
    parts["rest"] = STEP_S
    parts = {k: v for k, v in parts.items() if v > 0}
    useful = shape.flops(work.batch_tokens, work.squares * work.balance * setup.groups)
    peak = machine.gpus * machine.tflops * 1e12
    return Step(parts, work, useful / peak / sum(parts.values()))


def interval(step: Step, spread: float, constants: Constants | None = None) -> tuple[float, float]:
    """Seconds between which a step lies with 90 % (if errors are normal).

    Three errors add up in squares: that of the fit, by sources left out of it; that of the tokens; that of the parts
    which were assumed.

    Args:
        spread: standard deviation of ln(tokens).
    """
    error = (constants or fitted()).error
    told = sum(v for k, v in step.parts.items() if k in FITTED)
    rest = step.seconds - told
    up = [told * math.expm1(SURE * error), told * math.expm1(SURE * spread), rest * (ASSUMED - 1)]
    down = [-told * math.expm1(-SURE * error), -told * math.expm1(-SURE * spread), rest * (1 - 1 / ASSUMED)]
    return step.seconds - math.hypot(*down), step.seconds + math.hypot(*up)


def break_even_tokens(shape: Shape, setup: Setup, machine: Machine) -> float:
    """Tokens that a GPU must compute in a pass for the gathers to hide behind them (ZeRO-3)."""
    one = Work(1, setup.sharing, 0.0, 1.0, setup.sharing, 0)
    each = sum(_compute(shape, setup, one, machine, fitted(), "fa2", False).values()) - _launches(
        shape, setup, fitted()
    )
    return _exchange(shape, setup, machine) / each


def _compute(
    shape: Shape,
    setup: Setup,
    work: Work,
    machine: Machine,
    known: Constants,
    kernel: Kernel,
    compiled: bool,
) -> dict[str, float]:
    tokens, squares = work.tokens / setup.sharing, work.squares / setup.sharing
    peak = machine.tflops * 1e12 * (1.0 if setup.weight_bytes == 2 else FP32_SHARE)
    bytes_s = machine.hbm_gb_s * 1e9
    again, attention_again, traffic_again = recomputed(shape, setup.checkpointing)
    dense = (6 * shape.matmul_params + 2 * again * shape.layers) * tokens
    attention = (6 + 2 * attention_again) * shape.layers * shape.queries * squares
    share = {"triton": known.attention_triton, "fa2": known.attention_fa2, "fa3": known.attention_fa3}[kernel]
    wide = setup.weight_bytes / 2
    kept = wide * memory.kept_bytes(shape, "none") * shape.layers * tokens
    moved = known.traffic * (known.compiled if compiled else 1.0) * kept * (1 + traffic_again / 3)
    return {
        "matrix products": dense / peak / known.dense,
        "attention": attention / peak / share,
        "elementwise": (moved + LOGIT_TRAFFIC * shape.vocab * tokens) / bytes_s,
        "launches": _launches(shape, setup, known) * work.passes,
    }


def _launches(shape: Shape, setup: Setup, known: Constants) -> float:
    return known.launch_s * shape.layers * (1.0 if setup.checkpointing == "none" else 4 / 3)


def recomputed(shape: Shape, checkpointing: Checkpointing) -> tuple[float, float, float]:
    """What the backward pass computes again of a layer: weights multiplied, attentions, share of elementwise work.

    Torch's checkpoint stops at the last tensor that backward needs, so the last matrix of the MLP is left out.
    """
    h, q, k, f = shape.hidden, shape.queries, shape.keys, shape.ffn
    if checkpointing == "none":
        return 0.0, 0.0, 0.0
    if checkpointing == "selective":
        return 0.0, 0.0, 1.0
    if checkpointing == "half":
        return h * (q + k + (f if shape.gated else 0)), 0.0, 1.0
    return shape.attention_params + shape.mlp_params - h * f, 1.0, 1.0


def _exchange(shape: Shape, setup: Setup, machine: Machine) -> float:
    """Seconds a pass for weights to come and gradients to go, between GPUs and between them and their hosts."""
    n, ranks = shape.params, setup.ranks
    rate = machine.gather_gb_s * 1e9
    others = (ranks - 1) / ranks
    gathered = 2 * setup.weight_bytes * n if setup.zero_stage == 3 else 0.0
    reduced = setup.weight_bytes * n * (1 if setup.zero_stage >= 2 else 2)
    between = (gathered + reduced) * others / rate
    lane = min(machine.host_gb_s, machine.dram_gb_s / min(ranks, machine.gpus_per_node)) * 1e9
    to_host = setup.gradient_bytes * n / ranks if setup.offload != "none" else 0.0
    from_host = 2 * setup.weight_bytes * n / ranks if setup.offload == "all" else 0.0
    inputs = (
        setup.weight_bytes * shape.hidden * shape.layers * setup.tokens if setup.checkpointing == "offloaded" else 0
    )
    return between + (2 * to_host + from_host + 2 * inputs) / lane


def _swaps(shape: Shape, setup: Setup, work: Work, machine: Machine) -> float:
    """Seconds a step of Ulysses' all-to-alls around attention; nothing hides them."""
    if setup.sharing == 1:
        return 0.0
    again = 0 if setup.checkpointing == "none" else 1  # selective too: it keeps products, not what was exchanged
    each = setup.weight_bytes * (2 * shape.queries + 2 * shape.keys) * shape.layers * (2 + again)
    others = (setup.sharing - 1) / setup.sharing
    return each * work.tokens / setup.sharing * others / (machine.swap_gb_s(setup.sharing) * 1e9)


def _optimizer(shape: Shape, setup: Setup, machine: Machine) -> float:
    ratio = {"none": 0.0, "optimizer": setup.ratio, "all": 1.0}[setup.offload]
    shard = shape.params / (setup.ranks if setup.zero_stage >= 1 else 1)
    scale = setup.state_bytes / 12
    own = ADAM_TRAFFIC * scale * shard * (1 - ratio) / (machine.hbm_gb_s * 1e9)
    ranks = min(setup.ranks, machine.gpus_per_node)
    rate = min(machine.dram_gb_s / ranks, CPU_ADAM_GB_S, CORE_GB_S * machine.cores_per_gpu) * 1e9
    hosts = CPU_ADAM_TRAFFIC * scale * shard * ratio / rate
    back = setup.weight_bytes * shard * ratio / (machine.host_gb_s * 1e9)
    return own + hosts + back


def work(
    tokens: Sequence[int],
    batch_size: int,
    setup: Setup,
    cost: pack.Cost,
    *,
    order: Order = "balanced",
    per_row: int = 1,
) -> Work:
    """The rows of a step, averaged over shuffled global batches.

    Args:
        tokens: lengths of the examples; order: packed and balanced, `per_row` examples dealt by length, or at random.
    """
    passes = tokens_max = squares_max = spent = used = total = squared = 0.0
    longest, batches = 0, _batches(tuple(tokens), batch_size, SAMPLED[order])
    for batch in batches:
        for one in _passes(batch, setup, cost, order, per_row):
            rows = [[batch[i] for i in row] for row in one]
            costs = [sum(map(cost, row)) for row in rows]
            dear = rows[costs.index(max(costs))]
            passes += 1
            tokens_max += sum(dear)
            squares_max += sum(n * n for n in dear)
            spent += max(costs) * len(rows)
            used += sum(costs)
            longest = max(longest, *(sum(row) for row in rows))
        total += sum(batch)
        squared += sum(n * n for n in batch)
    size, count = min(batch_size, len(tokens)), len(batches)
    whole, wide = (size * sum(n**power for n in tokens) / len(tokens) for power in (1, 2))  # few batches are no average
    most, quadratic = tokens_max * whole / total, squares_max * wide / squared
    return Work(passes / count, most, quadratic, used / spent, whole, longest)


def _passes(batch: Sequence[int], setup: Setup, cost: pack.Cost, order: Order, per_row: int) -> list[pack.Pass]:
    if order == "balanced":
        return pack.pack(batch, setup.groups, setup.row_tokens, cost)
    if order == "length":
        return pack.singly(batch, setup.groups, per_row)
    width = setup.groups * per_row
    places = range(len(batch))
    return [
        [list(places[first + g * per_row : first + (g + 1) * per_row]) for g in range(setup.groups)]
        for first in range(0, len(batch), width)
    ]


@cache
def largest_batch(tokens: tuple[int, ...], batch_size: int) -> int:
    """Tokens of the largest of the global batches that are looked at."""
    return max(map(sum, _batches(tokens, batch_size, SAMPLED["length"])))


@cache
def _batches(tokens: tuple[int, ...], batch_size: int, sampled: int) -> list[list[int]]:
    """Global batches of shuffled examples; the same ones every time."""
    order = list(tokens)
    random.Random(0).shuffle(order)
    count = min(max(2, sampled // batch_size), math.ceil(len(order) / batch_size))
    return [order[n * batch_size : (n + 1) * batch_size] for n in range(count)]


@cache
def fitted() -> Constants:
    """The constants that bench/fit.py has written."""
    text = Path(__file__).with_name("constants.yaml").read_text(encoding="utf-8")
    return Constants(**{k: v for k, v in yaml.safe_load(text).items() if k in Constants.__dataclass_fields__})
