"""Memory and time of the loss, forward and backward: ours beside Hugging Face's and TRL's, with Qwen2.5's vocabulary.

    python -m bench.run lossmem

Hidden states and the head's weights go in, the loss and the gradients of both come out, in fp32 on one core; each
measurement is a process of its own. The hidden width is small, so that the matrix products do not take hours here:
memory beside the weights depends on vocabulary and positions alone, time does not carry over to GPUs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

VOCABULARY = 152_064
HIDDEN = 64
POSITIONS = (1024, 2048, 4096)
CHUNK = 256
"""Positions of one chunk in ours beside the default of 1,024."""
ROUNDS = 3
WAYS = ("ours_chunk_1024", "ours_chunk_256", "ours_whole", "hf", "trl")
MIB = 2**20


def measure() -> dict[str, Any]:
    """Peak memory beside weights and inputs, and CPU seconds, by way and number of positions."""
    found = {str(n): {way: summary([once(way, n) for _ in range(ROUNDS)]) for way in WAYS} for n in POSITIONS}
    return {
        "vocabulary": VOCABULARY,
        "hidden": HIDDEN,
        "logits_mib": {str(n): n * VOCABULARY * 4 // MIB for n in POSITIONS},
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "positions": found,
    }


def once(way: str, positions: int, vocabulary: int = VOCABULARY) -> dict[str, float]:
    """One loss in a fresh process: {loss, gradient (its norms), peak_mib, cpu_s}."""
    command = [sys.executable, "-m", "bench.lossmem", way, str(positions), str(vocabulary)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Peaks hardly differ between rounds; times do."""
    seconds = [one["cpu_s"] for one in rounds]
    return {
        "peak_mib": round(statistics.median(one["peak_mib"] for one in rounds)),
        "cpu_s": {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)},
        **{name: rounds[0][name] for name in ("loss", "hidden_gradient", "weight_gradient")},
    }


def main(way: str, positions: int, vocabulary: int) -> None:
    """Measure in this process."""
    import torch

    torch.manual_seed(0)
    hidden_ND = torch.randn(positions, HIDDEN, requires_grad=True)
    weight_VD = (torch.randn(vocabulary, HIDDEN) / HIDDEN**0.5).requires_grad_()
    targets_N = torch.randint(vocabulary, (positions,))
    mean_loss = loss_of(way)
    warm = torch.randn(2, HIDDEN, requires_grad=True), torch.randn(8, HIDDEN, requires_grad=True)
    mean_loss(*warm, targets_N[:2] % 8).backward()
    with peak() as found:
        began = time.process_time()
        loss = mean_loss(hidden_ND, weight_VD, targets_N)
        loss.backward()
        found["cpu_s"] = round(time.process_time() - began, 3)
    assert hidden_ND.grad is not None and weight_VD.grad is not None
    found |= {"loss": float(loss.detach()), "hidden_gradient": float(hidden_ND.grad.norm())}
    found["weight_gradient"] = float(weight_VD.grad.norm())
    print(json.dumps(found))


def loss_of(way: str) -> Callable[..., Any]:
    """What takes (hidden_ND, weight_VD, targets_N) and returns the mean loss."""
    return {"hf": hf, "trl": trl, "ours_whole": whole}.get(way) or chunked(int(way.removeprefix("ours_chunk_")))


def chunked(chunk: int) -> Callable[..., Any]:
    """Ours, so many positions at a time."""
    from hpc.train.loss import ChunkedLoss

    def mean(hidden_ND: Any, weight_VD: Any, targets_N: Any) -> Any:
        return ChunkedLoss.apply(hidden_ND, weight_VD, targets_N, _equal(targets_N), chunk)

    return mean


def whole(hidden_ND: Any, weight_VD: Any, targets_N: Any) -> Any:
    """Ours with train.loss_chunk=0."""
    from hpc.train.loss import loss_of_logits

    return loss_of_logits(hidden_ND @ weight_VD.T, targets_N, _equal(targets_N))


def hf(hidden_ND: Any, weight_VD: Any, targets_N: Any) -> Any:
    """The loss of transformers' causal language models."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits_BNV = (hidden_ND @ weight_VD.T)[None]
    return ForCausalLMLoss(logits_BNV, None, logits_BNV.shape[-1], shift_labels=targets_N[None])


def trl(hidden_ND: Any, weight_VD: Any, targets_N: Any) -> Any:
    """TRL's own, as SFTTrainer calls it for its default loss: in tiles, computed again in the backward pass."""
    from trl.kernels import ChunkedLogProbFunction

    outputs = ("log_probs", "entropy", "is_top1")
    found = ChunkedLogProbFunction.apply(hidden_ND, weight_VD, None, targets_N, 1.0, 32768, None, 1.0, outputs)
    return -found[0].sum() / len(targets_N)


def _equal(targets_N: Any) -> Any:
    import torch

    return torch.full(targets_N.shape, 1 / len(targets_N))


@contextmanager
def peak() -> Iterator[dict[str, float]]:
    """Most memory of this process within, beside what it has at the start; the gradients that come out are counted."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the high-water mark starts anew
    before = _resident("VmRSS")
    found: dict[str, float] = {}
    yield found
    found["peak_mib"] = round(_resident("VmHWM") - before, 1)


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
