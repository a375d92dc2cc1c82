"""Where no layout fits: what it needs at least, and the smallest single changes that would make it fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from hpc.errors import PlanError
from hpc.plan import memory
from hpc.plan.fits import RATIOS, Problem, candidates, feasible, shareable
from hpc.plan.memory import Memory, Setup
from hpc.recipe.schema import Train


def nothing(problem: Problem) -> PlanError:
    """The error where no layout fits: the least that is needed, and the smallest changes that would help."""
    setup, need = min(_needs(problem), key=lambda pair: pair[1].gpu_bytes)
    tokens, machine = problem.longest, problem.machine
    limit = problem.host_limit
    host = f"; host {need.host_bytes / 1e9:.0f} of {limit / 1e9:.0f} GB" if math.isfinite(limit) else ""
    changes = "; ".join(_changes(problem))
    return PlanError(
        f"{problem.shape.name} does not fit on {machine.gpus} GPUs: at {tokens:,} tokens a row it needs "
        f"{need.gpu_bytes / 1e9:.1f} GB of each, {problem.gpu_limit / 1e9:.1f} GB may be used",
        where="train, resources.train",
        why=f"predicted with {setup.checkpointing} checkpointing: {need.arithmetic()}{host}",
        next=f"any one of these fits: {changes}" if changes else "take larger GPUs, or more than 8 times as many",
    )


def _needs(problem: Problem) -> Iterator[tuple[Setup, Memory]]:
    for setup in candidates(problem):
        shortest = replace(setup, row_tokens=problem.longest)
        yield shortest, memory.predict(problem.shape, shortest)


def _changes(problem: Problem) -> Iterator[str]:
    """Single changes of the settings, each the smallest of its kind that fits, with what it then takes."""
    settings, zero = problem.settings, problem.settings.zero
    for ratio in RATIOS:
        changed = replace(settings, zero=replace(zero, offload="optimizer", offload_ratio=ratio))
        if zero.stage == 3 and (words := _fits(problem, changed)):
            yield f"train.zero.offload=optimizer train.zero.offload_ratio={ratio:g} ({words})"
            break
    everything = replace(settings, zero=replace(zero, stage=3, offload="all"))
    if zero.offload != "all" and (words := _fits(problem, everything)):
        yield f"train.zero.offload=all ({words})"
    if settings.loss_chunk == 0 and (words := _fits(problem, replace(settings, loss_chunk=1024))):
        yield f"train.loss_chunk=1024 ({words})"
    if settings.activation_checkpointing != "auto":
        changed = replace(settings, activation_checkpointing="auto")
        if words := _fits(problem, changed):
            yield f"train.activation_checkpointing=auto ({words})"
    yield from _smallest_sharing(problem)
    if tokens := _most_tokens(problem):
        then = "cut" if settings.overlong == "cut" else "dropped"
        yield f"train.max_tokens={tokens} (longer examples are then {then})"
    if more := _more_gpus(problem):
        yield more


def _fits(problem: Problem, settings: Train) -> str:
    """What the leanest setup of other settings takes; empty if it does not fit."""
    changed = replace(problem, settings=settings)
    found = next(feasible(changed), None)
    if found is None:
        return ""
    return f"{memory.predict(problem.shape, replace(found, row_tokens=problem.longest)).gpu_bytes / 1e9:.1f} GB"


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
    """The largest max_tokens that fits, in steps of 1,000; 0 if that would leave less than 2,000."""
    most = 0
    for setup in candidates(problem):
        if memory.predict(problem.shape, replace(setup, row_tokens=2000)).host_bytes <= problem.host_limit:
            most = max(most, memory.most_tokens(problem.shape, setup, problem.gpu_limit))
    most //= 1 if problem.settings.pack else problem.settings.micro_batch
    return most // 1000 * 1000 if most >= 2000 else 0


def _more_gpus(problem: Problem) -> str:
    machine = problem.machine
    for gpus in range(machine.gpus + 1, 8 * machine.gpus + 1):
        whole = gpus <= machine.gpus_per_node or gpus % machine.gpus_per_node == 0
        if whole and next(feasible(replace(problem, machine=machine.scaled(gpus))), None) is not None:
            return f"resources.train.gpus={gpus} ({gpus - machine.gpus} more)"
    return ""
