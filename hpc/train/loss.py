"""Cross-entropy in which every trained token has a weight; the weights decide what the average is taken over.

Legend: B rows, L positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


def token_weights(
    trained_tokens: Sequence[int], loss_average: Literal["sample", "token"], world_size: int
) -> list[float]:
    """The weight of one trained token in each row of a global batch with these numbers of trained tokens.

    Summed over a global batch they give `world_size`: DeepSpeed takes the mean of the gradients over ranks, so each
    rank's loss is world_size x its weighted sum / the global weight, wherever a row is computed.
    `sample` gives every row the same weight (as s1 and Sky-T1 did), `token` every trained token.
    """
    if loss_average == "sample":
        return [world_size / (len(trained_tokens) * n) for n in trained_tokens]
    return [world_size / sum(trained_tokens)] * len(trained_tokens)


def weighted_cross_entropy(logits_BLV: Tensor, ids_BL: Tensor, weights_BL: Tensor) -> Tensor:
    """Sum over positions of weight x -log p(token | tokens before it), in fp32; a scalar.

    Only weighted positions are gathered, so a row without weights (a filler) contributes exactly 0.
    """
    from torch.nn.functional import cross_entropy

    targets, weights = ids_BL[:, 1:], weights_BL[:, 1:]
    chosen = weights != 0
    losses = cross_entropy(logits_BLV[:, :-1][chosen].float(), targets[chosen], reduction="none")
    return (losses * weights[chosen]).sum()
