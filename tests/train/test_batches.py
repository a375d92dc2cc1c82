"""Which example is in which batch, and what it weighs."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest

from hpc.train.batches import FILLER, Batches, collate
from hpc.train.loss import token_weights
from hpc.train.text import Rendered

ROWS = [Rendered(f"e{n}", list(range(1, 5 + n % 7)), 2) for n in range(21)]


def batches(rows: list[Rendered] = ROWS, **changes: Any) -> Batches:
    settings: dict[str, Any] = {
        "batch_size": 4,
        "epochs": 2,
        "seed": 0,
        "loss_average": "token",
        "world_size": 1,
        "micro_batch": 2,
        **changes,
    }
    return Batches(rows, **settings)


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
    other = batches(ROWS[::-1], world_size=4, micro_batch=1)
    assert [names(plain, step) for step in range(12)] == [names(other, step) for step in range(12)]


def test_seed_and_epoch_change_the_order() -> None:
    made = batches()
    assert names(made, 0) != names(batches(seed=1), 0)
    assert names(made, 0) != names(made, made.steps_per_epoch)


def test_rows_with_the_same_id_are_both_kept() -> None:
    made = batches([Rendered("same", [1, 2, 3], 1), Rendered("same", [1, 2, 3, 4], 1)], batch_size=2, epochs=1)
    assert [len(row.ids) for row in made.members(0)] in ([3, 4], [4, 3])


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [1, 2, 8])
def test_ranks_share_a_batch_without_loss_or_repetition_and_stay_in_step(world_size: int, micro_batch: int) -> None:
    made = batches(world_size=world_size, micro_batch=micro_batch)
    for step in range(made.num_steps):
        shares = [made.share(step, rank) for rank in range(world_size)]
        assert {len(share) for share in shares} == {made.micro_steps}
        assert {len(micro) for share in shares for micro in share} == {made.micro_batch}
        dealt = [row.id for share in shares for micro in share for row, _ in micro if row is not FILLER]
        assert sorted(dealt) == sorted(row.id for row in made.members(step))


@pytest.mark.parametrize("loss_average", ["sample", "token"])
def test_weights_of_a_global_batch_sum_to_the_number_of_ranks(loss_average: Any) -> None:
    made = batches(world_size=3, loss_average=loss_average)
    for step in range(made.num_steps):
        total = sum(float(m.weights_BL.sum()) for rank in range(3) for m in made.micros(step, rank))
        assert total == pytest.approx(3, rel=1e-5)


def test_sample_average_weighs_samples_alike_and_token_average_tokens() -> None:
    assert token_weights([1, 4], "sample", 2) == [1.0, 0.25]
    assert token_weights([1, 4], "token", 2) == [0.4, 0.4]


def test_prompts_padding_and_fillers_have_no_weight() -> None:
    micro = collate([(Rendered("a", [5, 6, 7, 8], 2), 0.5), (Rendered("b", [5, 6, 7], 1), 0.25), (FILLER, 0.0)])
    assert micro.weights_BL.tolist() == [[0, 0, 0.5, 0.5], [0, 0.25, 0.25, 0], [0, 0, 0, 0]]
    assert micro.ids_BL.tolist() == [[5, 6, 7, 8], [5, 6, 7, 0], [0, 0, 0, 0]]
