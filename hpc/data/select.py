"""Selections by name: every public function here makes a rule that takes `size` of the examples (s1, section 2.2).

Every draw is a hash of the seed and of what is drawn, and examples are taken in the order of their ids: neither the
order of the source nor a restart changes a selection.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

from hpc.errors import StageError
from hpc.records import Example

Selection = Callable[[Sequence[Example], int, int], list[Example]]
"""(examples, size, seed) -> the selected, `size` of them or all where there are fewer."""


def all() -> Selection:
    """The first `size` by id: with no size, everything."""
    return lambda examples, size, seed: _by_id(examples)[:size]


def random() -> Selection:
    """Each example with the same chance (s1's 1K-random)."""
    return lambda examples, size, seed: sorted(examples, key=lambda e: (_uniform(seed, e.id), e.id))[:size]


def longest(*, field: str = "thinking") -> Selection:
    """The longest first (s1's 1K-longest).

    Args:
        field: whose length counts: thinking or answer.
    """
    return lambda examples, size, seed: sorted(examples, key=lambda e: (-e.lengths.get(field, 0), e.id))[:size]


def diverse() -> Selection:
    """Draw a domain uniformly among those that have examples left, then an example of it (s1's 1K-diverse)."""

    def select(examples: Sequence[Example], size: int, seed: int) -> list[Example]:
        pools = _pools(examples, key=lambda e: (_uniform(seed, e.id), e.id))
        return _draw(pools, size, seed, lambda pool, draw: 0)

    return select


def s1(*, field: str = "thinking", preselect: Mapping[str, int] | None = None, need_check: str = "right") -> Selection:
    """Draw a domain uniformly, then an example of it with weight 2^-rank by length, longest first (s1, algorithm 1).

    Args:
        field: whose length counts: thinking or answer.
        preselect: by part of a source's name the least length: such examples are taken before any draw
            (s1: {AIME: 0, GPQA: 0, MATH: 5601}).
        need_check: the filter that a preselected example must have passed, by name; empty asks for none.

    Raises:
        StageError: on selecting, if no example has passed that filter: nothing could be preselected.
    """

    def first(example: Example) -> bool:
        passed = not need_check or need_check in example.checks
        return passed and any(
            name.lower() in example.source.lower() and example.lengths.get(field, 0) >= least
            for name, least in (preselect or {}).items()
        )

    def select(examples: Sequence[Example], size: int, seed: int) -> list[Example]:
        if preselect and need_check and not any(need_check in e.checks for e in examples):
            raise StageError(
                f'no example has passed the check "{need_check}" that `preselect` needs',
                where="data.select",
                why=f"checks passed: {', '.join(sorted({c for e in examples for c in e.checks})) or 'none'}",
                next=f'add the filter {need_check} to data.filters, or set need_check: "" in the selection',
            )
        taken = _by_id([e for e in examples if first(e)])[:size]
        ids = {e.id for e in taken}
        rest = [e for e in examples if e.id not in ids]
        pools = _pools(rest, key=lambda e: (-e.lengths.get(field, 0), e.id))
        return taken + _draw(pools, size - len(taken), seed, _halving)

    return select


def _by_id(examples: Sequence[Example]) -> list[Example]:
    return sorted(examples, key=lambda e: e.id)


def _pools(examples: Sequence[Example], key: Callable[[Example], tuple[float, str]]) -> dict[str, list[Example]]:
    """Examples by domain, each pool in the order of `key`."""
    pools: dict[str, list[Example]] = {}
    for example in sorted(examples, key=key):
        pools.setdefault(example.domain, []).append(example)
    return dict(sorted(pools.items()))


def _draw(
    pools: dict[str, list[Example]], size: int, seed: int, rank: Callable[[list[Example], float], int]
) -> list[Example]:
    """`size` draws: a domain uniformly among those left, then the example at `rank(pool, uniform number)`."""
    taken: list[Example] = []
    left = list(pools)
    draws = dict.fromkeys(pools, 0)
    while left and len(taken) < size:
        domain = left[math.floor(_uniform(seed, "domain", len(taken)) * len(left))]
        pool = pools[domain]
        taken.append(pool.pop(rank(pool, _uniform(seed, domain, draws[domain]))))
        draws[domain] += 1
        if not pool:
            left.remove(domain)
    return taken


def _halving(pool: Sequence[Example], draw: float) -> int:
    """The rank at which the weights 2^-rank, summed to `len(pool)` ranks, exceed a uniform number."""
    total = 1.0 - 2.0 ** -len(pool)
    return min(len(pool) - 1, math.floor(-math.log2(1.0 - draw * total)))


def _uniform(seed: int, *parts: str | int) -> float:
    """A number in [0, 1) from the seed and the name of what is drawn: 53 bits of a hash."""
    text = "/".join(str(p) for p in (seed, *parts))
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11) / (1 << 53)
