"""Where the ranks of a job meet: the first host of Slurm's node list, and a port that follows from the job id."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping

PORTS = range(10000, 30000)
"""Below the range that kernels give to outgoing connections (32768 and up)."""


def this_node() -> str:
    """This machine as Slurm names it: its own name may have a domain, and Slurm would refuse to avoid that."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def rendezvous(env: Mapping[str, str]) -> dict[str, str]:
    """MASTER_ADDR and MASTER_PORT of the job that `env` describes.

    The local runner sets both. Under Slurm the port is 10000 + (job id x 7 + try) mod 20000: two jobs on a node differ,
    and so do two starts in one allocation, the first of which may have left its port in TIME_WAIT.
    """
    if "SLURM_JOB_ID" not in env:
        return {"MASTER_ADDR": env.get("MASTER_ADDR", "127.0.0.1"), "MASTER_PORT": env.get("MASTER_PORT", "29500")}
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    port = PORTS.start + (int(env["SLURM_JOB_ID"]) * 7 + int(env.get("HPC_TRY", 0))) % len(PORTS)
    return {"MASTER_ADDR": first_host(nodes), "MASTER_PORT": str(port)}


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: h100-[03-04,09],cpu-1 -> h100-03."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    assert first is not None, f"not a node list: {nodes!r}"
    return re.sub(r"\[([^\]]*)\]", lambda m: re.split(r"[-,]", m.group(1))[0], first.group())
