"""How evenly ranks are busy: our packing beside TRL's, the Hugging Face Trainer's, sorted and random batches.

    python -m bench.run balance

Balance is the share of the ranks' time that is work: in every forward pass of a step all ranks wait for the costliest
row, since ZeRO-3 gathers weights layer by layer (hpc.train.pack.balance, cost linear + quadratic of Qwen2.5-32B).
Nothing is trained: these are exact sums over lengths. s1's two are its published histograms, the lengths of Sky-T1 and
OpenThoughts are log-normal assumptions (hpc/plan/histograms.yaml).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

from hpc.plan import lengths, shapes
from hpc.train import pack
from hpc.train.pack import Cost, Pass

DATA = {
    "s1K": "simplescaling/s1K",
    "s1K-1.1": "simplescaling/s1K-1.1",
    "Sky-T1_data_17k": "NovaSky-AI/Sky-T1_data_17k",
    "OpenThoughts-114k": "open-thoughts/OpenThoughts-114k",
}
PAPER_BATCH = {"s1K": 16, "s1K-1.1": 16, "Sky-T1_data_17k": 96, "OpenThoughts-114k": 512}
"""OpenThoughts trained with 512 examples a step; the others as their papers say."""
RANKS = (8, 16)
SHARING = (1, 8)
BATCHES = (16, 96, 512)
ROWS = (16384, 20480, 24576, 32768, 65536)
USUAL_ROW = 32768
SAMPLE = 4096
"""Examples that balance is computed on; time is taken on all."""
TARGETS = (
    ("Sky-T1_data_17k", 96, 8, 1, 0.98),
    ("s1K", 16, 16, 8, 0.99),
    ("s1K-1.1", 16, 16, 8, 0.99),
)
"""(data, batch, ranks, ranks to a row, least balance)."""


def measure() -> dict[str, Any]:
    """Balance by data, ranks, sharing and batch; seconds of planning all batches of an epoch."""
    return {
        "lengths": {name: about(name) for name in DATA},
        "balance": [row(*setting) for setting in settings()],
        "targets": [target(*claim) for claim in TARGETS],
        "seconds": {name: seconds(name) for name in DATA},
        "left_out": ["verl's Karmarkar-Karp partition: verl is not a dependency of ours, and a copy would not be verl"],
    }


def settings() -> Iterator[tuple[str, int, int, int]]:
    """(data, batch, ranks, ranks to a row); one row at a time is balanced by definition, and left out."""
    for name, batch, ranks, sharing in product(DATA, BATCHES, RANKS, SHARING):
        if ranks > sharing:
            yield name, batch, ranks, sharing


def row(name: str, batch: int, ranks: int, sharing: int, rows: Sequence[int] = ROWS) -> dict[str, Any]:
    """Balances of one setting, by way of dealing; those of packed rows by their limit in tokens.

    `most_possible` is what no packing can exceed that keeps the batch and computes it in one pass: a step lasts at
    least as long as its longest example, and as all its work shared out evenly.
    """
    groups, batches = ranks // sharing, cut(sample(name), batch)
    found: dict[str, Any] = {"data": name, "batch": batch, "ranks": ranks, "sequence_parallel": sharing}
    found["most_possible"] = _round(possible(batches, groups))
    found["one_by_one_random"] = _round(mean_balance(batches, [one_by_one(b, groups) for b in batches]))
    found["one_by_one_sorted"] = _round(mean_balance(batches, [pack.singly(b, groups, 1) for b in batches]))
    if sharing == 1:
        found["hf_batch_rebalance"] = _round(rebalanced(batches, groups, max(USUAL_ROW, max(sample(name)))))
    found["trl_bfd_same_batch"] = same_batch(name, batches, groups)
    found["rows"] = [packed(name, batches, groups, limit) for limit in rows]
    return found


def same_batch(name: str, batches: list[list[int]], groups: int) -> dict[str, Any]:
    """TRL's packing with rows so short that one pass holds about as many examples as the batch that was asked for."""
    each = sum(map(sum, batches)) / len(batches) / groups
    limit = max(math.ceil(each), max(sample(name)))
    rows = trl_rows(sample(name), limit)
    return {
        "row_tokens": limit,
        "balance": _round(dealt(rows, groups)),
        "least_batch_examples": round(groups * sum(map(len, rows)) / len(rows), 1),
    }


def packed(name: str, batches: list[list[int]], groups: int, row_tokens: int) -> dict[str, Any]:
    """Our packing and TRL's into rows of at most so many tokens.

    TRL packs the data set, not the batch: one pass takes `groups` whole rows, so that its smallest step may hold more
    examples than the batch that was asked for, and never the same ones. It cuts what is longer than a row.
    """
    plans = [pack.pack(batch, groups, row_tokens, cost()) for batch in batches]
    theirs = trl_rows(sample(name), row_tokens)
    lost = 1 - sum(map(sum, theirs)) / sum(sample(name))
    return {
        "row_tokens": row_tokens,
        "ours": _round(mean_balance(batches, plans)),
        "ours_passes": round(sum(map(len, plans)) / len(plans), 2),
        "trl_bfd": _round(dealt(theirs, groups)),
        "trl_least_batch_examples": round(groups * sum(map(len, theirs)) / len(theirs), 1),
        "trl_cut_share_of_tokens": _round(lost),
    }


def target(name: str, batch: int, ranks: int, sharing: int, least: float) -> dict[str, Any]:
    """A promise, and the limits of rows at which it is kept."""
    found = {
        limit: mean_balance(batches, [pack.pack(b, ranks // sharing, limit, cost()) for b in batches])
        for limit in ROWS
        for batches in [cut(sample(name), batch)]
    }
    return {
        "data": name,
        "batch": batch,
        "ranks": ranks,
        "sequence_parallel": sharing,
        "least": least,
        "kept_at_row_tokens": [limit for limit, value in found.items() if value >= least],
        "missed_at_row_tokens": [limit for limit, value in found.items() if value < least],
    }


def seconds(name: str) -> dict[str, Any]:
    """Time to plan one epoch for 8 ranks and rows of USUAL_ROW, of this process: (wall, CPU)."""
    tokens, batch = all_lengths(name), PAPER_BATCH[name]
    began, spent = time.perf_counter(), time.process_time()
    for members in cut(tokens, batch, rest=True):
        pack.pack(members, 8, USUAL_ROW, cost())
    ours = _round(time.perf_counter() - began), _round(time.process_time() - spent)
    _, theirs = _packed_by_trl(tuple(tokens), USUAL_ROW)
    return {
        "examples": len(tokens),
        "batch": batch,
        "ours_s": ours[0],
        "ours_cpu_s": ours[1],
        "trl_bfd_s": _round(theirs[0]),  # with a byte for each token id: the data set would not fit here otherwise
        "trl_bfd_cpu_s": _round(theirs[1]),
    }


def about(name: str) -> dict[str, Any]:
    """What the lengths are."""
    known, tokens = lengths.drawn(DATA[name]), all_lengths(name)
    return {"examples": len(tokens), "mean_tokens": round(sum(tokens) / len(tokens)), "source": known.how}


@cache
def cost() -> Cost:
    """The cost of a document for Qwen2.5-32B."""
    shape = shapes.shape("qwen2.5-32b")
    return pack.cost_of(shape.matmul_params, shape.layers, shape.queries)


@cache
def all_lengths(name: str) -> list[int]:
    """As many lengths as the data set has examples, shuffled: those at hand, or drawn anew from the distribution."""
    known, draw = lengths.drawn(DATA[name]), random.Random(0)
    assert known.rows is not None, name
    tokens = list(known.tokens) if len(known.tokens) == known.rows else draw.choices(known.tokens, k=known.rows)
    draw.shuffle(tokens)
    return tokens


def sample(name: str) -> tuple[int, ...]:
    """The first SAMPLE of them."""
    return tuple(all_lengths(name)[:SAMPLE])


def cut(tokens: Sequence[int], batch: int, *, rest: bool = False) -> list[list[int]]:
    """Global batches in the order of the data; the last one only if it is whole, or if there is no other."""
    batches = [list(tokens[first : first + batch]) for first in range(0, len(tokens), batch)]
    return batches if rest or len(batches) == 1 else [one for one in batches if len(one) == batch]


def one_by_one(batch: Sequence[int], groups: int) -> list[Pass]:
    """One document a row, as they come."""
    return [
        [[n] if n < len(batch) else [] for n in range(first, first + groups)] for first in range(0, len(batch), groups)
    ]


def mean_balance(batches: Sequence[Sequence[int]], plans: Sequence[Sequence[Pass]]) -> float:
    """Work of all steps over the time of all steps."""
    work = [sum(map(cost(), batch)) for batch in batches]
    spent = [w / pack.balance(p, b, cost()) for w, p, b in zip(work, plans, batches, strict=True)]
    return sum(work) / sum(spent)


def possible(batches: Sequence[Sequence[int]], groups: int) -> float:
    """The bound on balance that the longest document of each batch sets."""
    work = [sum(map(cost(), batch)) for batch in batches]
    least = [groups * max(cost()(max(b)), w / groups) for w, b in zip(work, batches, strict=True)]
    return sum(work) / sum(least)


def dealt(rows: Sequence[Sequence[int]], groups: int) -> float:
    """Balance of TRL's rows in the sampler's random order, consecutive rows to groups; a last, partial pass counts."""
    order = [sum(map(cost(), one)) for one in rows]
    random.Random(0).shuffle(order)
    passes = [order[first : first + groups] for first in range(0, len(order), groups)]
    return sum(order) / sum(groups * max(one) for one in passes)


def rebalanced(batches: Sequence[Sequence[int]], ranks: int, most_tokens: int) -> float:
    """The Trainer's own balance (`train_sampling_strategy="batch_rebalance"`): each rank's part padded to its longest.

    With the number of passes that is best for it, of those that keep every padded part below `most_tokens`. Padding
    takes time and is no work.
    """
    some = batches[: max(1, SAMPLE // 4 // len(batches[0]))]
    work = spent = 0.0
    for batch in some:
        least = max(1, math.ceil(sum(batch) / ranks / most_tokens))
        most = len(batch) // ranks
        work += sum(map(cost(), batch))
        spent += min(_padded(batch, ranks, n, most_tokens) for n in {least, 2 * least, 4 * least, most} if n <= most)
    return work / spent


def _padded(batch: Sequence[int], ranks: int, passes: int, most_tokens: int) -> float:
    parts = _parts(batch, ranks, passes)
    if max(len(part) * max(part) for one in parts for part in one) > most_tokens:
        return math.inf
    return ranks * sum(max(len(part) * cost()(max(part)) for part in one) for one in parts)


def _parts(batch: Sequence[int], ranks: int, passes: int) -> list[list[list[int]]]:
    """Lengths by pass and rank, as the sampler of every rank yields them."""
    from transformers.trainer_pt_utils import BatchRebalanceSampler

    yielded = [
        [
            [batch[i] for i in part]
            for part in BatchRebalanceSampler(batch, len(batch), ranks, passes, shuffle=False, rank=rank)
        ]
        for rank in range(ranks)
    ]
    return [list(one) for one in zip(*yielded, strict=True)]


def trl_rows(tokens: tuple[int, ...], row_tokens: int) -> list[list[int]]:
    """TRL's rows of a data set: the lengths of their documents."""
    return _packed_by_trl(tokens, row_tokens)[0]


@cache
def _packed_by_trl(tokens: tuple[int, ...], row_tokens: int) -> tuple[list[list[int]], tuple[float, float]]:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset, disable_progress_bars
    from trl import pack_dataset

    disable_progress_bars()
    offsets = np.concatenate([[0], np.cumsum(tokens)]).astype(np.int32)
    ids = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.zeros(offsets[-1], dtype=np.uint8)))
    data = Dataset(pa.table({"input_ids": ids}))
    began, spent = time.perf_counter(), time.process_time()
    made = pack_dataset(data, row_tokens, "bfd", {"keep_in_memory": True})
    took = time.perf_counter() - began, time.process_time() - spent
    return made["seq_lengths"][:], took


def _round(value: float) -> float:
    return round(value, 4)
