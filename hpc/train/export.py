"""The trained model as a Hugging Face folder: safetensors in the training dtype, tokenizer, chat template."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hpc.train.ranks import Team

if TYPE_CHECKING:
    import torch
    from deepspeed import DeepSpeedEngine
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def save(
    trainer: DeepSpeedEngine,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    team: Team,
    dtype: Literal["bf16", "fp32"],
) -> None:
    """Gather the weights on rank 0, tensor by tensor, and write them with tokenizer and chat template to `folder`."""
    import torch

    weights = gather(trainer, team, torch.bfloat16 if dtype == "bf16" else torch.float32)
    if team.leads:
        network = trainer.module.network
        network.config.use_cache = True
        network.config._attn_implementation = "sdpa"  # documents are a matter of training
        network.save_pretrained(folder, state_dict=weights, max_shard_size="5GB")
        tokenizer.save_pretrained(folder)
        _share(folder)
    team.wait()


def gather(trainer: DeepSpeedEngine, team: Team, dtype: torch.dtype) -> dict[str, Tensor]:
    """Whole parameters and saved buffers by name, on the CPU of rank 0; empty elsewhere. All ranks must call it."""
    from deepspeed.runtime.zero import GatheredParameters

    network = trainer.module.network
    weights: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        with GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if team.leads:
                weights[name] = parameter.detach().to("cpu", dtype, copy=True)
    if team.leads:
        saved = network.state_dict(keep_vars=True)
        weights |= {name: buffer.detach().cpu() for name, buffer in network.named_buffers() if name in saved}
    return weights


def _share(folder: Path) -> None:
    """safetensors makes files that only their owner can read; others of a shared root read them as the umask allows."""
    mode = (folder / "config.json").stat().st_mode
    for path in folder.iterdir():
        path.chmod(mode)
