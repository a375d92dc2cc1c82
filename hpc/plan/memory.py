"""How much memory a training takes on each GPU and each host: a prediction, by parts that can be added up.

    python -m bench.fit memory          this model beside published peaks

Bytes a parameter (ZeRO, arXiv 1910.02054) plus what the tokens of one pass leave on the GPU. How many bytes one layer
keeps for its backward pass was counted with torch's saved_tensors_hooks on Qwen2 layers of transformers 5.19 in bf16:
16 h + 4 q + 4 k + 8 f a token (h hidden, q and k widths of all queries and keys, f of the MLP).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from hpc.plan.shapes import Shape
from hpc.recipe.schema import Train

Offload = Literal["none", "optimizer", "all"]
Checkpointing = Literal["none", "selective", "half", "full", "offloaded"]
"""As in the recipe; `half` (torchtitan recomputes every second matrix product) stands in published rows only."""

SUB_GROUP = 50_000_000
"""Elements that the optimizer steps at once. DeepSpeed moves whole groups to host memory: with its default of 1e9, a
fifth of the states of 32B on 8 GPUs would round down to almost none."""
RESERVE_BYTES = 3e9
"""Communication buckets, fragments of the allocator: what the published peaks have beside the parts above."""
RANK_BYTES = 6e9
"""Host memory of one rank without any state: Python, torch, pinned buffers, the shard that is being loaded."""
EXPORT_BYTES = 5e9
"""Most host memory of rank 0 while it writes the trained weights, one shard after the other (hpc/train/export.py)."""
USABLE_HOST = 0.9
LOGIT_BYTES = 12
"""Bytes that every logit takes in Hugging Face's loss: fp32 copy, log-probabilities, gradient (Ulysses rows: 11)."""
CHUNK_LOGIT_BYTES = 8
"""The same in a chunk: the fp32 copy, and the one that logsumexp makes of it. The gradient replaces the first."""


@dataclass(frozen=True)
class Setup:
    """How a training is laid out over ranks: everything that its memory and its speed depend on.

    Attributes:
        ranks: GPUs in all.
        row_tokens: most tokens of one row, computed in one pass by the ranks that share it.
        zero_stage, offload, ratio: ZeRO; `ratio` of the optimizer states are in host memory where these are offloaded.
        sharing: ranks that share a row (sequence parallelism).
        checkpointing: what the backward pass recomputes.
        loss_chunk: positions whose logits exist at once; 0 is all.
        weight_bytes, gradient_bytes, state_bytes: a parameter.
        logit_bytes: a logit of the unfused loss.
        head_bytes: a weight of the output embedding in the chunked loss: bf16, gradient in fp32 and cast to bf16.
        ranks_per_node: for host memory.
    """

    ranks: int
    row_tokens: int
    zero_stage: int = 3
    offload: Offload = "none"
    ratio: float = 0.0
    sharing: int = 1
    checkpointing: Checkpointing = "full"
    loss_chunk: int = 1024
    weight_bytes: int = 2
    gradient_bytes: int = 4
    state_bytes: int = 12
    logit_bytes: int = LOGIT_BYTES
    head_bytes: int = 8
    ranks_per_node: int = 8

    @property
    def groups(self) -> int:
        """Rows of one pass."""
        return self.ranks // self.sharing

    @property
    def tokens(self) -> float:
        """Tokens of one rank in a pass."""
        return self.row_tokens / self.sharing


@dataclass(frozen=True)
class Memory:
    """Predicted peaks in bytes, by part: of one GPU, and of one host."""

    gpu: dict[str, float]
    host: dict[str, float]

    @cached_property
    def gpu_bytes(self) -> float:
        """Peak of one GPU."""
        return sum(self.gpu.values())

    @cached_property
    def host_bytes(self) -> float:
        """Peak of one host."""
        return sum(self.host.values())

    def arithmetic(self) -> str:
        """The sum for people: 60.3 GB per GPU = 4.1 weights + ..."""
        parts = " + ".join(f"{v / 1e9:.1f} {k}" for k, v in self.gpu.items() if v >= 5e7)
        return f"{self.gpu_bytes / 1e9:.1f} GB per GPU = {parts}"


def predict(shape: Shape, setup: Setup) -> Memory:
    """Peaks of a training step."""
    gpu = _states(shape, setup)
    gpu["kept activations"] = kept_bytes(shape, setup.checkpointing) * _wide(setup) * shape.layers * setup.tokens
    layer, loss = layer_bytes(shape, setup) * setup.tokens, _loss(shape, setup, setup.tokens)
    gpu["one layer at work" if layer >= loss else "loss"] = max(layer, loss)
    gpu["reserve"] = RESERVE_BYTES
    return Memory(gpu, _host(shape, setup))


def zero_stage(settings: Train) -> int:
    """The stage of ZeRO that runs: in bf16 at least 1, since without ZeRO DeepSpeed keeps no fp32 weights beside the
    others.
    """
    return max(settings.zero.stage, int(settings.dtype == "bf16"))


def most_tokens(shape: Shape, setup: Setup, gpu_bytes: float) -> int:
    """The longest row whose step fits into `gpu_bytes`; 0 if none does. (The peak is linear in the tokens.)"""
    fixed = sum(_states(shape, setup).values()) + RESERVE_BYTES
    kept = kept_bytes(shape, setup.checkpointing) * _wide(setup) * shape.layers
    base = _loss(shape, setup, 0.0)
    per_logit = _loss(shape, setup, 1.0) - base
    by_layer = (gpu_bytes - fixed) / (kept + layer_bytes(shape, setup))
    by_loss = (gpu_bytes - fixed - base) / (kept + per_logit)
    return max(0, int(min(by_layer, by_loss) * setup.sharing))


def layer_bytes(shape: Shape, setup: Setup) -> float:
    """Bytes a token of the layer that is being recomputed and differentiated, beside what is kept."""
    h, q, k, f = shape.hidden, shape.queries, shape.keys, shape.ffn
    gradients = 6 * f + 6 * h
    swapped = 4 * (q + k) if setup.sharing > 1 else 0
    again = 0 if setup.checkpointing == "none" else kept_bytes(shape, "none")
    return (again + gradients + swapped) * _wide(setup)


def _states(shape: Shape, setup: Setup) -> dict[str, float]:
    n, shard, stage = shape.params, 1 / setup.ranks, setup.zero_stage
    # under offload DeepSpeed's stage 3 keeps gradients beside each part of the states, the others keep them on the GPU
    on_gpu = 1 - _offloaded(setup) if stage == 3 else 1.0
    whole_parts = (setup.state_bytes + setup.gradient_bytes) * SUB_GROUP if 0 < _offloaded(setup) < 1 else 0.0
    weights = setup.weight_bytes * n * (shard if stage == 3 else 1.0)
    return {
        "weights": 0.0 if setup.offload == "all" else weights,
        "gradients": on_gpu * setup.gradient_bytes * n * (shard if stage >= 2 else 1.0),
        "optimizer": _own_state_bytes(setup) * n * (1 - _offloaded(setup)) * (shard if stage >= 1 else 1.0)
        + whole_parts,
        "gathered layers": 4.0 * setup.weight_bytes * shape.layer_params if stage == 3 else 0.0,
    }


def _own_state_bytes(setup: Setup) -> int:
    """Bytes a parameter of the states on the GPU: in fp32 ZeRO-3 without offload steps the weights themselves."""
    shared = setup.weight_bytes == 4 and setup.zero_stage in (0, 3) and setup.offload == "none"
    return setup.state_bytes - (4 if shared else 0)


def _offloaded(setup: Setup) -> float:
    """Share of the optimizer states that is in host memory."""
    return {"none": 0.0, "optimizer": setup.ratio, "all": 1.0}[setup.offload]


def kept_bytes(shape: Shape, checkpointing: Checkpointing) -> float:
    """Bytes of bf16 activations that a layer keeps for its backward pass, a token.

    Selective keeps its input, what attention returns and what its seven matrices return (hpc/train/engine.py).
    """
    h, q, k, f = shape.hidden, shape.queries, shape.keys, shape.ffn
    return {
        "none": 16 * h + 4 * q + 4 * k + (8 if shape.gated else 4) * f,
        "selective": 2 * (3 * h + 2 * q + 2 * k + 2 * f),
        "half": 2 * (2 * h + 2 * q + k + f),
        "full": 2 * h,
        "offloaded": 0,
    }[checkpointing]


def _wide(setup: Setup) -> float:
    """Activations in fp32 take twice as much."""
    return setup.weight_bytes / 2


def _loss(shape: Shape, setup: Setup, tokens: float) -> float:
    if not setup.loss_chunk:
        return setup.logit_bytes * shape.vocab * tokens
    head = setup.head_bytes * _wide(setup) * shape.vocab * shape.hidden
    return head + 4 * shape.hidden * tokens + CHUNK_LOGIT_BYTES * shape.vocab * setup.loss_chunk


def _host(shape: Shape, setup: Setup) -> dict[str, float]:
    """Parts of one host. A resume takes none: its files are mapped, and what the job then holds is counted here."""
    share = min(setup.ranks, setup.ranks_per_node) / setup.ranks
    states = share * shape.params * setup.state_bytes * _offloaded(setup)
    copies = 1 + (_offloaded(setup) if setup.zero_stage == 3 else 0.0)  # one for all of them, one beside the states
    inputs = 2 * shape.hidden * shape.layers * setup.tokens * setup.ranks_per_node * _wide(setup)
    return {
        "ranks": RANK_BYTES * min(setup.ranks, setup.ranks_per_node),
        "optimizer": states,
        "gradients": share * shape.params * setup.gradient_bytes * copies if setup.offload != "none" else 0.0,
        "weights": share * shape.params * setup.weight_bytes if setup.offload == "all" else 0.0,
        "activations": inputs if setup.checkpointing == "offloaded" else 0.0,
        "export": min(EXPORT_BYTES, setup.weight_bytes * shape.params),
    }
