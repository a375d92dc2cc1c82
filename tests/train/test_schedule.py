"""The learning rate of every step, as the Hugging Face Trainer would set it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from hpc.errors import StageError
from hpc.recipe.schema import Train
from hpc.train import loop
from hpc.train.loop import learning_rate


def test_s1_schedule_warms_up_16_of_315_steps() -> None:
    s1 = Train(lr=1e-5, warmup_ratio=0.05, schedule="cosine")
    assert learning_rate(s1, 0, 315) == 0.0
    assert learning_rate(s1, 8, 315) == pytest.approx(0.5e-5)
    assert learning_rate(s1, 16, 315) == pytest.approx(1e-5)
    assert learning_rate(s1, 315, 315) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("loss", "norm", "applied"),
    [(math.nan, 1.0, True), (math.inf, None, True), (2.0, math.inf, True), (2.0, math.nan, True), (2.0, 1.0, False)],
)
def test_a_step_that_left_the_numbers_ends_the_training_before_anything_is_saved(
    loss: float, norm: float | None, applied: bool
) -> None:
    trainer: Any = SimpleNamespace(get_global_grad_norm=lambda: norm, was_step_applied=lambda: applied)
    with pytest.raises(StageError, match="came apart in step 8") as caught:
        loop._check_finite(trainer, SimpleNamespace(key="k"), 7, loss)  # type: ignore[arg-type]
    assert "last checkpoint" in caught.value.next
    whole: Any = SimpleNamespace(get_global_grad_norm=lambda: None, was_step_applied=lambda: True)
    loop._check_finite(whole, SimpleNamespace(key="k"), 7, 2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_are_those_of_transformers(schedule: str) -> None:
    torch = pytest.importorskip("torch", reason="training extra not installed")
    from transformers.optimization import get_scheduler

    settings = Train(lr=0.5, warmup_ratio=0.1, schedule=schedule)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimizer, num_warmup_steps=5, num_training_steps=50)
    for step in range(50):
        assert learning_rate(settings, step, 50) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_min_lr_is_where_the_schedule_ends() -> None:
    settings = Train(lr=1.0, min_lr=0.1, warmup_ratio=0.0, schedule="cosine")
    assert learning_rate(settings, 0, 10) == 1.0
    assert learning_rate(settings, 10, 10) == pytest.approx(0.1)
