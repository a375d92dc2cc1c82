"""Where no layout fits: what it needs at least, and the smallest single changes that would make it fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from hpc.errors import PlanError
from hpc.plan import memory
from hpc.plan.fits import RATIOS, Problem, candidates, feasible, host_fits, shareable
from hpc.plan.machine import GIB
from hpc.plan.memory import Memory, Setup
from hpc.recipe.schema import Train

MOST_TIMES = 8
"""A job with so many times its GPUs is the largest that is looked at."""


def nothing(problem: Problem) -> PlanError:
    """The error where no layout fits: the least that is needed, and the smallest changes that would help."""
    tokens, machine, limit = problem.least_row, problem.machine, problem.host_limit
    if by_host := _on_larger_hosts(problem):
        setup, need = by_host
        what = f"of host memory it needs {need.host_bytes / 1e9:.0f} GB a node, {limit / 1e9:.0f} GB may be used"
    else:
        setup, need = min(_needs(problem), key=lambda pair: pair[1].gpu_bytes)
        what = (
            f"at {tokens:,} tokens a row it needs {need.gpu_bytes / 1e9:.1f} GB of each, "
            f"{problem.gpu_limit / 1e9:.1f} GB may be used"
        )
    host = f"; host {need.host_bytes / 1e9:.0f} of {limit / 1e9:.0f} GB" if math.isfinite(limit) else ""
    changes = "; ".join(_changes(problem))
    return PlanError(
        f"{problem.shape.name} does not fit on {machine.gpus} GPUs: {what}",
        where="train, resources.train",
        why=f"predicted with {setup.checkpointing} checkpointing: {need.arithmetic()}{host}",
        next=f"any one of these fits: {changes}"
        if changes
        else f"take larger GPUs, or more than {MOST_TIMES} times as many",
    )


def _needs(problem: Problem) -> Iterator[tuple[Setup, Memory]]:
    for setup in candidates(problem):
        shortest = replace(setup, row_tokens=problem.least_row)
        yield shortest, memory.predict(problem.shape, shortest)


def _on_larger_hosts(problem: Problem) -> tuple[Setup, Memory] | None:
    """What fits the GPUs and takes the least host memory, however much that is."""
    endless = replace(problem, machine=replace(problem.machine, host_memory_bytes=0.0))
    fitting = [(setup, memory.predict(problem.shape, setup)) for setup in feasible(endless)]
    return min(fitting, key=lambda pair: pair[1].host_bytes, default=None)


def _changes(problem: Problem) -> Iterator[str]:
    """Single changes of the settings, each the smallest of its kind that fits, with what it then takes."""
    yield from _more_memory(problem)
    yield from _more_offload(problem)
    yield from _other_settings(problem)
    yield from _smallest_sharing(problem)
    if tokens := _most_tokens(problem):
        then = "cut" if problem.settings.overlong == "cut" else "dropped"
        yield f"train.max_tokens={tokens} (longer examples are then {then})"
    if more := _more_gpus(problem):
        yield more


def _more_memory(problem: Problem) -> Iterator[str]:
    found, machine = _on_larger_hosts(problem), problem.machine
    if found is None:
        return
    gib = math.ceil(found[1].host_bytes / memory.USABLE_HOST / GIB)
    if not machine.node_memory_bytes or gib * GIB <= machine.node_memory_bytes:
        yield f"resources.train.memory_gib={gib} ({found[1].host_bytes / 1e9:.0f} GB of it used)"


def _more_offload(problem: Problem) -> Iterator[str]:
    settings, zero = problem.settings, problem.settings.zero
    for ratio in RATIOS:
        changed = replace(settings, zero=replace(zero, offload="optimizer", offload_ratio=ratio))
        if zero.stage == 3 and (words := _fits(problem, changed)):
            yield f"train.zero.offload=optimizer train.zero.offload_ratio={ratio:g} ({words})"
            break
    everything = replace(settings, zero=replace(zero, stage=3, offload="all"))
    if (zero.stage, zero.offload) != (3, "all") and (words := _fits(problem, everything)):
        yield f"{'' if zero.stage == 3 else 'train.zero.stage=3 '}train.zero.offload=all ({words})"


def _other_settings(problem: Problem) -> Iterator[str]:
    """Settings that were asked for and could be left to the plan, or be smaller."""
    settings = problem.settings
    tried: dict[str, Train] = {}
    if settings.loss_chunk == 0:
        tried["loss_chunk=1024"] = replace(settings, loss_chunk=1024)
    if settings.activation_checkpointing != "auto":
        tried["activation_checkpointing=auto"] = replace(settings, activation_checkpointing="auto")
    if settings.pack and settings.row_tokens != "auto":
        tried["row_tokens=auto"] = replace(settings, row_tokens="auto")
    if not settings.pack and settings.micro_batch > 1:
        tried["micro_batch=1"] = replace(settings, micro_batch=1)
    for words, changed in tried.items():
        if taken := _fits(problem, changed):
            yield f"train.{words} ({taken})"


def _fits(problem: Problem, settings: Train) -> str:
    """What the simplest setup of other settings takes; empty if it does not fit."""
    changed = replace(problem, settings=settings)
    found = next(feasible(changed), None)
    if found is None:
        return ""
    shortest = replace(found, row_tokens=changed.least_row)
    return f"{memory.predict(problem.shape, shortest).gpu_bytes / 1e9:.1f} GB"


def _smallest_sharing(problem: Problem) -> Iterator[str]:
    if problem.settings.sequence_parallel == "auto" and problem.settings.pack:
        return
    for ranks in range(2, problem.machine.gpus_per_node + 1):
        if problem.machine.gpus % ranks == 0 and shareable(problem.shape, ranks):
            changed = replace(problem.settings, sequence_parallel=ranks, pack=True)
            if words := _fits(problem, changed):
                yield f"train.sequence_parallel={ranks} train.pack=true ({words})"
                return


def _most_tokens(problem: Problem) -> int:
    """The largest max_tokens that fits, in steps of 1,000; 0 if there is none between 2,000 and the longest example."""
    settings, most = problem.settings, 0
    for setup in candidates(problem):
        if host_fits(problem, replace(setup, row_tokens=2000)):
            most = max(most, memory.most_tokens(problem.shape, setup, problem.gpu_limit))
    most //= 1 if settings.pack else settings.micro_batch
    most = most // 1000 * 1000
    if not 2000 <= most < max(problem.tokens) or (settings.overlong == "drop" and min(problem.tokens) > most):
        return 0
    shorter = Problem.of(problem.shape, replace(settings, max_tokens=most), problem.tokens, problem.machine)
    return most if next(feasible(shorter), None) else 0


def _more_gpus(problem: Problem) -> str:
    """The fewest GPUs that fit: some of one node, or whole nodes."""
    machine, ranks = problem.machine, problem.settings.sequence_parallel
    node = machine.node_gpus or machine.gpus_per_node
    for gpus in range(machine.gpus + 1, MOST_TIMES * machine.gpus + 1):
        even = (gpus <= node or gpus % node == 0) and (ranks == "auto" or gpus % ranks == 0)
        if even and next(feasible(replace(problem, machine=machine.scaled(gpus))), None) is not None:
            return f"resources.train.gpus={gpus} ({gpus - machine.gpus} more)"
    return ""
