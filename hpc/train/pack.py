"""Rows: which examples of a global batch are computed together, by which group of ranks, in which forward pass.

A batch's members are fixed (hpc/train/batches.py); packing only decides where they are computed, so the gradient is the
same however they are packed. A row is one forward pass of one group of ranks (one rank, or those that share a row by
sequence parallelism): whole examples end to end, without padding. All groups run the same number of passes, and ZeRO-3
keeps them in lock-step within each: a pass lasts as long as its costliest row, so rows of a pass should cost the same.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

Pass = list[list[int]]
"""One forward pass: for each group the examples of its row, by index; an empty row is filled up by the caller."""

SWAPS = 200
"""Most exchanges between two rows of a pass that are tried in search of balance."""
CLOSE = 1e-4
"""Rows whose costs differ by a smaller share cost the same."""


@dataclass(frozen=True)
class Cost:
    """Work of a document of n tokens: n x (1 + quadratic x n), in units of one token's matrix products."""

    quadratic: float = 0.0

    def __call__(self, tokens: int) -> float:
        """The work of one document."""
        return tokens * (1.0 + self.quadratic * tokens)


def cost_of(num_params: int, num_layers: int, query_width: int) -> Cost:
    """The cost of a decoder: 6 N FLOPs a token, and 6 L q n for causal attention over n tokens (forward, backward).

    Args:
        num_params: N, parameters in matrix products.
        num_layers: L.
        query_width: q, heads x head width.
    """
    return Cost(num_layers * query_width / num_params)


def pack(tokens: Sequence[int], groups: int, row_tokens: int, cost: Cost) -> list[Pass]:
    """The fewest passes in which rows of at most `row_tokens` hold all documents, rows of a pass balanced by cost.

    Args:
        tokens: length of every document of the batch.
        groups: rows of one pass.
        row_tokens: most tokens of a row; one longer document still gets a row of its own.

    Returns:
        At least one pass; the costliest first, so that memory is short at once or never.
    """
    room = max(row_tokens, *tokens)
    passes = max(1, math.ceil(sum(tokens) / (groups * room)))
    while (rows := _fill(tokens, groups * passes, room, cost)) is None:
        passes += 1
    rows.sort(key=lambda row: -_cost(row, tokens, cost))
    dealt = [rows[first : first + groups] for first in range(0, len(rows), groups)]
    for rows_of_pass in dealt:
        _level(rows_of_pass, tokens, room, cost)
    drawn = _draw(dealt, tokens, room, cost) if groups > 1 else dealt
    return max(dealt, drawn, key=lambda passes: balance(passes, tokens, cost))


def singly(tokens: Sequence[int], groups: int, per_row: int) -> list[Pass]:
    """Rows of `per_row` documents, dealt out by length: a pass holds documents of like length on all ranks."""
    order = sorted(range(len(tokens)), key=lambda index: (-tokens[index], index))
    width = groups * per_row
    return [
        [order[first + group : first + width : groups] for group in range(groups)]
        for first in range(0, len(order), width)
    ]


def balance(passes: Sequence[Pass], tokens: Sequence[int], cost: Cost) -> float:
    """Share of the ranks' time that is work: the rows' costs over groups x the costliest row, summed over passes."""
    costs = [[_cost(row, tokens, cost) for row in one] for one in passes]
    return sum(map(sum, costs)) / sum(len(one) * max(one) for one in costs)


def _fill(tokens: Sequence[int], num_rows: int, room: int, cost: Cost) -> list[list[int]] | None:
    """Longest first, each into the cheapest row that has room; None if one fits nowhere."""
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    left = [room] * num_rows
    heap = [(0.0, number) for number in range(num_rows)]
    for index in sorted(range(len(tokens)), key=lambda i: (-tokens[i], i)):
        full = []
        while heap and left[heap[0][1]] < tokens[index]:
            full.append(heapq.heappop(heap))
        if not heap:
            return None
        spent, number = heapq.heappop(heap)
        rows[number].append(index)
        left[number] -= tokens[index]
        for entry in (*full, (spent + cost(tokens[index]), number)):
            heapq.heappush(heap, entry)
    return rows


def _level(rows: Pass, tokens: Sequence[int], room: int, cost: Cost) -> None:
    """Exchange documents between the costliest row of a pass and another while that makes the costliest cheaper."""
    for _ in range(SWAPS):
        rows.sort(key=lambda row: -_cost(row, tokens, cost))
        if not any(_exchange(rows[0], other, tokens, room, cost) for other in reversed(rows[1:])):
            return


def _exchange(dear: list[int], cheap: list[int], tokens: Sequence[int], room: int, cost: Cost) -> bool:
    """The best move or swap between two rows, if it lowers the dearer one's cost; done in place."""
    gap = _cost(dear, tokens, cost) - _cost(cheap, tokens, cost)
    taken = sum(tokens[i] for i in cheap), sum(tokens[i] for i in dear)
    best, choice = gap, None
    for mine in dear:
        for theirs in (None, *cheap):
            back = 0 if theirs is None else tokens[theirs]
            moved = cost(tokens[mine]) - (cost(back) if back else 0.0)
            fits = taken[0] + tokens[mine] - back <= room and taken[1] - tokens[mine] + back <= room
            if fits and 0 < moved < gap and abs(gap - 2 * moved) < best - 1e-9:
                best, choice = abs(gap - 2 * moved), (mine, theirs)
    if choice is None:
        return False
    mine, theirs = choice
    dear.remove(mine)
    cheap.append(mine)
    if theirs is not None:
        cheap.remove(theirs)
        dear.append(theirs)
    return True


def _draw(passes: Sequence[Pass], tokens: Sequence[int], room: int, cost: Cost) -> list[Pass]:
    """Pass by pass, rows draw documents from the passes behind until they cost as much as the pass's costliest row.

    A long document that has a row for itself makes a pass last; the other rows may as well do more meanwhile.
    """
    drawn = [[list(row) for row in one] for one in passes]
    for number, one in enumerate(drawn):
        _level(one, tokens, room, cost)
        top = (1 + CLOSE) * max(_cost(row, tokens, cost) for row in one)
        home = {index: row for later in drawn[number + 1 :] for row in later for index in row}
        behind = sorted((tokens[index], index) for index in home)
        for row in one:
            while (choice := _wanted(row, behind, top, tokens, room, cost)) is not None:
                mine, (length, theirs) = choice
                behind.remove((length, theirs))
                home[theirs].remove(theirs)
                row.append(theirs)
                if mine is not None:
                    row.remove(mine)
                    home[theirs].append(mine)
                    home[mine] = home[theirs]
                    insort(behind, (tokens[mine], mine))
    return [one for one in drawn if any(one)]


def _wanted(
    row: list[int], behind: list[tuple[int, int]], top: float, tokens: Sequence[int], room: int, cost: Cost
) -> tuple[int | None, tuple[int, int]] | None:
    """Which document of the row (or none) to give for which (tokens, index) behind, to come nearest to the cost `top`.

    None if nothing brings it nearer by more than CLOSE.
    """
    spent, taken = _cost(row, tokens, cost), sum(tokens[index] for index in row)
    best, choice = CLOSE * top, None
    for mine in (None, *row):
        back = 0 if mine is None else tokens[mine]
        fitting = bisect_right(behind, (room - taken + back, len(tokens)))
        place = bisect_right(behind, top - spent + cost(back), hi=fitting, key=lambda entry: cost(entry[0])) - 1
        if place >= 0 and cost(behind[place][0]) - cost(back) > best:
            best, choice = cost(behind[place][0]) - cost(back), (mine, behind[place])
    return choice


def _cost(row: Sequence[int], tokens: Sequence[int], cost: Cost) -> float:
    return sum(cost(tokens[index]) for index in row)
