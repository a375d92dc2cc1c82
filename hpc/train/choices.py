"""What every `auto` of the train settings came to on this machine, and why: printed before the first step.

The arithmetic is the plan's (hpc/plan/layouts.py); here it gets the GPUs that the job really has and the lengths of
the examples that it really trains on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hpc.errors import StageError
from hpc.plan import machine, shapes
from hpc.recipe.schema import Train
from hpc.train import attention, ulysses
from hpc.train.attention import Kernel
from hpc.train.ranks import Team

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Checkpointing = Literal["none", "selective", "full", "offloaded"]

ROW_ON_CPU = 8192
"""Tokens of a packed row where no GPU's memory sets them."""


@dataclass(frozen=True)
class Choices:
    """Settings of this run, all of them *how*; `reasons` says for each where it comes from."""

    offload: Literal["none", "optimizer", "all"]
    offload_ratio: float
    sequence_parallel: int
    row_tokens: int
    checkpointing: Checkpointing
    loss_chunk: int
    kernel: Kernel
    reasons: tuple[str, ...]


def choose(
    settings: Train, form: PretrainedConfig, shape: shapes.Shape | None, tokens: Sequence[int], team: Team
) -> Choices:
    """Resolve the settings.

    Args:
        form, shape: the model's configuration, as transformers and as the plan read it.
        tokens: length of every example.

    Raises:
        hpc.errors.HpcError: the ranks or heads cannot be shared out as asked, number formats do not go together, no
            layout fits the GPUs, or the architecture is not known to the plan.
    """
    head_width = getattr(form, "head_dim", None) or form.hidden_size // form.num_attention_heads
    kernel, why = attention.choose(settings.attention, team.device, head_width)
    _check_formats(settings)
    on_gpu = team.device.type == "cuda"
    found = _on_gpus(settings, shape, tokens, team, kernel, why) if on_gpu else _on_cpus(settings, tokens, kernel, why)
    _check_sharing(form, found.sequence_parallel, team.world_size)
    return found


def machine_of(team: Team) -> machine.Machine:
    """The GPUs and hosts of this job, as this rank sees its own."""
    import torch

    gpu = torch.cuda.get_device_properties(team.device)
    return machine.seen(
        gpu.name,
        gpus=team.world_size,
        gpus_per_node=min(team.world_size, torch.cuda.device_count()),
        gpu_memory_bytes=gpu.total_memory,
        host_memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def _on_cpus(settings: Train, tokens: Sequence[int], kernel: Kernel, why: str) -> Choices:
    asked, zero = settings, settings.zero
    offload = "none" if zero.offload == "auto" else zero.offload
    row = max(ROW_ON_CPU, *tokens) if asked.row_tokens == "auto" else asked.row_tokens
    shared = 1 if asked.sequence_parallel == "auto" else asked.sequence_parallel
    kept: Checkpointing = "none"
    if asked.activation_checkpointing != "auto":  # offloaded from the CPU's memory to itself: full
        kept = "full" if asked.activation_checkpointing == "offloaded" else asked.activation_checkpointing
    reasons = (
        f"attention {kernel}: {why}",
        f"offload {offload}: the CPU's memory is the device's",
        f"rows of up to {row} tokens, shared by {shared} rank(s); activation checkpointing {kept}",
    )
    return Choices(offload, 1.0, shared, row, kept, asked.loss_chunk, kernel, reasons)


def _on_gpus(
    settings: Train, shape: shapes.Shape | None, tokens: Sequence[int], team: Team, kernel: Kernel, why: str
) -> Choices:
    from hpc.plan.layouts import choose as best

    if shape is None:
        raise StageError(
            "no layout can be chosen for this model",
            where="config.json: model_type",
            why=f"memory and time are predicted for {', '.join(shapes.DENSE)} only",
            next="choose a model of these architectures",
        )
    found = best(shape, settings, tokens, machine_of(team))
    assert found.activation_checkpointing != "half", "published rows alone have it"
    return Choices(
        found.offload,
        found.offload_ratio,
        found.sequence_parallel,
        found.row_tokens,
        found.activation_checkpointing,
        found.loss_chunk,
        kernel,
        (f"attention {kernel}: {why}", *found.reasons),
    )


def _check_sharing(form: PretrainedConfig, size: int, world_size: int) -> None:
    heads, keys = form.num_attention_heads, getattr(form, "num_key_value_heads", form.num_attention_heads)
    sizes = [n for n in range(1, world_size + 1) if world_size % n == 0 and ulysses.fits(heads, keys, n)]
    if size not in sizes:
        raise StageError(
            f"{size} ranks cannot share a row",
            where="train.sequence_parallel",
            why=f"the job has {world_size} ranks, the model {heads} query heads and {keys} key heads",
            next=f"set it to auto, or to one of {', '.join(map(str, sizes))}",
        )


def _check_formats(settings: Train) -> None:
    if settings.state_dtype == "bf16" and settings.dtype != "bf16":
        raise StageError(
            "states cannot be coarser than the weights they are for",
            where="train.state_dtype",
            why=f"it is bf16, train.dtype is {settings.dtype}",
            next="set both to bf16, or train.state_dtype to fp32",
        )
