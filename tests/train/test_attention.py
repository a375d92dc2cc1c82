"""Packed rows: documents do not see each other, whoever shares the row; every kernel choice has its reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training extra not installed")

from hpc.train import attention, ulysses  # noqa: E402
from hpc.train.attention import Bounds  # noqa: E402

HOME = Path(__file__).parents[2]


def row(lengths: list[int]) -> Bounds:
    return Bounds(attention.edges(lengths), "sdpa", torch.device("cpu"))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_shared_packed_row_has_the_losses_and_gradients_of_its_documents_alone(ranks: int, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("sharers.py")), str(out)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert len(found) == 14
    assert [case for case in found if case["loss"] > 1e-5 or case["gradient"] > 1e-5] == []


def test_a_document_does_not_see_the_one_before_it() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 30, 8), torch.randn(1, 2, 30, 8), torch.randn(1, 2, 30, 8)
    bounds = row([10, 20])
    first, _ = attention.attend(torch.nn.Module(), query, key, value, bounds=bounds)
    for states in (key, value):
        states[:, :, :10] += 1.0
    second, _ = attention.attend(torch.nn.Module(), query, key, value, bounds=bounds)
    assert torch.equal(first[:, 10:], second[:, 10:])
    assert not torch.equal(first[:, :10], second[:, :10])


@pytest.mark.parametrize("lengths", [[1], [3, 1, 2], [100, 90, 80, 10, 5], [64] * 9 + [65], [200, 1, 199]])
def test_bunches_of_like_length_compute_what_each_document_would(lengths: list[int]) -> None:
    torch.manual_seed(1)
    total = sum(lengths)
    query, key, value = (torch.randn(4, total, 8, dtype=torch.float64) for _ in range(3))
    bounds = row(lengths)
    together = attention._kernel(query, key, value, bounds, 0.3)
    for a, b in zip(bounds.edges, bounds.edges[1:], strict=False):
        alone = attention._kernel(query[:, a:b], key[:, a:b], value[:, a:b], row([b - a]), 0.3)
        assert torch.allclose(together[:, a:b], alone, atol=1e-12)


def test_without_bounds_there_is_no_attention() -> None:
    states = torch.randn(1, 2, 4, 8)
    with pytest.raises(AssertionError, match="bounds"):
        attention.attend(torch.nn.Module(), states, states, states)


def test_heads_are_shared_evenly_or_not_at_all() -> None:
    assert [size for size in range(1, 9) if ulysses.fits(28, 4, size)] == [1, 2, 4]  # Qwen2.5-7B
    assert [size for size in range(1, 9) if ulysses.fits(40, 8, size)] == [1, 2, 4, 8]  # 14B and 32B


def test_the_kernel_is_as_asked_or_the_best_that_computes_these_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert attention.choose("auto", cpu, 128, "bf16")[0] == "sdpa"
    assert attention.choose("auto", gpu, 128, "bf16")[0] == "varlen"
    assert attention.choose("auto", gpu, 128, "fp32")[0] == "sdpa"
    assert attention.choose("auto", gpu, 512, "bf16")[0] == "sdpa"
    assert attention.choose("flash", gpu, 128, "bf16") == ("flash", "as asked")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert attention.choose("auto", gpu, 128, "bf16")[0] == "sdpa"
