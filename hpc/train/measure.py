"""What a step cost: tokens and FLOPs a second, memory, balance of the ranks, and time spent waiting for data."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from hpc.plan.shapes import Shape
from hpc.train import pack
from hpc.train.batches import Batches

if TYPE_CHECKING:
    from hpc.train.ranks import Team

T = TypeVar("T")
GIB = 2**30


@dataclass
class Meter:
    """Counts between two rows of the log.

    Attributes:
        shape: None where the model's shape is not known to the plan: then no FLOPs are counted.
        peak_tflops: dense bf16 peak of one GPU; None on CPUs: then there is no MFU.
    """

    batches: Batches
    team: Team
    shape: Shape | None
    peak_tflops: float | None = None
    tokens: int = 0
    flops: float = 0.0
    passes: int = 0
    wait_s: float = 0.0
    work: float = 0.0
    spent: float = 0.0
    since: float = 0.0

    def begin(self) -> None:
        """Start the clock of a new row."""
        self.tokens = self.passes = 0
        self.flops = self.wait_s = self.work = self.spent = 0.0
        self.since = time.monotonic()

    def waiting(self, rows: Iterator[T]) -> Iterator[T]:
        """The same rows; the time until each arrives counts as waiting for data."""
        while True:
            asked = time.monotonic()
            row = next(rows, None)
            self.wait_s += time.monotonic() - asked
            if row is None:
                return
            yield row

    def step(self, step: int) -> None:
        """Account for a finished step."""
        tokens = [len(member.ids) for member in self.batches.members(step)]
        passes, cost = self.batches.passes(step), self.batches.layout.cost
        work = sum(map(cost, tokens))
        self.tokens += sum(tokens)
        self.passes += len(passes)
        self.work += work
        self.spent += work / pack.balance(passes, tokens, cost)
        # the recomputation of activations does not count: MFU, not HFU (PaLM, arXiv 2204.02311, appendix B)
        self.flops += self.shape.flops(sum(tokens), sum(n * n for n in tokens)) if self.shape else 0.0

    def row(self) -> dict[str, float | int | None]:
        """tokens_per_s (prompts too), tflops_per_s and mfu (per GPU), balance (predicted share of the ranks' time that
        is work), passes, data_wait_s (of this rank), gpu_gib and host_gib (peaks of this rank since the start)."""
        seconds = time.monotonic() - self.since
        each = self.flops / seconds / self.team.world_size / 1e12
        on_gpu = self.team.device.type == "cuda"
        return {
            "tokens_per_s": round(self.tokens / seconds, 1),
            "tflops_per_s": round(each, 3) if self.shape else None,
            "mfu": round(each / self.peak_tflops, 4) if self.peak_tflops and self.shape else None,
            "balance": round(self.work / self.spent, 4) if self.spent else 1.0,
            "passes": self.passes,
            "data_wait_s": round(self.wait_s, 3),
            "gpu_gib": round(torch.cuda.max_memory_allocated(self.team.device) / GIB, 2) if on_gpu else None,
            "host_gib": round(host_peak_gib(), 2),
        }


def host_peak_gib() -> float:
    """Most memory that this process has had so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
