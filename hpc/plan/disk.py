"""How many bytes a plan's trainings will leave on disk: a prediction, from the size of the models that they start from.

    hpc plan X        the line "disk"

A training publishes its weights (2 bytes a parameter in bf16, 4 in fp32) and keeps the last `keep_checkpoints` of its
optimizer until `hpc gc`; while it saves there is one more. A checkpoint holds the master weights and the two moments of
Adam, below ZeRO 3 also the weights. Examples, completions and grades are small beside that and not counted.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hpc import files
from hpc.plan import room, shapes
from hpc.plan.graph import Stage
from hpc.plan.hub import Need
from hpc.plan.shapes import Shape

EXPORT_BYTES = {"bf16": 2, "fp32": 4}
"""Bytes per parameter of a published model."""
STATE_BYTES = {"fp32": 12, "bf16": 6}
"""Bytes per parameter of one checkpoint: master weights, mean and variance. Below ZeRO 3 the weights in the training
dtype come on top. Measured on 0.6M parameters: ZeRO 3 12.0 (bf16, fp32), ZeRO 1 14.0 (bf16), 16.0 (fp32)."""
KEEP = 2
"""Checkpoints that a plan of older settings keeps."""
HEADER_BYTES = 100_000_000
"""The longest header that the safetensors format allows."""


def predict(stages: dict[str, Stage], to_make: Iterable[str]) -> dict[str, Any]:
    """Peak bytes of the trainings among `to_make`, all live at once; null where a model's size is not known here.

    Returns:
        {"peak_bytes", "models_bytes", "checkpoints_bytes", "trainings", "unknown": [models], "how"}.
    """
    trainings = [stages[key] for key in to_make if stages[key].stage == "train"]
    known: dict[str, int | None] = {}
    for stage in trainings:
        start = files.canonical(stage.inputs["model"])
        if start not in known:
            known[start] = parameters(stage, stages)
    sizes = {stage.key: known[files.canonical(stage.inputs["model"])] for stage in trainings}
    unknown = sorted({origin(s, stages) for s in trainings if sizes[s.key] is None})
    most = max((s.config.get("keep_checkpoints", KEEP) for s in trainings), default=KEEP)
    models = sum((sizes[s.key] or 0) * EXPORT_BYTES[s.config["dtype"]] for s in trainings)
    states = sum((sizes[s.key] or 0) * state_bytes(s.config) * _saved(s) for s in trainings)
    return {
        "peak_bytes": None if unknown else models + states,
        "models_bytes": models,
        "checkpoints_bytes": states,
        "trainings": len(trainings),
        "unknown": unknown,
        "how": f"predicted: each training leaves its weights and {most} + 1 optimizer checkpoints, all at once",
    }


def free(root: Path, quota_gib: float | None, quota_files: int | None) -> dict[str, Any]:
    """What is left under the root of results: {"bytes", "files", "words"}."""
    left = room.of(root, quota_gib=quota_gib, quota_files=quota_files)
    return {"bytes": left.bytes, "files": left.files, "words": str(left)}


def line(disk: dict[str, Any]) -> str:
    """The prediction for people, beside what is free if `hpc plan` has looked (key "free")."""
    if not disk["trainings"]:
        return ""
    free = f"; free: {disk['free']['words']}" if disk.get("free") else ""
    known = disk["models_bytes"] + disk["checkpoints_bytes"]
    if disk["unknown"]:
        least = f"more than {room.size(known)}" if known else "unknown"
        return f"disk: {least}: the size of {', '.join(disk['unknown'])} is not known here{free}"
    short = disk.get("free") and disk["free"]["bytes"] is not None and disk["free"]["bytes"] < disk["peak_bytes"]
    return (
        f"disk: {room.size(disk['peak_bytes'])} at most, predicted ({disk['trainings']} trainings: models "
        f"{room.size(disk['models_bytes'])}, optimizer checkpoints {room.size(disk['checkpoints_bytes'])} until "
        f"hpc gc){free}{' - TOO LITTLE' if short else ''}"
    )


def parameters(stage: Stage, stages: dict[str, Stage]) -> int | None:
    """Parameters of the model that a training starts from; None if neither its weights nor its shape are known."""
    source = stage.inputs["model"]
    if "key" in source:
        return parameters(stages[source["key"]], stages) if source["key"] in stages else None
    folder = _folder(source)
    counted = _count(folder) if folder else None
    if counted is None and (known := shape(stage, stages)) is not None:
        return known.params
    return counted


def shape(stage: Stage, stages: Mapping[str, Stage]) -> Shape | None:
    """The shape of the model that a training starts from: its config.json's, else the table's; None if unknown."""
    source = stage.inputs["model"]
    if "key" in source:
        return shape(stages[source["key"]], stages) if source["key"] in stages else None
    folder = _folder(source)
    found = _configured(folder) if folder else None
    return found or (shapes.named(source["ref"]) if "ref" in source else None)


def refused(stage: Stage, stages: Mapping[str, Stage], longest: int) -> str:
    """Why a training refuses the model that it starts from, as far as a config.json here tells; else empty.

    Args:
        longest: tokens of its longest example.
    """
    source = stage.inputs["model"]
    if "key" in source:
        return refused(stages[source["key"]], stages, longest) if source["key"] in stages else ""
    folder = _folder(source)
    return shapes.refused(folder, longest) if folder else ""


def origin(stage: Stage, stages: Mapping[str, Stage]) -> str:
    """The model that a training starts from in the end, as the recipe names it."""
    source = stage.inputs["model"]
    if source.get("key") in stages:
        return origin(stages[source["key"]], stages)
    return source.get("ref", "").removesuffix("@main") or source.get("path") or f"train {source.get('key')}"


def state_bytes(config: Mapping[str, Any]) -> int:
    """Bytes per parameter of one checkpoint under the settings of a train stage."""
    whole = config["zero"]["stage"] == 3
    return STATE_BYTES[config.get("state_dtype", "fp32")] + (0 if whole else EXPORT_BYTES[config["dtype"]])


def _saved(stage: Stage) -> int:
    """Checkpoints of one training: the last ones and one in the making; one, at a stop, where it saves none."""
    return int(stage.config.get("keep_checkpoints", KEEP)) + 1 if stage.config.get("save_every_steps") else 1


def _folder(source: dict[str, str]) -> Path | None:
    if "path" in source:
        return Path(source["path"])
    name, _, revision = source["ref"].partition("@")
    return Need("models", name, revision, "model").snapshot


@cache
def _count(folder: Path) -> int | None:
    """From the headers of all weight files, else from the configuration."""
    for how in (_from_weights, _from_config):
        found = _tried(how, folder)
        if found:
            return found
    return None


def _tried(how: Callable[[Path], int | None], folder: Path) -> int | None:
    try:
        return how(folder)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        ZeroDivisionError,
        struct.error,
    ):  # absent, torn, or of another shape: not known
        return None


def _from_weights(folder: Path) -> int | None:
    index = folder / "model.safetensors.index.json"
    shards = {"model.safetensors"}
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return sum(_elements(folder / shard) for shard in shards)


def _elements(path: Path) -> int:
    """Numbers in a safetensors file, by its header alone."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > HEADER_BYTES:
            raise ValueError(f"{path} is not a safetensors file")
        header = json.loads(file.read(length))
    return sum(math.prod(row["shape"]) for name, row in header.items() if name != "__metadata__")


def _from_config(folder: Path) -> int | None:
    found = shapes.read(folder)
    return None if found is None else found.params


@cache
def _configured(folder: Path) -> Shape | None:
    try:
        return shapes.read(folder)
    except (OSError, ValueError, KeyError, TypeError):  # absent, torn, or of another make: not known
        return None
