"""What bench/submit.py measures with: counted stand-ins for Slurm's clients (or in front of them), time and files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

NAMES = ("sbatch", "squeue", "sacct", "scontrol", "sinfo", "scancel", "srun")
SHIM = Path(__file__).with_name("shim.py")
FRONT = """#!/bin/bash
began=$EPOCHREALTIME
{real} "$@"
code=$?
echo "{name} $began $EPOCHREALTIME 0" >> {folder}/calls
exit $code
"""
CLEAN = ("SLURM_", "HPC_", "SBATCH_", "SQUEUE_")
"""Variables of the caller that would change what is measured."""
LIMIT_S = 600


class Clients:
    """A folder of commands that stand first in PATH, and what they have noted.

    Without `slurm_conf` they are stand-ins; with it they note each call and pass it on to the real command.
    """

    def __init__(self, folder: Path, slurm_conf: str = "") -> None:
        self.folder, self.slurm_conf = folder, slurm_conf
        folder.mkdir(parents=True)
        head = f"#!{Path(sys.executable).resolve()} -IS\n"
        for name in NAMES:
            front = FRONT.format(name=name, real=shutil.which(name), folder=folder)
            self._command(name, front if slurm_conf else head + SHIM.read_text(encoding="utf-8"))

    def _command(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")
        (self.folder / name).chmod(0o755)

    def forget(self, *names: str) -> None:
        """Forget calls, jobs, phase or foreign jobs."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def say(self, name: str, text: str) -> None:
        """Set phase or foreign, see shim.py."""
        (self.folder / name).write_text(text + "\n", encoding="utf-8")

    def calls(self) -> list[tuple[str, float, float]]:
        """(command, end in seconds since the epoch, CPU seconds) of each call so far."""
        path = self.folder / "calls"
        rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(name, float(end), float(cpu)) for name, _, end, cpu in rows]

    def environment(self, **more: str) -> dict[str, str]:
        """The caller's environment with these commands first in PATH."""
        kept = {n: v for n, v in os.environ.items() if not n.startswith(CLEAN)}
        own = {"SLURM_CONF": self.slurm_conf} if self.slurm_conf else {}
        return {**kept, "PATH": f"{self.folder}:{os.environ['PATH']}", **own, **more}


@dataclass
class Spent:
    """One command: seconds until its last sbatch had answered and until it returned, CPU without Slurm's clients."""

    sbatch_s: float | None
    returned_s: float | None
    cpu_s: float
    calls: dict[str, int] = field(default_factory=dict)
    output: str = ""


def spend(command: list[str], clients: Clients, env: dict[str, str], folder: Path, *, returns: bool = True) -> Spent:
    """Run `command` in `folder`. One that does not return is ended once it has submitted and begins to poll.

    Raises:
        RuntimeError: it failed, or took more than LIMIT_S; with its output.
    """
    clients.forget("calls")
    with (folder / "output").open("w+") as output:
        began = time.time()
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        if not returns:
            cpu_s = _submitted(process, clients, began)
            os.killpg(process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
        ended = time.time()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode and returns:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{text[-2000:]}")
    calls = clients.calls()
    answered = max((end for name, end, _ in calls if name == "sbatch"), default=None)
    if returns:
        cpu_s = usage.ru_utime + usage.ru_stime - sum(cpu for _, _, cpu in calls)
    return Spent(
        sbatch_s=None if answered is None else round(answered - began, 3),
        returned_s=round(ended - began, 3) if returns else None,
        cpu_s=round(cpu_s, 3),
        calls=dict(Counter(name for name, _, _ in calls)),
        output=text,
    )


def _submitted(process: subprocess.Popen[bytes], clients: Clients, began: float) -> float:
    """Wait until a command that does not return has called sbatch and then polls; its CPU seconds at the sbatch."""
    cpu_s: float | None = None
    while not cpu_s or not any(name in ("squeue", "sacct") for name, _, _ in clients.calls()):
        if process.poll() is not None or time.time() - began > LIMIT_S:
            os.killpg(process.pid, signal.SIGKILL)
            raise RuntimeError(f"{process.args!r} ended, or did not submit in {LIMIT_S} s")
        if cpu_s is None and any(name == "sbatch" for name, _, _ in clients.calls()):
            cpu_s = _cpu_s(process.pid)
        time.sleep(0.02)
    return cpu_s


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process that runs, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def weigh(folder: Path) -> Counter[str]:
    """Files, folders and bytes (of the files) below a folder."""
    found: Counter[str] = Counter(files=0, folders=0, bytes=0)
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            found["folders"] += 1
        else:
            found["files"] += 1
            found["bytes"] += path.lstat().st_size
    return found
