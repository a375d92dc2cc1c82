"""What this process may use of the machine that it runs on."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def memory_bytes() -> int:
    """Bytes of memory: the machine's, or less where a control group or Slurm's --mem leaves less to the job."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    asked = os.environ.get("SLURM_MEM_PER_NODE", "")  # MiB; 0 is all of the node
    slurm = int(asked) << 20 if asked.isdigit() else 0
    return min(limit for limit in (machine, cgroup_limit(), slurm) if limit)


def cgroup_limit(proc: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the control group (v1 or v2) allows to this process and its parents; None without a limit."""
    found = []
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        v1 = "memory" in controllers.split(",")
        if not v1 and controllers:
            continue
        base = mount / "memory" if v1 else mount
        name = "memory.limit_in_bytes" if v1 else "memory.max"
        folder = base / path.lstrip("/")
        for each in (folder, *folder.parents):
            if each.is_relative_to(base) and (each / name).is_file():
                with suppress(OSError):  # a group may be gone, or not ours to read
                    value = (each / name).read_text().strip()
                    found += [int(value)] if value.isdigit() and int(value) < 2**60 else []
    return min(found, default=None)
