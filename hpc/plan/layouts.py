"""The best layout of a training on given GPUs: what every `auto` comes to, with the arithmetic; or what would fit.

    from hpc.plan import layouts
    layouts.choose(shape, settings, tokens, machine)        # the plan's, and the job's own on its node

Every combination of offload and its ratio, sequence parallelism and checkpointing that the settings leave open gets the
longest rows that memory allows; the one with the shortest predicted step wins. Where none fits, the smallest single
change that would is looked for, and named with its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from hpc.errors import PlanError
from hpc.plan import changes, memory, speed
from hpc.plan.fits import ROW_STEP, Problem, feasible, shareable
from hpc.plan.machine import GIB, Machine
from hpc.plan.memory import USABLE_HOST, Checkpointing, Memory, Offload, Setup
from hpc.plan.shapes import Shape
from hpc.recipe.schema import Train
from hpc.train import pack

RECOMPUTED = {
    "none": "memory holds everything that the backward pass needs",
    "selective": "results of matrix products and attention are kept, the rest is computed again",
    "half": "every second matrix product is computed again",
    "full": "only the inputs of layers are kept; keeping more would take shorter rows, and more passes",
    "offloaded": "the inputs of layers go to host memory, so that rows can be long",
}
GAIN = 0.03
"""A layout that uses host memory must be faster by this share than one that does not: its rates are assumed."""
CLOSE = 0.02
"""Layouts whose predicted steps differ by less are equally fast."""
LEAN = 0.9
"""One of equally fast layouts is leaner if it takes at most this share of the fastest one's memory."""


@dataclass(frozen=True)
class Layout:
    """Settings that were chosen (all of them *how*), what they take, and why.

    Attributes:
        setup: the same for the models of memory and speed; work: the rows of a step.
        memory: peaks of a GPU and a host, in bytes, by part.
        step: predicted seconds of an optimizer step, by part.
    """

    offload: Offload
    offload_ratio: float
    sequence_parallel: int
    row_tokens: int
    activation_checkpointing: Checkpointing
    loss_chunk: int
    reasons: tuple[str, ...]
    setup: Setup
    memory: Memory
    work: speed.Work
    step: speed.Step

    @property
    def step_s(self) -> float:
        """Seconds of an optimizer step: the middle of the prediction."""
        return self.step.seconds


def choose(shape: Shape, settings: Train, tokens: Sequence[int], machine: Machine) -> Layout:
    """The feasible layout with the shortest predicted step.

    Args:
        tokens: lengths of the examples, before max_tokens.
        machine: its GPUs are the ranks; at least one.

    Raises:
        PlanError: no layout fits, or the settings exclude each other; with the smallest changes that would help.
    """
    assert machine.gpus > 0, "layouts are of GPUs; on CPUs nothing is chosen"
    problem = Problem.of(shape, settings, tokens, machine)
    _check(problem)
    found = _best(problem)
    if found is None:
        raise changes.nothing(problem)
    return found


def _check(problem: Problem) -> None:
    """Raise PlanError for settings that no machine of this size can follow."""
    settings, gpus, shape = problem.settings, problem.machine.gpus, problem.shape
    ratio, ranks = settings.zero.offload_ratio, settings.sequence_parallel
    if ratio != "auto" and ratio > 1:
        raise PlanError(
            f"train.zero.offload_ratio is {ratio:g}",
            where="train.zero",
            why="it is a share of the optimizer states: 0 to 1",
            next="set train.zero.offload_ratio between 0 and 1, or to auto",
        )
    if settings.zero.offload == "all" and settings.zero.stage != 3:
        raise PlanError(
            "parameters are offloaded where they are sharded",
            where="train.zero",
            why=f"offload is all, stage is {settings.zero.stage}: DeepSpeed would leave the parameters on the GPU",
            next="set train.zero.stage=3, or train.zero.offload=optimizer",
        )
    if settings.zero.offload == "optimizer" and memory.zero_stage(settings) == 0:
        raise PlanError(
            "optimizer states are offloaded where they are sharded",
            where="train.zero",
            why="offload is optimizer, stage is 0 in fp32: DeepSpeed would leave them on the GPU",
            next="set train.zero.stage to 1 or more, or train.zero.offload=none",
        )
    if settings.memory_share > 1:
        raise PlanError(
            f"train.memory_share is {settings.memory_share:g}",
            where="train.memory_share",
            why="it is a share of a GPU's memory: 0 to 1",
            next="set train.memory_share to 1 or less; 0.92 leaves room for what a prediction misses",
        )
    if ranks != "auto" and (gpus % ranks or not shareable(shape, ranks)):
        valid = [str(n) for n in range(1, gpus + 1) if gpus % n == 0 and shareable(shape, n)]
        raise PlanError(
            f"{ranks} ranks cannot share a row",
            where="train.sequence_parallel",
            why=f"it must divide {gpus} GPUs, {shape.heads} heads of queries, and {shape.kv_heads} of keys evenly",
            next=f"set train.sequence_parallel to {', '.join(valid)} or auto",
        )


def _best(problem: Problem) -> Layout | None:
    """Candidates in the order of a bound that needs no packing; packing decides among the first of them.

    Of those that are as good as the best (CLOSE) one with much memory to spare is taken, if there is one.
    """
    bounded = sorted((_weighed(_bound(problem, setup), setup), n, setup) for n, setup in enumerate(feasible(problem)))
    tried: list[tuple[float, Setup, speed.Work, speed.Step]] = []
    best = math.inf
    for bound, setup in _first_of_kind(bounded):
        if bound > best * (1 + CLOSE):
            break
        work = _work(problem, setup)
        step = speed.step(problem.shape, setup, work, problem.machine)
        tried.append((_weighed(step.seconds, setup), setup, work, step))
        best = min(best, tried[-1][0])
    if not tried:
        return None
    tried.sort(key=lambda row: row[0])
    taken = [memory.predict(problem.shape, setup).gpu_bytes for _, setup, _, _ in tried]
    lean = [n for n, row in enumerate(tried) if row[0] <= best * (1 + CLOSE) and taken[n] <= LEAN * taken[0]]
    _, setup, work, step = tried[min(lean, key=lambda n: taken[n], default=0)]
    return _layout(problem, setup, work, step, len(bounded))


def _first_of_kind(bounded: Sequence[tuple[float, int, Setup]]) -> Iterator[tuple[float, Setup]]:
    """The first of all setups that differ in ratio and row alone; the others are slower by the same arithmetic."""
    seen = set()
    for bound, _, setup in bounded:
        kind = (setup.offload, setup.sharing, setup.checkpointing)
        if kind not in seen:
            seen.add(kind)
            yield bound, setup


def _weighed(seconds: float, setup: Setup) -> float:
    hosts = (setup.offload != "none") + (setup.checkpointing == "offloaded")
    return seconds * (1 + GAIN * hosts)


def _bound(problem: Problem, setup: Setup) -> float:
    """Seconds of a step if its rows were perfectly balanced: never more than what packing gives."""
    batch = min(problem.settings.batch_size, len(problem.tokens))
    mean, squares = problem.means
    total = batch * mean
    if problem.settings.pack:
        passes = max(1.0, math.ceil(total / setup.groups / setup.row_tokens))
    else:
        passes = math.ceil(batch / setup.groups / problem.settings.micro_batch)
    share = max(1 / setup.groups, 1 / batch)
    perfect = speed.Work(passes, total * share, batch * squares * share, 1.0, total, setup.row_tokens)
    return speed.step(problem.shape, setup, perfect, problem.machine).seconds


def _work(problem: Problem, setup: Setup) -> speed.Work:
    settings = problem.settings
    order: speed.Order = "balanced" if settings.pack else "length"
    rows = _coarse(setup.row_tokens) if settings.pack else setup.row_tokens
    key = replace(Setup(ranks=setup.ranks, row_tokens=max(rows, problem.longest)), sharing=setup.sharing)
    return _packed(problem.tokens, settings.batch_size, key, problem.cost, order, settings.micro_batch)


@cache
def _packed(
    tokens: tuple[int, ...], batch_size: int, setup: Setup, cost: pack.Cost, order: speed.Order, per_row: int
) -> speed.Work:
    return speed.work(tokens, batch_size, setup, cost, order=order, per_row=per_row)


def _coarse(row_tokens: int) -> int:
    """Rows of nearly equal length are packed once: rounded down to 2 % steps."""
    return int(1.02 ** math.floor(math.log(row_tokens, 1.02))) if row_tokens > ROW_STEP else row_tokens


def _layout(problem: Problem, setup: Setup, work: speed.Work, step: speed.Step, tried: int) -> Layout:
    taken = memory.predict(problem.shape, setup)
    return Layout(
        setup.offload,
        setup.ratio,
        setup.sharing,
        setup.row_tokens,
        setup.checkpointing,
        setup.loss_chunk,
        tuple(_reasons(problem, setup, work, step, taken, tried)),
        setup,
        taken,
        work,
        step,
    )


def _reasons(
    problem: Problem, setup: Setup, work: speed.Work, step: speed.Step, taken: Memory, tried: int
) -> Iterator[str]:
    gb, machine = 1e9, problem.machine
    yield (
        f"layout: of {tried} that fit into {problem.gpu_limit / gb:.1f} GB of each GPU the fastest; "
        f"within {100 * CLOSE:.0f} % a leaner one"
    )
    yield taken.arithmetic()
    if taken.host_bytes > problem.host_limit:
        yield (
            f"HOST MEMORY: {taken.host_bytes / gb:.0f} GB per node, {problem.host_limit / gb:.0f} GB may be used; "
            f"next: resources.train.memory_gib={math.ceil(taken.host_bytes / USABLE_HOST / GIB)}"
        )
    if setup.offload != "none":
        without = memory.predict(problem.shape, replace(setup, offload="none", ratio=0.0)).gpu_bytes
        yield (
            f"offload {setup.offload} of {100 * setup.ratio:.0f} % of the optimizer states: without it "
            f"{without / gb:.1f} GB; host {taken.host_bytes / gb:.0f} GB per node"
        )
    yield (
        f"rows of up to {setup.row_tokens:,} tokens, {setup.sharing} rank(s) to a row: {work.passes:.1f} passes a "
        f"step, ranks are busy {100 * work.balance:.0f} % of the time"
    )
    yield f"activation checkpointing {setup.checkpointing}: {RECOMPUTED[setup.checkpointing]}"
    if setup.zero_stage == 3 and machine.gpus > 1:
        needed = speed.break_even_tokens(problem.shape, setup, machine)
        there = work.tokens / work.passes / setup.sharing
        yield f"gathers hide behind {needed:,.0f} tokens a GPU and pass; a pass has {there:,.0f}"
    parts = " + ".join(f"{v:.2f} {k}" for k, v in step.parts.items() if v >= 0.01 * step.seconds)
    yield f"step {step.seconds:.2f} s = {parts}; MFU {100 * step.mfu:.0f} % (predicted)"
