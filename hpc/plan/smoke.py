"""A short test of everything that is new in a sweep: every distinct stage once, in minutes. `hpc submit X --smoke`.

The real model, the longest examples, two optimizer steps, four questions of each task; in the debug partition, into
ROOT/smoke, so that no real artifact is touched. `hpc status X --smoke` shows what it took beside what was planned.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc import artifact, files
from hpc.plan import choose
from hpc.plan import document as planning
from hpc.plan.graph import Graph
from hpc.recipe import names, schema
from hpc.recipe.sweep import Sweep

if TYPE_CHECKING:
    from hpc.cluster.profile import Place, Profile

STEPS = 2
QUESTIONS = 4
HOURS = 0.5
"""Time limit of a job, where the profile's debug section names none."""

SAME = {
    "data": ("size", "select", "edition"),
    "train": (
        *("lr", "epochs", "schedule", "min_lr", "warmup_ratio", "betas", "eps", "weight_decay", "grad_clip"),
        *("loss_average", "edition", "save_every_steps", "log_every_steps"),
    ),
    "generate": ("temperature", "top_p", "edition"),
    "grade": ("edition",),
}
"""Settings that change neither the memory nor the speed of a stage, nor what code it runs."""


def plan(sweep: Sweep, profile: Profile) -> dict[str, Any]:
    """The plan of a smoke test: of all runs, cut short, as few as show every distinct stage.

    Args:
        profile: as `profile()` makes it.
    """
    shorten = partial(shortened, questions=_questions(sweep))
    runs = [dataclasses.replace(r, recipe=shorten(r.recipe)) for r in sweep.runs]
    gpus = profile.node_gpus or planning.GPUS_PER_NODE
    cut = dataclasses.replace(sweep, runs=runs)
    whole = planning.make(cut, profile.all_roots, gpus, shorten, profile=profile)
    document = planning.document(whole)
    needed = choose.closure(document, distinct(whole.graph))
    chosen, covered = [], set[str]()
    for run in document["runs"]:
        own = needed.intersection(choose.keys_of(run))
        if own - covered:
            chosen.append(run)
            covered |= own
    return {**choose.cut(document, chosen, needed), "name": f"{document['name']}-smoke"}


def profile(real: Profile) -> Profile:
    """The profile of a smoke test: ROOT/smoke alone, `debug` laid over the settings of every kind of stage."""
    from hpc.cluster.profile import PLACES

    places = {kind: _over(real.stages.get(kind), real.debug) for kind in PLACES}
    return dataclasses.replace(real, roots=[str(real.root / "smoke")], stages=places, mend=False)


def shortened(recipe: schema.Recipe, questions: int = QUESTIONS) -> schema.Recipe:
    """A recipe of two optimizer steps on the longest examples and of a few questions; its model is the real one."""
    short = copy.deepcopy(recipe)
    if short.data is not None:
        batch = short.train.batch_size if short.train else 1
        _shorten_data(short.data, STEPS * batch, _field(short.format))
    if short.train is not None:
        short.train.epochs, short.train.log_every_steps = 1.0, 1
    if short.generate is not None:
        short.generate.tasks = [_limited(task, questions) for task in short.generate.tasks]
    for resources in vars(short.resources).values():
        resources.hours = 0.0  # the debug section's, not the real run's
    short.seeds = schema.Seeds([short.seeds.data[0]], [short.seeds.train[0]], [short.seeds.generate[0]])
    return short


def distinct(graph: Graph) -> list[str]:
    """One key for every shape of stage: the first in the order of the sweep."""
    shapes: dict[str, str] = {}
    first: dict[str, str] = {}
    for key in graph.stages:
        first.setdefault(_shape(key, graph, shapes), key)
    return list(first.values())


def measured(document: dict[str, Any], roots: Sequence[Path]) -> list[dict[str, Any]]:
    """What every published stage took beside what the plan says: a row per stage; null is not measured or not known.

    Columns: stage, key, task, recipe; seconds, tokens_per_s, host_gib (peak of rank 0, one of a node's), gpu_gib (peak
    of its GPU), each with planned_ before it. planned_host_gib is what the job asks for on a node.
    """
    asked = {k: job["resources"] for job in document["jobs"] for k in job["stages"]}
    return [_row(spec, roots, asked.get(spec["key"], {})) for spec in document["stages"]]


def _row(spec: dict[str, Any], roots: Sequence[Path], asked: dict[str, Any]) -> dict[str, Any]:
    folder = artifact.find(roots, spec["stage"], spec["key"])
    used = files.read_json(folder / "usage.json") if folder and (folder / "usage.json").exists() else {}
    return {
        **{n: spec[n] for n in ("stage", "key", "task", "recipe")},
        "seconds": used.get("seconds"),
        "planned_seconds": spec["hours"] * 3600 if spec.get("hours") else None,
        "tokens_per_s": _speed(folder) if folder else None,
        "planned_tokens_per_s": spec.get("tokens_per_s"),
        "host_gib": used.get("peak_host_gib"),
        "planned_host_gib": asked.get("memory_gib") or None,
        "gpu_gib": used.get("peak_gpu_gib"),
        "planned_gpu_gib": spec.get("memory_gib_per_gpu"),
    }


def _speed(folder: Path) -> float | None:
    """Tokens per second: of the last training step (the first one compiles), or of all generated chunks."""
    rows = list(files.read_jsonl(folder / "metrics.jsonl")) if (folder / "metrics.jsonl").exists() else []
    if rows and "tokens_per_s" in rows[-1]:
        return float(rows[-1]["tokens_per_s"])
    chunks = list(files.read_jsonl(folder / "timing.jsonl")) if (folder / "timing.jsonl").exists() else []
    seconds = sum(c.get("seconds", 0.0) for c in chunks)
    return round(sum(c.get("output_tokens", 0) for c in chunks) / seconds, 1) if seconds else None


def _questions(sweep: Sweep) -> int:
    """Questions per task: four, or as many as two steps need where a recipe trains on what another has generated."""
    needed = [
        STEPS * r.recipe.train.batch_size
        for r in sweep.runs
        if r.recipe.train and r.recipe.data and any(_from_run(s) for s in _sources(r.recipe.data))
    ]
    return max([QUESTIONS, *needed])


def _sources(data: schema.Data) -> list[schema.Spec]:
    return [part.source for part in data.mix.values()] or [data.source]


def _from_run(spec: schema.Spec) -> bool:
    return names.split(spec)[0].startswith("run:")


def _shorten_data(data: schema.Data, size: int, field: str) -> None:
    longest = {"name": "longest", "field": field}
    data.select, data.size = longest, size
    for part in data.mix.values():
        part.select, part.size = longest, -(-size // len(data.mix))
        part.filters = [_kept(f) for f in part.filters]
    data.filters = [_kept(f) for f in data.filters]


def _kept(spec: schema.Spec) -> schema.Spec:
    """A filter by another recipe's grades would drop all but its few questions: it reads them, and keeps the rest."""
    name, arguments = names.split(spec)
    if name in ("unsolved_by", "solved_by"):
        return {"name": "unsolved_by", **arguments, "strict": False}
    return spec


def _field(written: str) -> str:
    """Whose length counts: the answer's, in a format without thinking."""
    document = names.document("formats", written, "format", "smoke")
    return "thinking" if document.get("thinking_start") is not None else "answer"


def _limited(task: schema.Spec, questions: int) -> schema.Spec:
    name, arguments = names.split(task)
    return {"name": name, **arguments, "limit": min(questions, int(arguments.get("limit") or questions))}


def _shape(key: str, graph: Graph, known: dict[str, str]) -> str:
    """What makes a stage a case of its own: kind, model, resources, and the settings outside SAME."""
    if key not in known:
        stage = graph.stages[key]
        own = {n: v for n, v in stage.config.items() if n not in SAME[stage.stage]}
        own.pop("thinking", None)
        thinking = stage.config.get("thinking") or {}
        used = [thinking.get("max") is not None, bool(thinking.get("min")), bool(thinking.get("waits"))]
        inputs = {n: _shape(i["key"], graph, known) if "key" in i else i for n, i in sorted(stage.inputs.items())}
        if stage.stage == "train":
            inputs.pop("data")  # which examples, as long as they are the longest, is the data stage's own case
        parts = [stage.stage, stage.task, own, used, inputs, vars(stage.resources), stage.what.get("format")]
        known[key] = files.digest(parts)
    return known[key]


def _over(place: Place | None, debug: Place) -> Place:
    """`debug` over a kind's own settings: values replace, shell lines and options add up."""
    from hpc.cluster.profile import Place

    base = place or Place()
    own = {f.name: getattr(debug, f.name) for f in dataclasses.fields(Place)}
    given = {n: v for n, v in own.items() if v is not None and n not in ("setup", "sbatch")}
    hours = debug.hours or min(HOURS, debug.max_hours or HOURS)
    return dataclasses.replace(
        base,
        **{**given, "hours": hours},
        setup=[*base.setup, *debug.setup],
        sbatch={**base.sbatch, **debug.sbatch},
    )
