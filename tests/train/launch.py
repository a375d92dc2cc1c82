"""Starts several ranks of a script as srun would: one process each, found by SLURM_PROCID; the first death ends all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

HOME = Path(__file__).parents[2]


def launch(
    script: Path,
    world_size: int,
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    expect: int = 0,
    timeout_s: float = 600.0,
) -> str:
    """Run `script` on `world_size` ranks; returns what they wrote to stderr, rank after rank.

    Args:
        expect: the exit status of the rank that ends first with another one than 0; the others are killed then.
    """
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"{rank}.log" for rank in range(world_size)]
        shared = {**_shared(world_size), **(environment or {})}
        command = [sys.executable, str(script), *map(str, arguments)]
        started = []
        for rank, log in enumerate(logs):
            own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
            with log.open("w") as file:
                started.append(subprocess.Popen(command, stderr=file, env={**shared, **own}))
        try:
            first = _wait(started, timeout_s)
        finally:
            for process in started:
                process.kill()
                process.wait()
        said = "\n".join(log.read_text(errors="replace") for log in logs)
    assert first == expect, f"exit status {first}, not {expect}\n{said[-6000:]}"
    return said


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _shared(world_size: int) -> dict[str, str]:
    """The variables that all ranks have."""
    kept = {k: v for k, v in os.environ.items() if k not in ("WANDB_MODE", "WANDB_API_KEY", "HPC_WANDB")}
    return {
        **kept,
        "PYTHONPATH": str(HOME),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "SLURM_NTASKS": str(world_size),
    }


def _wait(started: list[subprocess.Popen[bytes]], timeout_s: float) -> int:
    """The status of the first process that fails, or 0 when all have ended well."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        ended = [process.poll() for process in started]
        failed = [status for status in ended if status]
        if failed or None not in ended:
            return failed[0] if failed else 0
        time.sleep(0.2)
    raise TimeoutError(f"{len(started)} ranks have not ended within {timeout_s} s")
