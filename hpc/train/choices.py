"""What every `auto` of the train settings came to on this machine, and why: printed before the first step.

The arithmetic is the plan's (hpc/plan/layouts.py); here it gets the GPUs that the job really has and the lengths of
the examples that it really trains on.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from hpc import host
from hpc.errors import StageError
from hpc.plan import machine, shapes
from hpc.recipe.schema import Train
from hpc.train import attention, ulysses
from hpc.train.attention import Kernel
from hpc.train.ranks import Team

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Checkpointing = Literal["none", "selective", "full", "offloaded"]

COARSE = "state_dtype bf16: at rates around 1e-5 most updates are smaller than the last bit of their weight, and lost"
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
    settings: Train,
    form: PretrainedConfig,
    shape: shapes.Shape | None,
    tokens: Sequence[int],
    team: Team,
    place: machine.Machine | None = None,
) -> Choices:
    """Resolve the settings.

    Args:
        form, shape: the model's configuration, as transformers and as the plan read it.
        tokens: length of every example.
        place: the GPUs and hosts of the job (`machine_of`); None on CPUs.

    Raises:
        hpc.errors.HpcError: the ranks or heads cannot be shared out as asked, number formats do not go together, no
            layout fits the GPUs, or the architecture is not known to the plan.
    """
    head_width = getattr(form, "head_dim", None) or form.hidden_size // form.num_attention_heads
    _check_formats(settings)
    kernel, why = attention.choose(settings.attention, team.device, head_width, settings.dtype)
    found = _on_gpus(settings, shape, tokens, place, kernel, why) if place else _on_cpus(settings, tokens, kernel, why)
    _check_sharing(form, found.sequence_parallel, team.world_size)
    return replace(found, reasons=(*found.reasons, COARSE)) if settings.state_dtype == "bf16" else found


def machine_of(team: Team) -> machine.Machine | None:
    """The GPUs and hosts of this job, the smallest where they differ; None on CPUs. Every rank must call it."""
    if team.device.type != "cuda":
        return None
    import torch

    gpu = torch.cuda.get_device_properties(team.device)
    ranks = team.gather((gpu.total_memory, gpu.name, host.memory_bytes(), socket.gethostname()))
    memory, name, *_ = min(ranks)
    if len({rank[1] for rank in ranks}) > 1:
        team.say(f"train: GPUs differ, all are taken for the smallest: {', '.join(sorted({r[1] for r in ranks}))}")
    return machine.seen(
        name,
        gpus=team.world_size,
        gpus_per_node=max(Counter(rank[3] for rank in ranks).values()),
        gpu_memory_bytes=memory,
        host_memory_bytes=min(rank[2] for rank in ranks),
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
    settings: Train,
    shape: shapes.Shape | None,
    tokens: Sequence[int],
    place: machine.Machine,
    kernel: Kernel,
    why: str,
) -> Choices:
    from hpc.plan.layouts import choose as best

    if shape is None:
        raise StageError(
            "no layout can be chosen for this model",
            where="config.json: model_type",
            why=f"memory and time are predicted for {', '.join(shapes.DENSE)} only",
            next="choose a model of these architectures",
        )
    found = best(shape, settings, tokens, place)
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
    if settings.dtype == "fp32" and settings.attention in ("varlen", "flash"):
        raise StageError(
            f"the kernel {settings.attention} does not compute in fp32",
            where="train.attention",
            why=f"train.dtype is {settings.dtype}; variable-length kernels take 16 bits alone",
            next="set train.attention to auto or sdpa, or train.dtype to bf16",
        )
