"""Counts between two rows of the log: tokens and FLOPs a second, MFU, waiting, balance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="training extra not installed")

from hpc.plan.shapes import Shape
from hpc.train import measure
from hpc.train.batches import Batches, Layout
from hpc.train.pack import Cost
from hpc.train.ranks import Team
from hpc.train.text import Rendered

SHAPE = Shape("tiny", hidden=8, layers=2, heads=2, kv_heads=1, ffn=16, vocab=50)
LENGTHS = [10, 6, 4, 4]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that have passed; tests move them on."""
    now = [100.0]
    monkeypatch.setattr(measure.time, "monotonic", lambda: now[0])
    return now


def meter(**changes: Any) -> measure.Meter:
    """Of a step of four documents, in rows of ten tokens on two ranks: two passes."""
    import torch

    rows = [Rendered(f"e{n}", [1] * length, 1) for n, length in enumerate(LENGTHS)]
    layout = Layout(2, row_tokens=10, cost=Cost(0.5))
    batches = Batches(rows, batch_size=4, epochs=1, seed=0, loss_average="token", layout=layout)
    made = measure.Meter(batches, Team(0, 2, torch.device("cpu")), changes.pop("shape", SHAPE), **changes)
    made.begin()
    return made


def test_tokens_flops_and_mfu_are_per_second_and_gpu(clock: list[float]) -> None:
    made = meter(peak_tflops=1e-6)
    clock[0] += 2.0
    made.step(0)
    row = made.row()
    attention = 6 * 2 * 8 * sum(n * n for n in LENGTHS)
    flops = 6 * SHAPE.matmul_params * sum(LENGTHS) + attention
    assert SHAPE.matmul_params == 2 * (8 * (2 * 8 + 2 * 4) + 3 * 8 * 16) + 50 * 8
    assert row["tokens_per_s"] == sum(LENGTHS) / 2
    assert made.flops == flops
    assert row["mfu"] == pytest.approx(flops / 2.0 / 2 / 1e6, abs=1e-4)  # two seconds, two GPUs of a million FLOPs/s


def test_without_a_gpu_or_a_known_shape_there_is_no_mfu(clock: list[float]) -> None:
    for made in (meter(), meter(shape=None, peak_tflops=1.0)):
        clock[0] += 1.0
        made.step(0)
        assert made.row()["mfu"] is None and made.row()["gpu_gib"] is None
    assert made.row()["tflops_per_s"] is None


def test_waiting_for_data_is_counted_and_work_is_not(clock: list[float]) -> None:
    made = meter()

    def rows() -> Iterator[int]:
        for number in range(3):
            clock[0] += 0.25
            yield number

    for _ in made.waiting(rows()):
        clock[0] += 5.0
    made.step(0)
    assert made.row()["data_wait_s"] == 0.75


def test_balance_is_the_share_of_time_in_which_ranks_work(clock: list[float]) -> None:
    made = meter()
    clock[0] += 1.0
    made.step(0)
    cost = Cost(0.5)
    first, second = (sorted(sum(cost(LENGTHS[i]) for i in row) for row in one) for one in made.batches.passes(0))
    work = sum(map(cost, LENGTHS))
    assert made.row()["passes"] == 2
    assert made.row()["balance"] == pytest.approx(work / (2 * (first[-1] + second[-1])), abs=1e-4)
    assert made.row()["balance"] < 1


def test_a_new_row_starts_from_nothing(clock: list[float]) -> None:
    made = meter(peak_tflops=1.0)
    made.step(0)
    made.begin()
    clock[0] += 1.0
    row = made.row()
    assert (row["tokens_per_s"], row["passes"], row["data_wait_s"], row["balance"]) == (0, 0, 0, 1.0)


def test_host_memory_is_the_most_that_the_process_has_had() -> None:
    before = measure.host_peak_gib()
    held = bytearray(300 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    after = measure.host_peak_gib()
    del held
    assert after >= before and after > 0.3 and measure.host_peak_gib() == after
