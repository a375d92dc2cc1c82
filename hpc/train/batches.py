"""Which examples form which global batch, and which rank computes which of them.

Membership follows from (seed, epoch, example id) alone: not from the file's order, the ranks, or a restart.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hpc.train.loss import token_weights
from hpc.train.text import Rendered

if TYPE_CHECKING:
    from torch import Tensor

FILLER = Rendered("", [0, 0], 2)
"""A row without loss. It keeps ranks in step: under ZeRO-3 every rank must run every forward and backward pass."""


@dataclass(frozen=True)
class Micro:
    """One forward pass of one rank: ids_BL padded on the right, weights_BL (0 on prompts, padding and fillers)."""

    ids_BL: Tensor
    weights_BL: Tensor


class Batches:
    """The global batches of a training run, in order. Steps count from 0.

    Attributes:
        num_steps: optimizer steps in all: ceil(epochs x steps_per_epoch); the last batch of an epoch may be smaller.
        micro_batch: rows per rank and forward pass, lowered where a rank's share is smaller.
        micro_steps: forward passes per rank and step, the same on all ranks and in all steps.
    """

    def __init__(
        self,
        rows: Sequence[Rendered],
        *,
        batch_size: int,
        epochs: float,
        seed: int,
        loss_average: Literal["sample", "token"],
        world_size: int,
        micro_batch: int,
    ) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.loss_average, self.world_size = loss_average, world_size
        self.steps_per_epoch = math.ceil(len(rows) / batch_size)
        self.num_steps = math.ceil(epochs * self.steps_per_epoch)
        share = math.ceil(min(batch_size, len(rows)) / world_size)
        self.micro_batch = min(micro_batch, share)
        self.micro_steps = math.ceil(share / self.micro_batch)
        self._epoch: tuple[int, list[int]] = (-1, [])

    def about(self) -> str:
        """One line for the log: how a step is made up."""
        return (
            f"{len(self.rows)} examples, {self.num_steps} steps of {self.batch_size} = {self.world_size} ranks "
            f"x {self.micro_steps} passes x {self.micro_batch} rows"
        )

    def members(self, step: int) -> list[Rendered]:
        """The examples of a step's global batch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, _order([row.id for row in self.rows], self.seed, epoch))
        chosen = self._epoch[1][place * self.batch_size : (place + 1) * self.batch_size]
        return [self.rows[index] for index in chosen]

    def trained_tokens(self, step: int) -> int:
        """Tokens with loss in a step's global batch."""
        return sum(row.trained_tokens for row in self.members(step))

    def tokens(self, step: int) -> int:
        """All tokens of a step's global batch, prompts too, padding not."""
        return sum(len(row.ids) for row in self.members(step))

    def share(self, step: int, rank: int) -> list[list[tuple[Rendered, float]]]:
        """For each forward pass of `rank`: its (row, weight of each of its trained tokens).

        Rows are dealt out in order of length: a pass holds rows of like length on all ranks, so there is little
        padding and no rank waits long for another.
        """
        members = self.members(step)
        weights = token_weights([row.trained_tokens for row in members], self.loss_average, self.world_size)
        dealt = sorted(zip(members, weights, strict=True), key=lambda pair: (-len(pair[0].ids), pair[0].id))
        width = self.world_size * self.micro_batch
        dealt += [(FILLER, 0.0)] * (width * self.micro_steps - len(dealt))
        return [dealt[first + rank : first + width : self.world_size] for first in range(0, len(dealt), width)]

    def micros(self, step: int, rank: int) -> Iterator[Micro]:
        """The forward passes of `rank` in a step, as tensors."""
        return (collate(pairs) for pairs in self.share(step, rank))


def collate(pairs: Sequence[tuple[Rendered, float]]) -> Micro:
    """Pad rows on the right to one length. Under a causal mask no real position sees padding, so no mask is needed."""
    import torch

    longest = max(len(row.ids) for row, _ in pairs)
    ids_BL = torch.zeros(len(pairs), longest, dtype=torch.long)
    weights_BL = torch.zeros(len(pairs), longest, dtype=torch.float32)
    for place, (row, weight) in enumerate(pairs):
        ids_BL[place, : len(row.ids)] = torch.tensor(row.ids)
        weights_BL[place, row.prompt_tokens : len(row.ids)] = weight
    return Micro(ids_BL, weights_BL)


def _order(ids: Sequence[str], seed: int, epoch: int) -> list[int]:
    seen: Counter[str] = Counter()
    draws = []
    for index, name in enumerate(ids):
        draws.append((hashlib.sha256(f"{seed}/{epoch}/{name}/{seen[name]}".encode()).digest(), index))
        seen[name] += 1
    return [index for _, index in sorted(draws)]
