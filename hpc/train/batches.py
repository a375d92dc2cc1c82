"""Which examples form which global batch, and which rank computes which part of them.

Membership follows from (seed, epoch, example id) alone: not from the file's order, the ranks, packing, or a restart.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from hpc.train import pack
from hpc.train.text import Rendered

if TYPE_CHECKING:
    from torch import Tensor

FILLER_TOKENS = 2
"""Length of a document without loss. It keeps ranks in step: under ZeRO-3 every rank must run every pass."""


@dataclass(frozen=True)
class Layout:
    """How a batch is laid out over ranks (all of it *how*: the gradient does not depend on it).

    Attributes:
        world_size: ranks of the job.
        sharing: ranks that share one row (sequence parallelism); divides world_size.
        packed: whole rows of up to row_tokens; else rows of `micro_batch` examples.
        row_tokens: most tokens of a packed row.
        micro_batch: examples per row where not packed.
        cost: what a document costs, for balance.
    """

    world_size: int = 1
    sharing: int = 1
    packed: bool = True
    row_tokens: int = 32768
    micro_batch: int = 1
    cost: pack.Cost = field(default_factory=pack.Cost)

    @property
    def groups(self) -> int:
        """Rows that are computed at the same time."""
        return self.world_size // self.sharing

    def passes(self, tokens: Sequence[int]) -> list[pack.Pass]:
        """The forward passes over documents of these lengths."""
        if self.packed:
            return pack.pack(tokens, self.groups, self.row_tokens, self.cost)
        return pack.singly(tokens, self.groups, self.micro_batch)


@dataclass(frozen=True)
class Row:
    """What one rank computes in one pass: a packed row, or its share of the row's positions.

    Attributes:
        ids_BL, positions_BL: token ids and their positions in their documents; B = 1.
        targets_N, weights_N: the next token of the document and the weight of its loss; 0 where there is none.
        edges: where documents begin and end in the whole row.
    """

    ids_BL: Tensor
    positions_BL: Tensor
    targets_N: Tensor
    weights_N: Tensor
    edges: tuple[int, ...]


class Batches:
    """The global batches of a training run, in order. Steps count from 0.

    Attributes:
        num_steps: optimizer steps in all: ceil(epochs x steps_per_epoch); the last batch of an epoch may be smaller.
    """

    def __init__(
        self,
        rows: Sequence[Rendered],
        *,
        batch_size: int,
        epochs: float,
        seed: int,
        loss_average: Literal["sample", "token"],
        layout: Layout,
    ) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.loss_average, self.layout = loss_average, layout
        self.steps_per_epoch = math.ceil(len(rows) / batch_size)
        self.num_steps = math.ceil(epochs * self.steps_per_epoch)
        self._epoch: tuple[int, list[int]] = (-1, [])
        self._planned: dict[int, list[pack.Pass]] = {}

    def about(self) -> str:
        """One line for the log: how steps are made up."""
        return (
            f"{len(self.rows)} examples, {self.num_steps} steps of {self.batch_size} in up to {self.most_passes} "
            f"passes over {self.layout.groups} rows; ranks are busy {100 * self.balance:.1f} % of the time"
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
        """All tokens of a step's global batch, prompts too, fillers not."""
        return sum(len(row.ids) for row in self.members(step))

    def passes(self, step: int) -> list[pack.Pass]:
        """The forward passes of a step: for each group the examples of its row, as indices into `members`."""
        if step not in self._planned:
            self._planned[step] = self.layout.passes([len(row.ids) for row in self.members(step)])
        return self._planned[step]

    @cached_property
    def most_passes(self) -> int:
        """Forward passes of the step that has most."""
        return max((len(self.passes(step)) for step in range(self.num_steps)), default=1)

    @cached_property
    def balance(self) -> float:
        """Share of the ranks' time that is work, by the cost of their rows, over all steps (predicted)."""
        work = spent = 0.0
        for step in range(self.num_steps):
            tokens = [len(row.ids) for row in self.members(step)]
            useful = sum(map(self.layout.cost, tokens))
            work += useful
            spent += useful / pack.balance(self.passes(step), tokens, self.layout.cost)
        return work / spent if spent else 1.0

    def rows_of(self, step: int, rank: int) -> Iterator[Row]:
        """What `rank` computes in each pass of a step, as tensors; as many on every rank."""
        from hpc.train.loss import token_weights

        members = self.members(step)
        weights = token_weights([m.trained_tokens for m in members], self.loss_average, self.layout.world_size)
        group, place = divmod(rank, self.layout.sharing)
        for one in self.passes(step):
            yield lay([(members[i], weights[i]) for i in one[group]], self.layout.sharing, place)


def lay(documents: Sequence[tuple[Rendered, float]], sharing: int, place: int) -> Row:
    """One rank's share of a row: documents end to end, filled up so that `sharing` ranks get as many positions each.

    Args:
        documents: each with the weight of one of its trained tokens.
        sharing: ranks that share the row.
        place: which of them.
    """
    import torch

    lengths = [len(row.ids) for row, _ in documents]
    missing = -sum(lengths) % sharing if documents else sharing * FILLER_TOKENS
    lengths += [missing] if missing else []
    edges = (0, *accumulate(lengths))
    ids = torch.zeros(edges[-1], dtype=torch.long)
    targets, weights = torch.zeros_like(ids), torch.zeros(edges[-1])
    for (row, weight), start, end in zip(documents, edges, edges[1:], strict=False):
        ids[start:end] = torch.tensor(row.ids)
        targets[start : end - 1] = ids[start + 1 : end]
        weights[start + max(row.prompt_tokens, 1) - 1 : end - 1] = weight
    positions = torch.cat([torch.arange(n) for n in lengths])
    share = edges[-1] // sharing
    mine = slice(place * share, (place + 1) * share)
    return Row(ids[None, mine], positions[None, mine], targets[mine], weights[mine], edges)


def _order(ids: Sequence[str], seed: int, epoch: int) -> list[int]:
    seen: Counter[str] = Counter()
    draws = []
    for index, name in enumerate(ids):
        draws.append((hashlib.sha256(f"{seed}/{epoch}/{name}/{seen[name]}".encode()).digest(), index))
        seen[name] += 1
    return [index for _, index in sorted(draws)]
