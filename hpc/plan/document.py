"""The plan of a sweep or recipe: runs, stages, jobs, arrays, totals, as one JSON document.

hpc plan sweeps/s1_budget.yaml --json
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc import artifact, files
from hpc.evals import stats
from hpc.plan import disk, forecast, hub
from hpc.plan import jobs as jobbing
from hpc.plan.graph import Graph, Keys, Stage
from hpc.recipe import schema
from hpc.recipe.sweep import Run, Sweep

if TYPE_CHECKING:
    from hpc.cluster.profile import Profile

GPUS_PER_NODE = 8
"""Assumed where no profile says otherwise."""


@dataclass
class Plan:
    """A sweep, its graph, and what is left to do."""

    sweep: Sweep
    graph: Graph
    keys: dict[str, Keys]
    states: dict[str, str]
    published: dict[str, Path]
    jobs: list[jobbing.Job]
    arrays: list[jobbing.Array]
    gpus_per_node: int = GPUS_PER_NODE
    notes: list[str] = field(default_factory=list)
    profile: Profile | None = None


def make(
    sweep: Sweep,
    roots: Sequence[Path] = (),
    gpus_per_node: int = GPUS_PER_NODE,
    cut: Callable[[schema.Recipe], schema.Recipe] | None = None,
    profile: Profile | None = None,
) -> Plan:
    """The plan of `sweep`: every stage with its key and state, and the jobs for those that no root has published.

    Args:
        cut: changes the recipes that the runs refer to.
        profile: the cluster that time, memory and cost are predicted for; None predicts nothing.
    """
    graph = Graph(cut)
    keys = {run.name: graph.add(run.base, run.recipe, run.seeds, sweep.path) for run in sweep.runs}
    for run_name, run_keys in keys.items():
        for _, key in run_keys.flat():
            graph.stages[key].runs.add(run_name)
    _forget_unused(graph)
    published = {s.key: found for s in graph.stages.values() if (found := artifact.find(roots, s.stage, s.key))}
    needed = _needed(graph, published)
    states = {
        k: "reused" if k in published else "shared" if len(s.runs) > 1 else "new" for k, s in graph.stages.items()
    }
    made = jobbing.jobs([s for s in graph.stages.values() if s.key in needed], gpus_per_node)
    arrays = jobbing.arrays(made)
    plan = Plan(sweep, graph, keys, states, published, made, arrays, gpus_per_node, profile=profile)
    plan.notes = [*_equal_runs(sweep.runs, keys), *_idle_sizes(plan)]
    return plan


def _forget_unused(graph: Graph) -> None:
    """Drop stages of referred recipes that no run needs: a base model's own evaluation, for one."""
    used = _needed(graph, {})
    graph.stages = {key: stage for key, stage in graph.stages.items() if key in used}


def _needed(graph: Graph, published: dict[str, Path]) -> set[str]:
    """Stages of the runs that are not published, and what these need in turn."""
    wanted = [s.key for s in graph.stages.values() if s.runs and s.key not in published]
    needed: set[str] = set()
    while wanted:
        key = wanted.pop()
        if key not in needed:
            needed.add(key)
            inputs = [i["key"] for i in graph.stages[key].inputs.values() if "key" in i]
            wanted += [k for k in inputs if k not in published]
    return needed


def document(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON; hours, memory and dollars are null where they are not predicted."""
    stages = [_stage(plan, s) for s in plan.graph.stages.values()]
    to_make = {key for job in plan.jobs for key in job.stages}
    told = forecast.notes(stages, plan.graph.stages, to_make) if plan.profile else []
    made = {
        "name": plan.sweep.name,
        "path": plan.sweep.path,
        "about": plan.sweep.about,
        "recipe": plan.sweep.recipe,
        "runs": [_run(run, plan.keys[run.name]) for run in plan.sweep.runs],
        "stages": stages,
        "tasks": _tasks(plan.graph.stages.values()),
        "jobs": [job.document() for job in plan.jobs],
        "arrays": [vars(array) for array in plan.arrays],
        "notes": [*plan.notes, *told],
        "report": plan.sweep.report,
        "totals": {**_totals(plan), **forecast.totals(stages, to_make)},
    }
    # repositories whose commit is not known here: not pinned in the recipe, and not fetched into the cache
    return {**made, "unpinned": [need.title for need in hub.needs(made) if need.revision == "main"]}


def signature(keys: Keys) -> str:
    """8 hex digits that name a run by the artifacts it stands for: the run's id in W&B."""
    return files.digest(keys.document())[:8]


def _run(run: Run, keys: Keys) -> dict[str, Any]:
    return {
        "name": run.name,
        "signature": signature(keys),
        "axes": run.axes,
        "settings": run.settings,
        "seeds": run.seeds,
        "stages": keys.document(),
    }


def _stage(plan: Plan, stage: Stage) -> dict[str, Any]:
    shape = jobbing.shape(stage.resources, stage.stage, plan.gpus_per_node)
    profile, graph = plan.profile, plan.graph
    told = forecast.of(stage, graph.stages, plan.published, profile, shape["nodes"]) if profile else None
    return {
        "stage": stage.stage,
        "key": stage.key,
        "recipe": stage.recipe,
        "task": stage.task,
        "inputs": stage.inputs,
        "state": plan.states[stage.key],
        "num_runs": len(stage.runs),
        "gpus": shape["gpus"],
        "nodes": shape["nodes"],
        **forecast.columns(told),
        "made_by": _made_by(plan, stage.key),
        "config": stage.config,
        "what": stage.what,
        "seed": stage.seed,
    }


def _tasks(stages: Iterable[Stage]) -> list[dict[str, Any]]:
    """What every task can show at its size: points per question, smallest detectable paired difference (power 80 %).

    Tasks whose number of questions is unknown are left out; a difference that no number of points makes is null.
    """
    sizes = {(s.task, _num_questions(s.what["task"])) for s in stages if s.stage == "generate" and s.runs}
    found = []
    for task, num in sorted((str(t), n) for t, n in sizes if n):
        least = stats.detectable(num)
        points = None if math.isinf(least) else round(100 * least, 1)
        found.append({"task": task, "questions": num, "question_points": 100 / num, "detectable_points": points})
    return found


def _num_questions(task: dict[str, Any]) -> int | None:
    """Questions that are asked, where the task or its limit says so."""
    return min((n for n in (task.get("questions"), task.get("limit")) if n), default=None)


def _made_by(plan: Plan, key: str) -> dict[str, Any] | None:
    """Code and date of a published artifact; "other_code" is true when this code's digest differs."""
    if key not in plan.published:
        return None
    done = files.read_json(plan.published[key] / "DONE")
    return {
        **done["code"],
        "finished": done["finished"],
        "other_code": done["code"] != artifact.code(),
        "folder": str(plan.published[key]),
    }


def _totals(plan: Plan) -> dict[str, Any]:
    states = list(plan.states.values())
    return {
        "runs": len(plan.sweep.runs),
        "stages": len(states),
        "reused": states.count("reused"),
        "to_make": sum(len(job.stages) for job in plan.jobs),
        "jobs": len(plan.jobs),
        "arrays": len(plan.arrays),
        "disk": disk.predict(plan.graph.stages, [key for job in plan.jobs for key in job.stages]),
    }


def _equal_runs(runs: Sequence[Run], keys: dict[str, Keys]) -> list[str]:
    """Runs that stand for the same artifacts: the axis or seed between them changes nothing."""
    alike: dict[str, list[str]] = {}
    for run in runs:
        alike.setdefault(files.canonical(keys[run.name].document()), []).append(run.name)
    return [
        f"equal keys, so one result: {', '.join(names)}; what differs between them enters no key"
        for names in alike.values()
        if len(names) > 1
    ]


def _idle_sizes(plan: Plan) -> list[str]:
    """Data stages whose `size` is not smaller than their source: the selection selects nothing."""
    notes = []
    for stage in plan.graph.stages.values():
        if stage.stage != "data" or not stage.config.get("size"):
            continue
        size, rows = stage.config["size"], _source_rows(plan, stage)
        if rows is not None and size >= rows:
            notes.append(
                f"data {stage.key} ({stage.recipe}): size {size} is not smaller than its source ({rows} examples), "
                "so `select` changes nothing"
            )
    return notes


def _source_rows(plan: Plan, stage: Stage) -> int | None:
    """Examples that reach the selection, where that is known: from a published manifest or the source's own `num`."""
    if stage.key in plan.published:
        manifest = files.read_json(plan.published[stage.key] / "manifest.json")
        return manifest["size"] if manifest.get("size_not_binding") else None
    source = stage.config.get("source")
    number = source.get("num") if isinstance(source, dict) and not stage.config["filters"] else None
    return number if isinstance(number, int) else None
