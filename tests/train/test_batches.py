"""Which example is in which batch, and what it weighs."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest

from hpc.train.batches import FILLER_TOKENS, Batches, Layout, lay
from hpc.train.loss import token_weights
from hpc.train.text import Rendered

ROWS = [Rendered(f"e{n}", list(range(1, 5 + n % 7)), 2) for n in range(21)]


def batches(rows: list[Rendered] = ROWS, **changes: Any) -> Batches:
    settings: dict[str, Any] = {
        "batch_size": 4,
        "epochs": 2,
        "seed": 0,
        "loss_average": "token",
    }
    own = {name: changes.pop(name) for name in list(changes) if name in settings}
    return Batches(rows, **{**settings, **own}, layout=Layout(**{"row_tokens": 24, **changes}))


def names(made: Batches, step: int) -> set[str]:
    return {row.id for row in made.members(step)}


def test_every_example_is_seen_once_per_epoch() -> None:
    made = batches()
    for epoch in range(2):
        steps = range(epoch * made.steps_per_epoch, (epoch + 1) * made.steps_per_epoch)
        assert sorted(chain(*(names(made, step) for step in steps))) == sorted(row.id for row in ROWS)


def test_a_part_of_an_epoch_rounds_up_to_whole_steps() -> None:
    assert batches(epochs=0.5).num_steps == 3


def test_batches_do_not_depend_on_file_order_or_ranks() -> None:
    plain = batches()
    other = batches(ROWS[::-1], world_size=4, packed=False)
    assert [names(plain, step) for step in range(12)] == [names(other, step) for step in range(12)]


def test_seed_and_epoch_change_the_order() -> None:
    made = batches()
    assert names(made, 0) != names(batches(seed=1), 0)
    assert names(made, 0) != names(made, made.steps_per_epoch)


def test_rows_with_the_same_id_are_both_kept() -> None:
    made = batches([Rendered("same", [1, 2, 3], 1), Rendered("same", [1, 2, 3, 4], 1)], batch_size=2, epochs=1)
    assert [len(row.ids) for row in made.members(0)] in ([3, 4], [4, 3])


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("packed", [True, False])
def test_ranks_share_a_batch_without_loss_or_repetition_and_stay_in_step(world_size: int, packed: bool) -> None:
    made = batches(world_size=world_size, packed=packed)
    for step in range(made.num_steps):
        shares = [list(made.rows_of(step, rank)) for rank in range(world_size)]
        assert {len(share) for share in shares} == {len(made.passes(step))}
        tokens = sum(int((row.weights_N != 0).sum()) for share in shares for row in share)
        assert tokens == made.trained_tokens(step)
        dealt = [made.members(step)[i].id for one in made.passes(step) for row in one for i in row]
        assert sorted(dealt) == sorted(row.id for row in made.members(step))


@pytest.mark.parametrize("sharing", [2, 3])
def test_ranks_that_share_a_row_hold_equal_parts_of_it_in_order(sharing: int) -> None:
    whole = lay([(ROWS[0], 0.5), (ROWS[3], 0.25)], 1, 0)
    parts = [lay([(ROWS[0], 0.5), (ROWS[3], 0.25)], sharing, place) for place in range(sharing)]
    assert len({part.ids_BL.shape for part in parts}) == 1 and len({part.edges for part in parts}) == 1
    for name in ("ids_BL", "positions_BL", "targets_N", "weights_N"):
        joined = [number for part in parts for number in getattr(part, name).flatten().tolist()]
        assert joined[: whole.targets_N.numel()] == getattr(whole, name).flatten().tolist()
    assert parts[0].edges[: len(whole.edges)] == whole.edges


@pytest.mark.parametrize("loss_average", ["sample", "token"])
def test_weights_of_a_global_batch_sum_to_the_number_of_ranks(loss_average: Any) -> None:
    made = batches(world_size=3, loss_average=loss_average)
    for step in range(made.num_steps):
        total = sum(float(row.weights_N.sum()) for rank in range(3) for row in made.rows_of(step, rank))
        assert total == pytest.approx(3, rel=1e-5)


def test_sample_average_weighs_samples_alike_and_token_average_tokens() -> None:
    assert token_weights([1, 4], "sample", 2) == [1.0, 0.25]
    assert token_weights([1, 4], "token", 2) == [0.4, 0.4]


def test_prompts_ends_and_fillers_have_no_weight() -> None:
    row = lay([(Rendered("a", [5, 6, 7, 8], 2), 0.5), (Rendered("b", [9, 6, 7], 1), 0.25)], 1, 0)
    assert row.ids_BL.tolist() == [[5, 6, 7, 8, 9, 6, 7]]
    assert row.positions_BL.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert row.weights_N.tolist() == [0, 0.5, 0.5, 0, 0.25, 0.25, 0]  # at the position that predicts
    assert row.targets_N.tolist()[:3] == [6, 7, 8] and row.edges == (0, 4, 7)
    empty = lay([], 2, 1)
    assert empty.ids_BL.shape == (1, FILLER_TOKENS) and not empty.weights_N.any()


def test_the_share_of_busy_time_is_that_of_all_steps() -> None:
    assert batches(world_size=1).balance == pytest.approx(1.0)
    assert 0.2 < batches(world_size=3, packed=False).balance < 1.0
