"""The trained model as a Hugging Face folder: safetensors in the training dtype, tokenizer, chat template."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpc.train.ranks import Team

if TYPE_CHECKING:
    import torch
    from deepspeed import DeepSpeedEngine
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

SHARD_BYTES = 5_000_000_000
"""The largest weights file, as the hub has them; rank 0 holds one of them in host memory at a time."""


def save(
    trainer: DeepSpeedEngine,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    team: Team,
    dtype: Literal["bf16", "fp32"],
) -> None:
    """Write the weights to `folder`, gathered on rank 0 file by file, with their configuration and the tokenizer.

    All ranks must call it.
    """
    import torch

    network, number = trainer.module.network, torch.bfloat16 if dtype == "bf16" else torch.float32
    if team.leads:
        network.config.use_cache = True
        network.config._attn_implementation = "sdpa"  # documents are a matter of training
    planned = _planned(network, number)
    if planned is None:
        weights = gather(trainer, team, number)
        if team.leads:
            _save_network(network, folder, weights)
    else:
        if team.leads:
            _save_network(network, folder, {})
        _write(network, planned, folder, team, number)
    if team.leads:
        tokenizer.save_pretrained(folder)
        _share(folder)
    team.wait()


def gather(trainer: DeepSpeedEngine, team: Team, dtype: torch.dtype) -> dict[str, Tensor]:
    """Whole parameters and saved buffers by name, on the CPU of rank 0; empty elsewhere. All ranks must call it."""
    network = trainer.module.network
    tensors = {**dict(network.named_parameters()), **_buffers(network)}
    found = {name: _gathered(tensor, team, dtype) for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _save_network(network: Any, folder: Path, weights: dict[str, Tensor]) -> None:
    """Configuration and `weights`, by transformers.

    It refuses settings of generation that contradict each other, after a whole training; published models have such
    (a temperature and no sampling): they are written as the base model has them.
    """
    from transformers import GenerationConfig

    own, network.generation_config = network.generation_config, GenerationConfig()
    network.save_pretrained(folder, state_dict=weights, max_shard_size=SHARD_BYTES)
    network.generation_config = own
    own.to_json_file(folder / "generation_config.json", use_diff=True, keys_to_pop=["compile_config"])


def _write(network: Any, planned: dict[str, Tensor], folder: Path, team: Team, dtype: torch.dtype) -> None:
    """The weights' files, and where there are several their index, as transformers writes them."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    split = split_torch_state_dict_into_shards(
        planned, filename_pattern="model{suffix}.safetensors", max_shard_size=SHARD_BYTES
    )
    tensors = {**dict(network.named_parameters()), **_buffers(network)}
    for file, names in split.filename_to_tensors.items():
        shard = {name: _gathered(tensors[name], team, dtype) for name in names}
        if team.leads:
            save_file({name: t for name, t in shard.items() if t is not None}, folder / file, metadata={"format": "pt"})
        del shard  # before the next one is gathered
    if team.leads and split.is_sharded:
        parameters = sum(math.prod(planned[name].shape) for name, _ in network.named_parameters() if name in planned)
        index = {
            "metadata": {"total_parameters": parameters, **split.metadata},
            "weight_map": split.tensor_to_filename,
        }
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _planned(network: Any, dtype: torch.dtype) -> dict[str, Tensor] | None:
    """The tensors that are written, without their numbers, in the order of the files; of tied ones the first name.

    None if transformers stores this kind of network under other names or shapes than it computes with.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    found = {
        name: torch.empty(getattr(parameter, "ds_shape", parameter.shape), dtype=dtype, device="meta")
        for name, parameter in network.named_parameters()
    }
    found |= {name: torch.empty_like(buffer, device="meta") for name, buffer in _buffers(network).items()}
    found = {name: tensor for name, tensor in found.items() if name not in (network._keys_to_ignore_on_save or ())}
    stored: dict[str, Tensor] = revert_weight_conversion(network, dict(found))
    alike = {n: t.shape for n, t in stored.items()} == {n: t.shape for n, t in found.items()}
    return {name: found[name] for name in stored} if alike else None


def _gathered(tensor: Tensor, team: Team, dtype: torch.dtype) -> Tensor | None:
    """A whole tensor on the CPU of rank 0, a parameter in `dtype`; None elsewhere."""
    import torch
    from deepspeed.runtime.zero import GatheredParameters

    if not isinstance(tensor, torch.nn.Parameter):
        return tensor.detach().cpu() if team.leads else None
    with GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
        return tensor.detach().to("cpu", dtype, copy=True).contiguous() if team.leads else None


def _buffers(network: Any) -> dict[str, Tensor]:
    """The buffers that belong to a model's files."""
    saved = network.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in network.named_buffers() if name in saved}


def _share(folder: Path) -> None:
    """safetensors makes files that only their owner can read; others of a shared root read them as the umask allows."""
    mode = (folder / "config.json").stat().st_mode
    for path in folder.iterdir():
        path.chmod(mode)
