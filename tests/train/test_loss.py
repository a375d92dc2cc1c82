"""The loss is a weighted sum, and weights alone say what it averages."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training extra not installed")

from hpc.train.batches import FILLER, collate  # noqa: E402
from hpc.train.loss import token_weights, weighted_cross_entropy  # noqa: E402
from hpc.train.text import Rendered  # noqa: E402

ROWS = [Rendered("long", [1, 2, 3, 4, 5, 6], 1), Rendered("short", [1, 2, 3], 2)]


def loss_of(pairs: list[tuple[Rendered, float]], logits_LV: torch.Tensor) -> torch.Tensor:
    micro = collate(pairs)
    logits_BLV = logits_LV[: micro.ids_BL.shape[1]].expand(len(pairs), -1, -1)
    return weighted_cross_entropy(logits_BLV, micro.ids_BL, micro.weights_BL)


def by_hand(row: Rendered, logits_LV: torch.Tensor) -> list[float]:
    log_p = logits_LV.log_softmax(-1)
    return [-float(log_p[place - 1, row.ids[place]]) for place in range(row.prompt_tokens, len(row.ids))]


@pytest.fixture
def logits_LV() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(6, 8)


def test_sample_average_is_the_mean_of_each_samples_mean(logits_LV: torch.Tensor) -> None:
    long, short = (by_hand(row, logits_LV) for row in ROWS)
    weights = token_weights([5, 1], "sample", 1)
    loss = loss_of(list(zip(ROWS, weights, strict=True)), logits_LV)
    assert float(loss) == pytest.approx((sum(long) / 5 + short[0]) / 2, rel=1e-6)


def test_token_average_is_the_mean_over_all_trained_tokens(logits_LV: torch.Tensor) -> None:
    long, short = (by_hand(row, logits_LV) for row in ROWS)
    weights = token_weights([5, 1], "token", 1)
    loss = loss_of(list(zip(ROWS, weights, strict=True)), logits_LV)
    assert float(loss) == pytest.approx(sum(long + short) / 6, rel=1e-6)


def test_filler_rows_change_neither_loss_nor_gradient(logits_LV: torch.Tensor) -> None:
    pairs = [(row, 0.3) for row in ROWS]
    results = []
    for extra in ([], [(FILLER, 0.0)] * 3):
        leaf = logits_LV.clone().requires_grad_()
        loss = loss_of(pairs + extra, leaf)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_a_pass_of_fillers_alone_has_zero_loss_and_gradient(logits_LV: torch.Tensor) -> None:
    leaf = logits_LV.clone().requires_grad_()
    loss = loss_of([(FILLER, 0.0)] * 2, leaf)
    loss.backward()
    assert loss.item() == 0.0
    assert leaf.grad is not None and not leaf.grad.any()
