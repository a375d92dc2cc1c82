"""Packing: nothing is lost, rows hold what they may, groups run as many passes, rows of a pass cost the same."""

from __future__ import annotations

import math
import random

import pytest

from hpc.train import pack

COST = pack.Cost(1e-5)


def lengths(number: int, median: int, sigma: float, most: int, seed: int) -> list[int]:
    """Log-normal document lengths, cut at `most`."""
    draw = random.Random(seed)
    return [min(most, max(50, round(median * math.exp(draw.gauss(0, sigma))))) for _ in range(number)]


@pytest.mark.parametrize("groups", [1, 2, 3, 8])
@pytest.mark.parametrize("row_tokens", [16384, 20000, 65536])
def test_every_document_is_in_one_row_and_no_row_is_overfull(groups: int, row_tokens: int) -> None:
    for seed in range(5):
        tokens = lengths(40, 3700, 0.62, 16384, seed)
        passes = pack.pack(tokens, groups, row_tokens, COST)
        assert sorted(i for one in passes for row in one for i in row) == list(range(40))
        assert {len(one) for one in passes} == {groups}
        assert max(sum(tokens[i] for i in row) for one in passes for row in one) <= row_tokens
        assert len(passes) <= math.ceil(sum(tokens) / (groups * row_tokens)) + 1


def test_a_document_longer_than_a_row_gets_a_row_of_its_own() -> None:
    passes = pack.pack([100, 30000, 200, 50], 2, 1000, COST)
    assert [row for one in passes for row in one if 1 in row] == [[1]]
    assert sorted(i for one in passes for row in one for i in row) == [0, 1, 2, 3]


def test_fewer_documents_than_rows_leave_rows_empty() -> None:
    assert sorted(map(len, pack.pack([5, 7], 4, 100, COST)[0])) == [0, 0, 1, 1]


def test_packing_depends_on_lengths_alone() -> None:
    tokens = lengths(96, 3700, 0.62, 16384, 1)
    assert pack.pack(tokens, 8, 20000, COST) == pack.pack(list(tokens), 8, 20000, COST)


def test_rows_of_a_pass_cost_the_same_where_documents_allow_it() -> None:
    """Sky-T1's batch of 96 on 8 ranks: one document a time keeps ranks busy half the time, packed rows nearly all."""
    tokens = lengths(96, 3700, 0.62, 16384, 0)
    assert pack.balance(pack.pack(tokens, 8, 24576, COST), tokens, COST) > 0.98
    alone = [[[i] for i in range(first, first + 8)] for first in range(0, 96, 8)]
    assert pack.balance(alone, tokens, COST) < 0.6


def test_balance_is_work_over_time_in_lock_step() -> None:
    flat = pack.Cost()
    assert pack.balance([[[0], [1]], [[2], [3]]], [4, 2, 3, 3], flat) == pytest.approx(12 / 14)


def test_one_by_one_deals_documents_by_length() -> None:
    passes = pack.singly([5, 9, 1, 7, 3], 2, 1)
    assert passes == [[[1], [3]], [[0], [4]], [[2], []]]
    assert pack.singly([5, 9, 1, 7, 3], 2, 2) == [[[1, 0], [3, 4]], [[2], []]]


def test_cost_of_attention_grows_with_the_square() -> None:
    cost = pack.cost_of(num_params=1000, num_layers=2, query_width=50)
    assert cost(10) == pytest.approx(10 * (1 + 0.1 * 10))
