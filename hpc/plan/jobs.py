"""Stages -> jobs -> arrays: what is run in one allocation, and which allocations one sbatch asks for.

A data or train stage is a job. All generate stages on one model with one engine are one job (one engine load); the
grade stages of such a job follow as one CPU job. An array holds jobs of one kind, resource shape and dependency shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hpc.files import canonical
from hpc.plan.graph import Stage
from hpc.recipe.schema import Resources


@dataclass
class Job:
    """Stage keys in order, run in one allocation. `parents` are positions of jobs that make its inputs."""

    kind: str
    stages: list[str]
    resources: dict[str, Any]
    parents: list[int] = field(default_factory=list)
    array: str = ""
    index: int = 0

    def document(self) -> dict[str, Any]:
        """The job as the plan prints it."""
        return {k: v for k, v in vars(self).items() if k != "parents"}


@dataclass
class Array:
    """Jobs that one sbatch submits. `parents`: {"type": aftercorr | afterok, "array": name[, "indices": [...]]}."""

    name: str
    kind: str
    resources: dict[str, Any]
    jobs: list[dict[str, Any]] = field(default_factory=list)
    parents: list[dict[str, Any]] = field(default_factory=list)


def shape(asked: Resources, kind: str, gpus_per_node: int) -> dict[str, Any]:
    """Resources with every `auto` decided: whole numbers for Slurm."""
    ranks = asked.ranks if asked.ranks != "auto" else max(1, asked.gpus) if kind == "train" else 1
    nodes = asked.nodes if asked.nodes != "auto" else max(1, math.ceil(asked.gpus / gpus_per_node))
    return {
        "gpus": asked.gpus,
        "gpu": asked.gpu,
        "ranks": ranks,
        "nodes": nodes,
        "cpus_per_rank": asked.cpus_per_rank,
        "memory_gib": asked.memory_gib,
        "hours": asked.hours,
    }


def jobs(stages: Iterable[Stage], gpus_per_node: int) -> list[Job]:
    """The jobs that make `stages` (given in an order in which they can be made), with their parents."""
    made: list[Job] = []
    place: dict[str, int] = {}
    groups: dict[str, int] = {}
    for stage in stages:
        group = _group(stage, place)
        if group in groups:
            made[groups[group]].stages.append(stage.key)
        else:
            groups[group] = len(made)
            made.append(Job(stage.stage, [stage.key], shape(stage.resources, stage.stage, gpus_per_node)))
        place[stage.key] = groups[group]
        job = made[groups[group]]
        parents = {place[i["key"]] for i in stage.inputs.values() if i.get("key") in place} - {groups[group]}
        job.parents = sorted({*job.parents, *parents})
    return made


def _group(stage: Stage, place: dict[str, int]) -> str:
    """Stages with an equal group share a job."""
    if stage.stage == "generate":
        engine = {k: stage.config[k] for k in ("engine", "dtype", "context_tokens", "tensor_parallel")}
        others = [i for n, i in sorted(stage.inputs.items()) if n != "model" and i.get("key") in place]
        return canonical(["generate", stage.inputs["model"], engine, vars(stage.resources), others])
    if stage.stage == "grade":
        source = stage.inputs["samples"]["key"]
        return f"grade of job {place[source]}" if source in place else "grade of published samples"
    return f"{stage.stage} {stage.key}"


def arrays(made: list[Job]) -> list[Array]:
    """The arrays of `made`, parents first; sets each job's array and index.

    Jobs that wait for the same jobs wait by `afterok` and are numbered from 0. Otherwise a job takes the index of its
    first parent and waits for it alone by `aftercorr`; for further parents the whole array waits by `afterok`.
    """
    done: list[Array] = []
    for group in _alike(made):
        family = [sorted(made[p].array for p in made[i].parents) for i in group]
        assert all(f == family[0] for f in family)
        if all(made[i].parents == made[group[0]].parents for i in group):
            done.append(
                _array(done, made, [(n, i) for n, i in enumerate(group)], _afterok(made, made[group[0]].parents))
            )
            continue
        lead = _leader(made, group)
        if lead is None:  # some job waits for two of one array: it cannot take both their indices
            for i in group:
                done.append(_array(done, made, [(0, i)], _afterok(made, made[i].parents)))
            continue
        for chosen in _distinct(made, group, lead):
            others = sorted({p for i in chosen for p in made[i].parents if made[p].array != lead})
            waits = [{"type": "aftercorr", "array": lead}, *_afterok(made, others)]
            numbered = [(made[p].index, i) for i in chosen for p in made[i].parents if made[p].array == lead]
            done.append(_array(done, made, numbered, waits))
    return done


def _alike(made: list[Job]) -> Iterable[list[int]]:
    """Positions of jobs of one kind, resources and parent arrays; a group comes after the arrays it waits for."""
    left = list(range(len(made)))
    while left:
        ready = [i for i in left if all(made[p].array for p in made[i].parents)]
        groups: dict[str, list[int]] = {}
        for i in ready:
            waits = sorted(made[p].array for p in made[i].parents)
            groups.setdefault(canonical([made[i].kind, made[i].resources, waits]), []).append(i)
        assert groups, "jobs wait for each other in a circle"
        yield from groups.values()
        left = [i for i in left if i not in set(ready)]


def _leader(made: list[Job], group: list[int]) -> str | None:
    """The parent array whose indices differ most between the jobs; None unless each job waits for one element of it."""
    counts: dict[str, set[int]] = {}
    for i in group:
        for p in made[i].parents:
            counts.setdefault(made[p].array, set()).add(made[p].index)
    single = [a for a in counts if all(sum(made[p].array == a for p in made[i].parents) == 1 for i in group)]
    return max(single, key=lambda a: len(counts[a]), default=None)


def _distinct(made: list[Job], group: list[int], lead: str) -> list[list[int]]:
    """`group` split so that within each part no two jobs have the same parent in `lead`: an index is one job."""
    parts: list[list[int]] = []
    used: list[set[int]] = []
    for i in group:
        index = next(made[p].index for p in made[i].parents if made[p].array == lead)
        for part, taken in zip(parts, used, strict=True):
            if index not in taken:
                part.append(i)
                taken.add(index)
                break
        else:
            parts.append([i])
            used.append({index})
    return parts


def _afterok(made: list[Job], parents: list[int]) -> list[dict[str, Any]]:
    waits: dict[str, list[int]] = {}
    for p in parents:
        waits.setdefault(made[p].array, []).append(made[p].index)
    return [{"type": "afterok", "array": name, "indices": sorted(indices)} for name, indices in waits.items()]


def _array(done: list[Array], made: list[Job], numbered: list[tuple[int, int]], waits: list[dict[str, Any]]) -> Array:
    kind = made[numbered[0][1]].kind
    name = f"{kind}-{sum(a.kind == kind for a in done)}"
    for index, i in numbered:
        made[i].array, made[i].index = name, index
    ordered = [made[i].document() for _, i in sorted(numbered)]
    return Array(name, kind, made[numbered[0][1]].resources, ordered, waits)
