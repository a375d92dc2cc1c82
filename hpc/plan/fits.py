"""Setups that fit: every combination that the settings leave open, each with the longest rows that memory allows.

next(fits.feasible(problem), None)          # the simplest; hpc/plan/layouts.py looks for the fastest
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from hpc.plan import memory, speed
from hpc.plan.machine import Machine
from hpc.plan.memory import Checkpointing, Offload, Setup
from hpc.plan.shapes import Shape
from hpc.recipe.schema import Train
from hpc.train import pack

RATIOS = tuple(n / 20 for n in range(1, 21))
"""Shares of the optimizer states in host memory that are tried."""
KEPT: tuple[Checkpointing, ...] = ("none", "selective", "full", "offloaded")
ROW_STEP = 256
"""Rows are whole multiples of it."""


@dataclass(frozen=True)
class Problem:
    """What a layout is looked for: model, settings, lengths after max_tokens, machine."""

    shape: Shape
    settings: Train
    tokens: tuple[int, ...]
    machine: Machine

    @staticmethod
    def of(shape: Shape, settings: Train, tokens: Sequence[int], machine: Machine) -> Problem:
        """The problem of examples with these lengths, cut or left out above max_tokens."""
        most, drop = settings.max_tokens, settings.overlong == "drop"
        kept = tuple(min(n, most) for n in tokens if n <= most or not drop) or (most,)
        return Problem(shape, settings, kept, machine)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row that cannot be made shorter."""
        return max(self.tokens) * (1 if self.settings.pack else self.settings.micro_batch)

    @cached_property
    def least_row(self) -> int:
        """Tokens of the shortest row that is allowed: the longest example's, or as asked."""
        asked = self.settings.row_tokens if self.settings.pack else "auto"
        return self.longest if asked == "auto" else max(asked, self.longest)

    @cached_property
    def means(self) -> tuple[float, float]:
        """Mean length, and mean of the squared lengths."""
        count = len(self.tokens)
        return sum(self.tokens) / count, sum(n * n for n in self.tokens) / count

    @cached_property
    def largest_batch(self) -> int:
        """Tokens of the largest global batch."""
        return speed.largest_batch(self.tokens, self.settings.batch_size)

    @property
    def gpu_limit(self) -> float:
        """Bytes of a GPU that a layout may fill."""
        return self.settings.memory_share * self.machine.gpu_memory_bytes

    @property
    def host_limit(self) -> float:
        """Bytes of a host that a layout may fill; without a limit where nobody says how large it is."""
        return memory.USABLE_HOST * self.machine.host_memory_bytes or math.inf

    @cached_property
    def cost(self) -> pack.Cost:
        """What a document costs, for balance."""
        return pack.cost_of(self.shape.matmul_params, self.shape.layers, self.shape.queries)


def feasible(problem: Problem) -> Iterator[Setup]:
    """Every setup that the settings leave open and that fits, simplest first, each with its longest rows."""
    for setup in candidates(problem):
        row = _row(problem, setup)
        if row >= problem.longest:
            fitting = replace(setup, row_tokens=row)
            if host_fits(problem, fitting):
                yield fitting


def host_fits(problem: Problem, setup: Setup) -> bool:
    """Whether the job's host memory holds what a setup puts there. Ranks alone are let through: what they take is an
    allowance, and a job that is killed for it is submitted again with more.
    """
    puts = setup.offload != "none" or setup.checkpointing == "offloaded"
    return not puts or memory.predict(problem.shape, setup).host_bytes <= problem.host_limit


def candidates(problem: Problem) -> Iterator[Setup]:
    """Every setup that the settings leave open, simplest first, without rows."""
    settings = problem.settings
    kept = settings.activation_checkpointing
    for offload, ratio in _offloads(problem):
        for sharing in _sharings(problem):
            for checkpointing in KEPT if kept == "auto" else (kept,):
                yield Setup(
                    ranks=problem.machine.gpus,
                    row_tokens=0,
                    zero_stage=memory.zero_stage(settings),
                    offload=offload,
                    ratio=ratio,
                    sharing=sharing,
                    checkpointing=checkpointing,
                    loss_chunk=settings.loss_chunk,
                    weight_bytes=2 if settings.dtype == "bf16" else 4,
                    gradient_bytes=2 if settings.state_dtype == "bf16" else 4,
                    state_bytes=6 if settings.state_dtype == "bf16" else 12,
                    ranks_per_node=min(problem.machine.gpus, problem.machine.gpus_per_node),
                )


def _offloads(problem: Problem) -> Iterator[tuple[Offload, float]]:
    zero = problem.settings.zero
    asked, stage = zero.offload, memory.zero_stage(problem.settings)
    ratios = RATIOS if zero.offload_ratio == "auto" else (float(zero.offload_ratio),)
    ratios = ratios if stage == 3 else (1.0,)  # DeepSpeed divides the states at stage 3 alone
    if asked in ("auto", "none"):
        yield "none", 0.0
    if asked in ("auto", "optimizer") and stage > 0:
        yield from (("optimizer", ratio) for ratio in ratios)
    if asked in ("auto", "all") and stage == 3:
        yield "all", 1.0


def _sharings(problem: Problem) -> Iterable[int]:
    """Ranks that may share a row: heads must divide among them, and they sit in one node."""
    asked, shape, machine = problem.settings.sequence_parallel, problem.shape, problem.machine
    if asked != "auto":
        return (asked,)
    if not problem.settings.pack:
        return (1,)
    most = min(machine.gpus, machine.gpus_per_node)
    return [s for s in range(1, most + 1) if machine.gpus % s == 0 and most % s == 0 and shareable(shape, s)]


def shareable(shape: Shape, ranks: int) -> bool:
    """True if Ulysses can deal the heads of attention to so many ranks: keys are shared out, or repeated evenly."""
    return shape.heads % ranks == 0 and (shape.kv_heads % ranks == 0 or ranks % shape.kv_heads == 0)


def _row(problem: Problem, setup: Setup) -> int:
    """The longest row: as asked, as memory allows, or as the batch has use for."""
    settings = problem.settings
    fits = memory.most_tokens(problem.shape, setup, problem.gpu_limit)
    if not settings.pack:
        return problem.longest if fits >= problem.longest else 0
    if fits < problem.least_row:
        return 0
    if settings.row_tokens != "auto":
        return problem.least_row
    useful = math.ceil(problem.largest_batch / setup.groups * 1.1 / ROW_STEP) * ROW_STEP
    return max(problem.longest, min(useful, fits // ROW_STEP * ROW_STEP))
