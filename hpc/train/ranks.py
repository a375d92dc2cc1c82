"""The processes of one training job: how they find each other, agree, speak with one voice, and are asked to stop."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from hpc.errors import StageError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class Interrupted(Exception):
    """Training was asked to stop, at a step boundary or before the first; what it says tells whether it has saved."""


class Stop:
    """While entered, USR2 (Slurm's warning before the time limit) and TERM (preemption) only set `asked`."""

    SIGNALS = (signal.SIGTERM, signal.SIGUSR2)

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


@dataclass(frozen=True)
class Team:
    """This process among the ranks of the job."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes files and speaks."""
        return self.rank == 0

    def agree(self, value: T) -> T:
        """Rank 0's `value`, on every rank."""
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """What every rank brings, in the order of ranks."""
        import torch.distributed as dist

        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found

    def sum(self, values: list[float]) -> list[float]:
        """Elementwise sum over ranks, in fp64."""
        import torch
        import torch.distributed as dist

        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(x) for x in total.tolist()]

    def wait(self) -> None:
        """Return when every rank has come here."""
        import torch.distributed as dist

        dist.barrier()

    def say(self, line: str) -> None:
        """One line on stderr, from rank 0 only."""
        if self.leads:
            print(line, file=sys.stderr, flush=True)


def join(rank: int, world_size: int) -> Team:
    """Meet the other ranks at MASTER_ADDR:MASTER_PORT: gloo on CPUs, NCCL on GPUs.

    A single rank needs no address. A process that has met its peers before keeps that group.

    Raises:
        StageError: several ranks and no address.
    """
    _export(rank, world_size)
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    if torch.cuda.is_available():
        # where Slurm shows every task its own GPU alone, all of them are number 0; DeepSpeed reads the variable, too
        number = int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()
        os.environ["LOCAL_RANK"] = str(number)
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        # DeepSpeed would compile a shared-memory all-reduce at the first start; gloo's own serves a CPU run as well.
        deepspeed.ops.__compatible_ops__ = {}
    deepspeed.utils.logger.setLevel("WARNING")
    # DeepSpeed calls two of them in every step
    warnings.filterwarnings("ignore", message=".*is deprecated", module=r"torch\.distributed.*")
    if not torch.distributed.is_initialized():
        deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False)
    return Team(rank, world_size, device)


@contextmanager
def bound(team: Team) -> Iterator[str]:
    """While entered, ranks of one node that may use the same cores share them out evenly; yields what was done.

    CPUAdam under offload is 1.16 times faster so (DeepSpeed's --bind_cores_to_rank). Ranks that Slurm has bound already
    differ in their cores and are left alone.
    """
    before = os.sched_getaffinity(0)
    told = team.gather((socket.gethostname(), tuple(sorted(before, key=_core))))
    mine = told[team.rank]
    alike = [rank for rank, other in enumerate(told) if other == mine]
    share = len(mine[1]) // len(alike)
    if len(alike) == 1 or not share:
        yield f"cores: {len(mine[1])} for rank 0, as given"
        return
    place = alike.index(team.rank)
    os.sched_setaffinity(0, mine[1][place * share : (place + 1) * share])
    try:
        yield f"cores: {share} of {len(mine[1])} for each of the {len(alike)} ranks of a node"
    finally:
        os.sched_setaffinity(0, before)


def _core(cpu: int) -> tuple[int, int]:
    """Sorts the two threads of a core beside each other: two ranks on one core would slow each other down."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
        return int(re.split(r"[,-]", text)[0]), cpu
    except (OSError, ValueError):
        return cpu, cpu


def _export(rank: int, world_size: int) -> None:
    """The variables that torch.distributed reads, from those that srun sets."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=os.environ.get("SLURM_LOCALID", "0"))
    if world_size == 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise StageError(
            f"{world_size} ranks cannot find each other",
            where="environment of the job",
            why=f"{' and '.join(missing)} not set",
            next="start the job through hpc submit, or export MASTER_ADDR (first node) and MASTER_PORT before srun",
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
