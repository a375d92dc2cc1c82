"""Sequence parallelism (DeepSpeed-Ulysses, arXiv 2309.14509): ranks share a row; around attention they trade heads.

Outside attention every rank holds an equal share of the row's positions and all heads. Before attention an all-to-all
gives it all positions of its share of the heads, after it another undoes that. Both are differentiable: the gradient of
one exchange is the other. The bounds of the documents never travel, so packed rows stay packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def fits(query_heads: int, key_heads: int, size: int) -> bool:
    """Whether `size` ranks can share the heads: query heads divide evenly; key heads do, or are copied to several."""
    return query_heads % size == 0 and (key_heads % size == 0 or size % key_heads == 0)


@dataclass(frozen=True)
class Sharers:
    """The ranks that share a row, in the order of its positions."""

    group: dist.ProcessGroup
    size: int
    place: int

    def heads(self, query_HlD: Tensor, key_KlD: Tensor, value_KlD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From all heads of this rank's positions (l) to all positions (L) of this rank's heads."""
        query_hLD = self._gather(query_HlD)
        return query_hLD, self._gather(self._copied(key_KlD)), self._gather(self._copied(value_KlD))

    def positions(self, states_hLD: Tensor) -> Tensor:
        """From all positions (L) of this rank's heads (h) to all heads of its positions."""
        local, whole, width = states_hLD.shape
        sent = states_hLD.reshape(local, self.size, whole // self.size, width).transpose(0, 1).contiguous()
        got: Tensor = Exchange.apply(sent, self.group)
        return got.reshape(self.size * local, whole // self.size, width)

    def _gather(self, states_HlD: Tensor) -> Tensor:
        heads, share, width = states_HlD.shape
        sent = states_HlD.reshape(self.size, heads // self.size, share, width).contiguous()
        got: Tensor = Exchange.apply(sent, self.group)
        return got.transpose(0, 1).reshape(heads // self.size, self.size * share, width)

    def _copied(self, states_KlD: Tensor) -> Tensor:
        """Fewer key heads than ranks: each is sent to all ranks whose query heads read it."""
        copies = self.size // states_KlD.shape[0]
        return states_KlD.repeat_interleave(copies, dim=0) if copies > 1 else states_KlD


class Exchange(torch.autograd.Function):
    """An all-to-all over the first dimension: chunk i goes to rank i of the group, the chunk of rank i arrives as i.

    It is its own inverse, so its gradient is itself.
    """

    @staticmethod
    def forward(ctx: Any, sent: Tensor, group: dist.ProcessGroup) -> Tensor:
        """Exchange the states."""
        ctx.group = group
        got = torch.empty_like(sent)
        dist.all_to_all_single(got, sent, group=group)
        return got

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Exchange their gradients."""
        back = torch.empty_like(grad, memory_format=torch.contiguous_format)
        dist.all_to_all_single(back, grad.contiguous(), group=ctx.group)
        return back, None
