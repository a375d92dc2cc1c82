"""A network under DeepSpeed with its weights: each rank reads its own shard of every tensor, and no rank the model.

Under ZeRO-3 the network is built empty and sharded at once; then every rank copies the slice that it keeps straight
from the safetensors files. Host memory holds the slice of one tensor at a time, and N ranks read the files once, not N
times. Below ZeRO-3 every rank keeps all weights by definition, and transformers loads them.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hpc.errors import StageError
from hpc.recipe.schema import Train
from hpc.train import attention, mends
from hpc.train.text import ModelReference

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def shape(model: ModelReference) -> PretrainedConfig:
    """The model's configuration.

    Raises:
        StageError: there is none.
    """
    from transformers import AutoConfig

    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(model.name, revision=model.revision)
    except (OSError, ValueError) as error:
        raise _unloadable(model, error) from error
    return found


def network(model: ModelReference, form: PretrainedConfig, settings: Train, config: dict[str, Any], seed: int) -> Any:
    """The network with weights from the model's files, or drawn from `seed`; sharded if the stage of ZeRO is 3.

    Raises:
        StageError: the weights cannot be read.
    """
    attention.register()
    found = _drawn(form, settings, seed) if settings.init == "random" else _read(model, form, settings, config)
    _set_generation(found, model)
    mends.restore_frequencies(found)
    return found


def dtype_of(settings: Train) -> torch.dtype:
    """The number format of forward and backward."""
    return torch.bfloat16 if settings.dtype == "bf16" else torch.float32


def _read(model: ModelReference, form: PretrainedConfig, settings: Train, config: dict[str, Any]) -> PreTrainedModel:
    if settings.zero.stage != 3:
        return _whole(model, settings)
    from transformers.integrations import HfDeepSpeedConfig

    keep = HfDeepSpeedConfig(config)  # transformers looks for a living one
    found = _sharded(model, form, settings) or _whole(model, settings)
    del keep
    return found


def _sharded(model: ModelReference, form: PretrainedConfig, settings: Train) -> PreTrainedModel | None:
    """The network with each rank's own slices; None if the files are no safetensors under the network's own names."""
    from safetensors import safe_open

    files = _files(model)
    if not files:
        return None
    empty = _empty(form, settings)
    names = dict(empty.named_parameters())  # of tied ones the first name, under which files keep them
    if not set(names) <= set(files):
        return None
    by_file: dict[Path, list[str]] = {}
    for name in names:
        by_file.setdefault(files[name], []).append(name)
    for file, held in by_file.items():  # one file at a time: what was read of it stays in memory until it is closed
        with safe_open(file, framework="pt") as handle:
            for name in held:
                stored = handle.get_slice(name)
                if list(names[name].ds_shape) != stored.get_shape():
                    raise _misfit(file, name, list(names[name].ds_shape), stored.get_shape())
                _copy_slice(stored, names[name])
    return empty


def _empty(form: PretrainedConfig, settings: Train) -> PreTrainedModel:
    """The network, cut while it is built; transformers would now draw its weights, gathering each: they are read."""
    from transformers import AutoModelForCausalLM
    from transformers.integrations import deepspeed as integration

    draw = integration.initialize_weights_zero3
    integration.initialize_weights_zero3 = lambda network: None
    try:
        empty: PreTrainedModel = AutoModelForCausalLM.from_config(
            form, dtype=dtype_of(settings), attn_implementation=attention.NAME
        )
    finally:
        integration.initialize_weights_zero3 = draw
    return empty


def _set_generation(network: Any, model: ModelReference) -> None:
    """How the model generates, its end ids above all: a network built from config.json knows only what stands there."""
    from transformers import GenerationConfig

    with suppress(OSError):  # a model need not say
        network.generation_config = GenerationConfig.from_pretrained(model.name, revision=model.revision)


def _copy_slice(stored: Any, parameter: Any) -> None:
    """This rank's part of a stored tensor into its shard. ZeRO-3 cuts the flat tensor into equal parts, end padded."""
    kept: Tensor = parameter.ds_tensor
    sizes = stored.get_shape()
    width = math.prod(sizes[1:])
    first = min(kept.numel() * torch.distributed.get_rank(), math.prod(sizes))
    last = min(first + kept.numel(), math.prod(sizes))
    if last == first:
        return
    top = first // width
    rows = stored[top : math.ceil(last / width)].reshape(-1)
    kept[: last - first].copy_(rows[first - top * width : last - top * width])


def _files(model: ModelReference) -> dict[str, Path]:
    """The safetensors file of every stored tensor; empty if the model has other files."""
    place = folder(model)
    if (place / INDEX).is_file():
        table = json.loads((place / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return {name: place / file for name, file in table.items()}
    if not (place / SINGLE).is_file():
        return {}
    from safetensors import safe_open

    with safe_open(place / SINGLE, framework="pt") as handle:
        return dict.fromkeys(handle.keys(), place / SINGLE)


def folder(model: ModelReference) -> Path:
    """The model's folder, or its snapshot in the hub's cache (fetched if the node has a network)."""
    if Path(model.name).is_dir():
        return Path(model.name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model.name, revision=model.revision, allow_patterns=["*.safetensors", "*.json"]))


def _drawn(form: PretrainedConfig, settings: Train, seed: int) -> PreTrainedModel:
    """New weights, drawn whole in fp32 on every rank from the same seed; DeepSpeed shards them afterwards."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    drawn: PreTrainedModel = AutoModelForCausalLM.from_config(
        form, dtype=torch.float32, attn_implementation=attention.NAME
    )
    return drawn.to(dtype_of(settings))


def _whole(model: ModelReference, settings: Train) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    try:
        found: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            model.name, revision=model.revision, dtype=dtype_of(settings), attn_implementation=attention.NAME
        )
    except OSError as error:
        raise _unloadable(model, error) from error
    return found


def _misfit(file: Path, name: str, wanted: list[int], found: list[int]) -> StageError:
    return StageError(
        "the model's weights do not fit its configuration",
        where=f"{file}: {name}",
        why=f"config.json asks for {wanted}, the file has {found}",
        next="fetch the model again, or repair its config.json",
    )


def _unloadable(model: ModelReference, error: Exception) -> StageError:
    return StageError(
        "the model cannot be loaded",
        where=model.name,
        why=str(error).splitlines()[0],
        next="check the folder or the hub name; train.init=random starts from config.json alone",
    )
