"""Cross-entropy in which every trained token has a weight, computed in the head itself, a chunk of positions at a time.

With a vocabulary of 152,064 the logits of 32,768 positions take 20 GB in fp32, and Hugging Face keeps several copies.
Here the head's own forward returns the loss: for each chunk it computes the logits, their loss and, at once, the
gradients of hidden states and weights, so that only one chunk of logits ever exists. Since it *is* the forward of the
head module, ZeRO-3 gathers the head's weights once for it, also where they are the embedding's (tied).

Legend: N positions, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def token_weights(
    trained_tokens: Sequence[int], loss_average: Literal["sample", "token"], world_size: int
) -> list[float]:
    """The weight of one trained token in each example of a global batch with these numbers of trained tokens.

    Summed over a global batch they give `world_size`: DeepSpeed takes the mean of the gradients over ranks, so each
    rank's loss is world_size x its weighted sum / the global weight, wherever an example is computed.
    `sample` gives every example the same weight (as s1 and Sky-T1 did), `token` every trained token.
    """
    if loss_average == "sample":
        return [world_size / (len(trained_tokens) * n) for n in trained_tokens]
    return [world_size / sum(trained_tokens)] * len(trained_tokens)


def loss_of_logits(logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
    """Sum over positions of weight x -log p(target), in fp32; a scalar. Positions without weight take no part."""
    chosen = weights_N != 0
    losses = cross_entropy(logits_NV[chosen].float(), targets_N[chosen], reduction="none")
    return (losses * weights_N[chosen]).sum()


def attach(head: nn.Linear, chunk: int) -> None:
    """Make the head return the loss of (hidden_ND, targets_N, weights_N) instead of logits; its weights stay its own.

    Args:
        head: the output embedding, without bias.
        chunk: positions whose logits exist at once.
    """
    assert head.bias is None, "a head with a bias needs the whole logits (train.loss_chunk=0)"

    def forward(self: nn.Linear, hidden_ND: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
        chosen = weights_N != 0
        loss: Tensor = ChunkedLoss.apply(hidden_ND[chosen], self.weight, targets_N[chosen], weights_N[chosen], chunk)
        return loss

    head.forward = MethodType(forward, head)


class ChunkedLoss(torch.autograd.Function):
    """Weighted cross-entropy of hidden_ND @ weight_VD.T, its gradients made on the way forward, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, chunk: int
    ) -> Tensor:
        """The loss, in fp32. Gradients of the weights are summed over chunks in fp32, as one product would."""
        loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device)
        for first in range(0, len(targets_N), chunk):
            part = slice(first, first + chunk)
            logits_NV = (hidden_ND[part] @ weight_VD.T).float()
            share, grad_NV = _loss_and_gradient(logits_NV, targets_N[part], weights_N[part])
            loss += share
            grad_NV = grad_NV.to(weight_VD.dtype)
            grad_hidden_ND[part] = grad_NV @ weight_VD
            grad_weight_VD += grad_NV.T @ hidden_ND[part]
            del logits_NV, grad_NV  # before the next chunk's are made
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD.to(weight_VD.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """The gradients made before, times the gradient of the loss (1 unless somebody scales it)."""
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_ND * grad.to(grad_hidden_ND.dtype), grad_weight_VD.mul_(grad), None, None, None


def _loss_and_gradient(logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted loss, and its gradient: weight x (softmax - one at the target). Overwrites the logits."""
    total_N1 = logits_NV.logsumexp(-1, keepdim=True)
    place_N1 = targets_N[:, None]
    loss = ((total_N1 - logits_NV.gather(1, place_N1))[:, 0] * weights_N).sum()
    grad_NV = logits_NV.sub_(total_N1).exp_()
    grad_NV.scatter_add_(1, place_N1, torch.full_like(total_N1, -1.0))
    return loss, grad_NV.mul_(weights_N[:, None])
