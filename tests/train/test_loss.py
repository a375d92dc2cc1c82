"""The loss is a weighted sum, weights alone say what it averages, and chunks change neither it nor its gradients."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training extra not installed")

from torch.nn.functional import cross_entropy  # noqa: E402

from hpc.train import loss  # noqa: E402

POSITIONS, WIDTH, VOCABULARY = 50, 16, 97


@pytest.fixture
def case() -> dict[str, Any]:
    """Hidden states, head, targets and weights; a third of the positions has no loss."""
    torch.manual_seed(0)
    weights_N = torch.rand(POSITIONS) * (torch.arange(POSITIONS) % 3 > 0)
    return {
        "hidden_ND": torch.randn(POSITIONS, WIDTH),
        "weight_VD": torch.randn(VOCABULARY, WIDTH) / 4,
        "targets_N": torch.randint(0, VOCABULARY, (POSITIONS,)),
        "weights_N": weights_N,
    }


def by_torch(case: dict[str, Any], dtype: Any = torch.float64) -> tuple[Any, Any, Any]:
    """Loss and gradients (hidden, head) as torch makes them from whole logits."""
    hidden, weight = (case[n].to(dtype, copy=True).requires_grad_() for n in ("hidden_ND", "weight_VD"))
    each = cross_entropy(hidden @ weight.T, case["targets_N"], reduction="none")
    total = (each * case["weights_N"]).sum()
    total.backward()
    return total.detach(), hidden.grad, weight.grad


def by_chunks(case: dict[str, Any], chunk: int, dtype: Any = torch.float32) -> tuple[Any, Any, Any]:
    """The same, through a head that loss.attach has changed."""
    head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False, dtype=dtype)
    head.weight.data = case["weight_VD"].to(dtype)
    loss.attach(head, chunk)
    hidden = case["hidden_ND"].to(dtype, copy=True).requires_grad_()
    total = head(hidden, case["targets_N"], case["weights_N"])
    total.backward()
    return total.detach(), hidden.grad, head.weight.grad


@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
def test_chunks_change_neither_loss_nor_gradients(case: dict[str, Any], chunk: int) -> None:
    for ours, theirs in zip(by_chunks(case, chunk), by_torch(case), strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=1e-5, atol=1e-6)


def test_half_precision_stays_within_its_own_rounding(case: dict[str, Any]) -> None:
    case = {**case, **{n: case[n].bfloat16().float() for n in ("hidden_ND", "weight_VD")}}
    for ours, theirs in zip(by_chunks(case, 8, torch.bfloat16), by_torch(case), strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=2e-2, atol=2e-2)


def test_a_scaled_loss_scales_its_gradients(case: dict[str, Any]) -> None:
    hidden = case["hidden_ND"].clone().requires_grad_()
    weight = case["weight_VD"].clone().requires_grad_()
    (3 * loss.ChunkedLoss.apply(hidden, weight, case["targets_N"], case["weights_N"], 8)).backward()
    _, hidden_grad, weight_grad = by_torch(case)
    assert torch.allclose(hidden.grad.double(), 3 * hidden_grad, atol=1e-5)
    assert torch.allclose(weight.grad.double(), 3 * weight_grad, atol=1e-5)


def test_without_a_weighted_position_loss_and_gradients_are_zero_and_still_made(case: dict[str, Any]) -> None:
    total, hidden_grad, weight_grad = by_chunks({**case, "weights_N": torch.zeros(POSITIONS)}, 8)
    assert total == 0 and not hidden_grad.any() and not weight_grad.any()


def test_whole_logits_give_the_same_loss(case: dict[str, Any]) -> None:
    logits = case["hidden_ND"] @ case["weight_VD"].T
    found = loss.loss_of_logits(logits, case["targets_N"], case["weights_N"])
    assert float(found) == pytest.approx(float(by_torch(case)[0]), rel=1e-5)


def test_sample_average_is_the_mean_of_each_samples_mean_and_token_average_that_of_all_tokens() -> None:
    long, short = [1.0, 2.0, 3.0, 4.0, 5.0], [7.0]
    for average, wanted in (("sample", (3 + 7) / 2), ("token", 22 / 6)):
        mine, theirs = loss.token_weights([5, 1], average, 1)  # type: ignore[arg-type]
        assert mine * sum(long) + theirs * sum(short) == pytest.approx(wanted)


def test_a_head_with_a_bias_is_refused() -> None:
    with pytest.raises(AssertionError, match="loss_chunk=0"):
        loss.attach(torch.nn.Linear(2, 3), 8)
