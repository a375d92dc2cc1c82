"""How many bytes a plan's trainings will leave on disk: a prediction, from the size of the models that they start from.

    hpc plan X        the line "disk"

A training publishes its weights (2 bytes a parameter in bf16, 4 in fp32) and keeps the last KEEP checkpoints of its
optimizer until `hpc gc` (hpc/train/checkpoint.py); while it saves there is one more. A checkpoint holds the fp32 master
weights and the two moments of Adam, below ZeRO 3 also the weights. Examples, completions and grades are small beside
that and not counted.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from hpc import files
from hpc.plan import room
from hpc.plan.graph import Stage
from hpc.plan.hub import Need
from hpc.recipe import names

EXPORT_BYTES = {"bf16": 2, "fp32": 4}
"""Bytes per parameter of a published model."""
STATE_BYTES = 12
"""Bytes per parameter of one checkpoint: master weights, mean and variance in fp32. Below ZeRO 3 the weights in the
training dtype come on top. Measured on 0.6M parameters: ZeRO 3 12.0 (bf16, fp32), ZeRO 1 14.0 (bf16), 16.0 (fp32)."""
HEADER_BYTES = 100_000_000
"""The longest header that the safetensors format allows."""
DENSE = ("llama", "qwen2", "qwen3", "mistral")
"""Architectures whose parameters follow from config.json alone."""


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
    unknown = sorted({_origin(s, stages) for s in trainings if sizes[s.key] is None})
    keep = int(names.constant(names.HOME / "train/checkpoint.py", "KEEP"))
    models = sum((sizes[s.key] or 0) * EXPORT_BYTES[s.config["dtype"]] for s in trainings)
    states = sum((sizes[s.key] or 0) * _state_bytes(s) * _saved(s, keep) for s in trainings)
    return {
        "peak_bytes": None if unknown else models + states,
        "models_bytes": models,
        "checkpoints_bytes": states,
        "trainings": len(trainings),
        "unknown": unknown,
        "how": f"predicted: each training leaves its weights and {keep} + 1 optimizer checkpoints, all at once",
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
        return f"disk: {least}: the size of {', '.join(disk['unknown'])} is not known before it is fetched{free}"
    short = disk.get("free") and disk["free"]["bytes"] is not None and disk["free"]["bytes"] < disk["peak_bytes"]
    return (
        f"disk: {room.size(disk['peak_bytes'])} at most, predicted ({disk['trainings']} trainings: models "
        f"{room.size(disk['models_bytes'])}, optimizer checkpoints {room.size(disk['checkpoints_bytes'])} until "
        f"hpc gc){free}{' - TOO LITTLE' if short else ''}"
    )


def parameters(stage: Stage, stages: dict[str, Stage]) -> int | None:
    """Parameters of the model that a training starts from; None if neither its weights nor its shape are here."""
    source = stage.inputs["model"]
    if "key" in source:
        return parameters(stages[source["key"]], stages) if source["key"] in stages else None
    folder = _folder(source)
    return _count(folder) if folder else None


def _origin(stage: Stage, stages: dict[str, Stage]) -> str:
    source = stage.inputs["model"]
    if source.get("key") in stages:
        return _origin(stages[source["key"]], stages)
    return source.get("ref", "").removesuffix("@main") or source.get("path") or f"train {source.get('key')}"


def _state_bytes(stage: Stage) -> int:
    whole = stage.config["zero"]["stage"] == 3
    return STATE_BYTES + (0 if whole else EXPORT_BYTES[stage.config["dtype"]])


def _saved(stage: Stage, keep: int) -> int:
    """Checkpoints of one training: the last ones and one in the making; one, at a stop, where it saves none."""
    return keep + 1 if stage.config.get("save_every_steps") else 1


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
    except (OSError, ValueError, KeyError, struct.error):  # absent, torn, or of another shape: not known
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
    """Parameters of a dense decoder: embeddings (once if tied), and per layer attention, gated MLP and norms."""
    shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if shape.get("model_type") not in DENSE:
        return None
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    width = shape.get("head_dim") or hidden // heads
    queries, keys = heads * width, shape.get("num_key_value_heads", heads) * width
    bias = queries + 2 * keys if shape["model_type"] == "qwen2" else 0
    norms = 2 * hidden + (2 * width if shape["model_type"] == "qwen3" else 0)
    layer = hidden * (2 * queries + 2 * keys) + bias + 3 * hidden * shape["intermediate_size"] + norms
    tables = 1 if shape.get("tie_word_embeddings") else 2
    return int(shape["vocab_size"] * hidden * tables + shape["num_hidden_layers"] * layer + hidden)
