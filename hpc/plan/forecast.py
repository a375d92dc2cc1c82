"""What a training will take: memory, time, GPU-hours, dollars, checkpoints, a preemption. Predictions, as intervals.

    hpc plan recipes/s1_32b_paper.yaml --on h100x16

Time is of steps (hpc/plan/speed.py) in the best layout (hpc/plan/layouts.py) over the lengths at hand
(hpc/plan/lengths.py). An interval holds 90 % of outcomes if errors are normal; start, load and save come on top.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hpc import files
from hpc.errors import HpcError, PlanError
from hpc.plan import disk, layouts, lengths, machine, shapes, speed
from hpc.plan.graph import Stage
from hpc.plan.lengths import Lengths
from hpc.plan.machine import Machine
from hpc.plan.memory import Memory, Setup
from hpc.plan.shapes import Shape
from hpc.recipe import typed
from hpc.recipe.schema import Train
from hpc.train import pack

if TYPE_CHECKING:
    from hpc.cluster.profile import Profile

MEMORY_ERROR = 0.08
"""Share that a peak may lie off (bench/fit.py memory)."""
ANYWAY = "--yes submits it all the same; the job then decides by what it really gets"
START_S = 75
"""Python, imports, NCCL and DeepSpeed on all ranks."""
DISK_GB_S = 2.0
"""What one node reads from or writes to a shared file system, GB/s."""
SAVE_SHARE, SAVE_LEAST_S, SAVE_MOST_S = 0.02, 300.0, 3600.0
"""How the loop spaces its checkpoints where that is automatic (hpc/train/checkpoint.py)."""
LEAD = 1.5
"""Times that a save must fit between the warning of a stop and the stop, beside one step."""
TIMED = set(Train.__dataclass_fields__) - {
    *("lr", "schedule", "min_lr", "warmup_ratio", "betas", "eps", "weight_decay", "grad_clip", "loss_average"),
    *("init", "edition", "log_every_steps", "keep_checkpoints", "attention"),
}
"""Settings of a train stage that its time and memory depend on."""

Range = dict[str, float]
"""{"low", "mid", "high"}: a prediction."""
Told = dict[str, Any] | None
"""A forecast as a plain document; None where nothing is predicted."""


@dataclass(frozen=True)
class Trained:
    """What a forecast is made from: a key of the cache."""

    shape: Shape
    settings: str
    tokens: Lengths
    machine: Machine


def of(stage: Stage, stages: Mapping[str, Stage], published: Mapping[str, Path], profile: Profile, nodes: int) -> Told:
    """The forecast of a train stage as a plain document; None where there is nothing to predict (CPUs, unknown model).

    Where no layout fits, or training would refuse the model or the data, it holds {"error": {"what", "why", "next"}}.
    """
    if stage.stage != "train" or not stage.resources.gpus:
        return None
    tokens = lengths.of(stage, stages, published)
    if error := _refused(stage, stages, tokens):
        return _as_error(error)
    if (shape := disk.shape(stage, stages)) is None:
        return None
    asked = stage.resources
    place = machine.of(profile, gpus=asked.gpus, nodes=nodes, gpu=asked.gpu, memory_gib=asked.memory_gib)
    settings = files.canonical({k: v for k, v in stage.config.items() if k in TIMED})
    found = _made(Trained(shape, settings, tokens, place))
    return {**found, "published": _beside(stage, stages, shape)}


def _refused(stage: Stage, stages: Mapping[str, Stage], tokens: Lengths) -> PlanError | None:
    """What training will refuse before its first step, as far as that can be told here."""
    most, drop = stage.config["max_tokens"], stage.config["overlong"] == "drop"
    shortest, longest = tokens.surely
    if drop and shortest > most:
        return PlanError(
            "no example is left to train on",
            where="train.max_tokens",
            why=f"overlong=drop leaves out what is longer than {most:,} tokens, and the shortest example has "
            f"{min(tokens.tokens):,} ({tokens.kind}: {tokens.how})",
            next=f"set train.max_tokens={max(tokens.tokens)}, or train.overlong=cut",
        )
    if why := disk.refused(stage, stages, longest if drop else min(longest, most)):
        return PlanError(
            f"{disk.origin(stage, stages)} cannot be trained here",
            where="config.json",
            why=why,
            next="choose another model, or lower train.max_tokens where a window is too short",
        )
    return None


def _as_error(error: HpcError) -> dict[str, Any]:
    return {"error": {"what": error.what, "why": error.why, "next": error.next}}


def refused(document: Mapping[str, Any]) -> HpcError | None:
    """Why a plan's first training that is to be made would fail; None where nothing is predicted to."""
    keys = {key for job in document["jobs"] for key in job["stages"]}
    for stage in document["stages"]:
        error = (stage.get("forecast") or {}).get("error")
        if error and stage["key"] in keys:
            where = f"train {stage['key']} ({stage['recipe']})"
            return PlanError(error["what"], where=where, why=error["why"], next=f"{error['next']} ({ANYWAY})")
    return None


def notes(made: Sequence[Mapping[str, Any]], stages: Mapping[str, Stage], to_make: Collection[str]) -> list[str]:
    """What a plan's notes say of its trainings on GPUs: those that would fail, and those that are not predicted.

    Args:
        made: stages of the document, with their forecasts; to_make: keys of those that a job will make.
    """
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for stage in made:
        if stage["stage"] != "train" or not stage["gpus"] or stage["key"] not in to_make:
            continue
        if stage["forecast"] is None:
            model = disk.origin(stages[stage["key"]], stages)
            words = f"has no forecast: the shape of {model} is not known (hpc/plan/shapes.yaml)"
            alike.setdefault(words, []).append(stage)
        elif error := stage["forecast"].get("error"):
            words = f"would fail: {error['what']}; {error['why']}; next: {error['next']}"
            alike.setdefault(words, []).append(stage)
    return [
        f"train {found[0]['key'][:8]} ({found[0]['recipe']})"
        f"{f' and {len(found) - 1} more' if len(found) > 1 else ''} {words}"
        for words, found in alike.items()
    ]


@cache
def _made(trained: Trained) -> dict[str, Any]:
    tree = json.loads(trained.settings)
    timely = {k: v for k, v in tree.items() if k not in ("epochs", "save_every_steps")}
    # a bound that no example reaches bounds nothing: settings that differ in it alone share a layout
    timeless = files.canonical({**timely, "max_tokens": min(tree["max_tokens"], max(trained.tokens.tokens))})
    layout = _laid(replace(trained, settings=timeless))
    if isinstance(layout, PlanError):
        return _as_error(layout)
    return document(trained.shape, typed.build(Train, tree), trained.tokens, trained.machine, layout)


@cache
def _laid(trained: Trained) -> layouts.Layout | PlanError:
    settings = typed.build(Train, json.loads(trained.settings))
    try:
        return layouts.choose(trained.shape, settings, trained.tokens.tokens, trained.machine)
    except PlanError as error:
        return error


def document(shape: Shape, settings: Train, tokens: Lengths, place: Machine, layout: layouts.Layout) -> dict[str, Any]:
    """The forecast of a training in a layout. Bytes in GB (1e9), times as their names say; null is not known."""
    trained = tokens.limited(settings.max_tokens, settings.overlong)
    step, pace = _range(layout.step, trained.spread), _range(layout.step, 0.0)  # a rate has no error of the lengths
    per_epoch = trained.rows and math.ceil(trained.rows / settings.batch_size)
    steps = per_epoch and math.ceil(settings.epochs * per_epoch)
    checkpoint, save_s = _checkpoint(shape, settings, place)
    overhead = _overhead(shape, settings, place)
    made = {
        "predicted": True,
        "layout": _layout(layout),
        "reasons": [*layout.reasons, *_assumptions(trained, _overlong(settings, tokens), place)],
        "memory_gb_per_gpu": _around(layout.memory.gpu_bytes / 1e9, MEMORY_ERROR),
        "memory_gb_per_host": _around(layout.memory.host_bytes / 1e9, MEMORY_ERROR),
        "memory_parts_gb": _rounded(layout.memory),
        "lengths": {"mean_tokens": round(trained.mean), "rows": trained.rows, "kind": trained.kind, "how": trained.how},
        "overlong": _overlong(settings, tokens),
        "steps": steps,
        "step_s": step,
        "epoch_s": per_epoch and _times(step, per_epoch),
        "train_hours": steps and _times(step, steps / 3600),
        "start_and_export_s": _assumed(overhead),
        "tokens_per_s": _inverse(pace, layout.work.batch_tokens),
        "mfu": _inverse(pace, layout.step.mfu * layout.step_s),
        "balance": round(layout.work.balance, 3),
        "checkpoint_gb": round(checkpoint / 1e9, 1),
        "save_s": _assumed(save_s),
        "save_every_s": save_interval_s(settings, layout.step_s, save_s),
        "lead_s": math.ceil(LEAD * _assumed(save_s)["high"] + step["high"]),
    }
    # an automatic interval follows from a save, and the loop has not seen one yet
    first = SAVE_LEAST_S if settings.save_every_steps == "auto" else save_interval_s(settings, layout.step_s, save_s)
    return {**made, **_cost(made, steps, place, first), "preemption": _preemption(made)}


def columns(told: Told) -> dict[str, Any]:
    """A forecast as columns of a stage: the middle of hours, memory, tokens/s and dollars, and all of it."""
    known = told if told and "error" not in told else {}
    columns = ("hours", "memory_gb_per_gpu", "tokens_per_s", "usd")
    middle = {name: (known.get(name) or {}).get("mid") for name in columns}
    memory = middle["memory_gb_per_gpu"]
    return {
        "hours": middle["hours"],
        "memory_gib_per_gpu": memory and round(memory * 1e9 / machine.GIB, 1),
        "tokens_per_s": middle["tokens_per_s"],
        "usd": middle["usd"],
        "forecast": told,
    }


def totals(stages: Sequence[Mapping[str, Any]], to_make: Iterable[str]) -> dict[str, Any]:
    """GPU-hours and dollars of the trainings that are to be made; null where one of them is not predicted.

    Generation is not counted: it is not predicted.
    """
    keys = set(to_make)
    trained = [s["forecast"] for s in stages if s["stage"] == "train" and s["key"] in keys and s["gpus"]]
    return {name: _summed([(told or {}).get(name) for told in trained]) for name in ("gpu_hours", "usd")}


def _summed(ranges: Sequence[Range | None]) -> Range | None:
    known = [r for r in ranges if r]
    if not known or len(known) < len(ranges):
        return None
    return {k: round(sum(r[k] for r in known), 2) for k in ("low", "mid", "high")}


def save_interval_s(settings: Train, step_s: float, save_s: float) -> float | None:
    """Seconds between two checkpoints; None where none is saved."""
    if settings.save_every_steps == "auto":
        return min(max(save_s / SAVE_SHARE, SAVE_LEAST_S), SAVE_MOST_S)
    return settings.save_every_steps * step_s or None


@cache
def published(name: str) -> tuple[float, Range]:
    """A published run: hours as measured, and hours as predicted under the settings of its authors."""
    row = _runs()[name]
    shape, ranks = shapes.shape(row["shape"]), row["gpus"]
    tokens = lengths.drawn(row["data"]).limited(row["max_tokens"], "cut")
    setup = Setup(ranks=ranks, row_tokens=0, **row["setup"])
    place = replace(machine.typical(row["gpu"], ranks), cores_per_gpu=row["cores_per_gpu"])
    cost = pack.cost_of(shape.matmul_params, shape.layers, shape.queries)
    work = speed.work(tokens.tokens, row["batch_size"], setup, cost, order="random")
    step = speed.step(shape, setup, work, place, overlap=row["prefetch"])
    steps = math.ceil(row["rows"] / row["batch_size"]) * row["epochs"]
    return float(row["hours"]), _times(_range(step, tokens.spread), steps / 3600)


def _beside(stage: Stage, stages: Mapping[str, Stage], shape: Shape) -> dict[str, Any] | None:
    """The published run that a stage is like, if there is one."""
    source = stages.get(stage.inputs["data"].get("key", ""))
    hub = source and source.config.get("source") and source.config["source"].get("hub", "").partition("@")[0]
    for name, row in _runs().items():
        if (row["shape"], row["data"], row["epochs"]) == (shape.name, hub, stage.config["epochs"]):
            measured, told = published(name)
            return {"run": name, "gpus": row["gpus"], "hours": measured, "predicted_hours": told, "about": row["about"]}
    return None


def _range(step: speed.Step, spread: float) -> Range:
    low, high = speed.interval(step, spread)
    return {"low": round(low, 4), "mid": round(step.seconds, 4), "high": round(high, 4)}


def _times(step: Range, factor: float) -> Range:
    return {k: round(v * factor, 4) for k, v in step.items()}


def _inverse(step: Range, amount: float) -> Range:
    """A rate: the longest step is the lowest."""
    return {k: float(f"{amount / step[other]:.4g}") for k, other in (("low", "high"), ("mid", "mid"), ("high", "low"))}


def _assumed(value: float) -> Range:
    """Seconds by rates that nobody has measured here: half as long, or twice."""
    return {"low": round(value / speed.ASSUMED, 1), "mid": round(value, 1), "high": round(value * speed.ASSUMED, 1)}


def _around(value: float, error: float) -> Range:
    return {"low": round(value * (1 - error), 1), "mid": round(value, 1), "high": round(value * (1 + error), 1)}


def _layout(layout: layouts.Layout) -> dict[str, Any]:
    names = ("offload", "offload_ratio", "sequence_parallel", "row_tokens", "activation_checkpointing", "loss_chunk")
    return {name: getattr(layout, name) for name in names}


def _rounded(memory: Memory) -> dict[str, dict[str, float]]:
    return {
        where: {k: round(v / 1e9, 2) for k, v in parts.items() if v}
        for where, parts in (("gpu", memory.gpu), ("host", memory.host))
    }


def _overlong(settings: Train, tokens: Lengths) -> str:
    """How many examples are longer than max_tokens, and what becomes of them; empty where none is."""
    share = tokens.over(settings.max_tokens)
    number = f"{round(share * tokens.rows):,}" if tokens.rows else f"{100 * share:.1f} %"
    return f"{number} {'cut' if settings.overlong == 'cut' else 'dropped'} at {settings.max_tokens:,}" if share else ""


def _assumptions(tokens: Lengths, overlong: str, place: Machine) -> list[str]:
    rows = f"{tokens.rows:,} examples" if tokens.rows else "an unknown number of examples"
    more = f", {overlong}" if overlong else ""
    assumed = f"; assumed: {', '.join(place.assumed)}" if place.assumed else ""
    return [
        f"lengths ({tokens.kind}): {rows} of {tokens.mean:,.0f} tokens on average{more}; {tokens.how}",
        f"hardware: {place.gpus} x {place.name}, {place.tflops:g} TFLOP/s{assumed}",
    ]


def _checkpoint(shape: Shape, settings: Train, place: Machine) -> tuple[float, float]:
    """Bytes of one checkpoint, and seconds to write it from all nodes at once."""
    size = float(disk.state_bytes(typed.plain(settings)) * shape.params)
    return size, size / (DISK_GB_S * 1e9 * place.nodes)


def _overhead(shape: Shape, settings: Train, place: Machine) -> float:
    """Seconds to start, load the weights (every node reads them) and export them at the end (one writes)."""
    size = disk.EXPORT_BYTES[settings.dtype] * shape.params
    return START_S + 2 * size / (DISK_GB_S * 1e9)


def _cost(made: Mapping[str, Any], steps: int | None, place: Machine, first: float | None) -> dict[str, Any]:
    """Hours of the job, with its start, its checkpoints and its export; GPU-hours and dollars of them.

    Args:
        first: seconds until the first checkpoint; None where none is saved.
    """
    if not steps:
        return {"hours": None, "gpu_hours": None, "usd": None}
    train, every, price = made["train_hours"], made["save_every_s"], place.usd_per_gpu_hour
    after = train["mid"] * 3600 - (first or 0.0)
    saves = 1 + after // every if every and after > 0 else 0
    more = {k: (made["start_and_export_s"][k] + saves * made["save_s"][k]) / 3600 for k in train}
    hours = {k: round(train[k] + more[k], 4) for k in train}
    return {
        "hours": hours,
        "gpu_hours": _times(hours, place.gpus),
        "usd": None if price is None else {k: round(v * place.gpus * price, 2) for k, v in hours.items()},
    }


def _preemption(made: Mapping[str, Any]) -> dict[str, Range | None]:
    """Seconds that a stop costs: warned, it saves first; else half the time between two checkpoints goes too."""
    save, start, every = made["save_s"], made["start_and_export_s"], made["save_every_s"]
    again = {k: start[k] + save[k] for k in save}  # to start, and to read the checkpoint
    whole = made["train_hours"]["mid"] * 3600 if made["train_hours"] else math.inf
    unwarned = None if every is None else {k: round(v + min(every, whole) / 2) for k, v in again.items()}
    return {"warned_s": {k: round(v + save[k]) for k, v in again.items()}, "unwarned_s": unwarned}


@cache
def _runs() -> dict[str, dict[str, Any]]:
    text = Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    runs: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return runs
