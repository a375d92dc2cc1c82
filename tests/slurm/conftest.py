"""A private Slurm for each module of tests: 4 nodes, two of them with 8 pretended H100. No accounting."""

import os
import shutil
import socket
import subprocess
import uuid
from pathlib import Path

import pytest

from hpc.cluster.profile import find_profile

SCRIPT = Path(__file__).parent / "box.sh"


class Box:
    """A running cluster; `call` is one command of box.sh on it."""

    def __init__(self, folder):
        self.folder = folder

    def call(self, command, *arguments, **env):
        subprocess.run([SCRIPT, command, self.folder, *arguments], check=True, timeout=90, env={**os.environ, **env})

    def out(self, *command):
        return subprocess.run(command, check=True, timeout=30, capture_output=True, text=True).stdout


def free_ports():
    """The first of 100 ports; the two that are surely used must be free now."""
    for first in range(20000 + os.getpid() % 50 * 200, 32000, 200):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", first + 17))
                two.bind(("127.0.1.1", first + 51))
            except OSError:
                continue
            return first
    raise AssertionError("no free block of ports")


@pytest.fixture(scope="module")
def slurm():
    shared = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path("/tmp")
    box = Box(str(shared / f"box-{uuid.uuid4().hex[:8]}"))
    before = os.environ.get("SLURM_CONF")
    box.call("up", BOX_PORT=str(free_ports()))
    os.environ["SLURM_CONF"] = f"{box.folder}/etc/slurm.conf"
    try:
        yield box
    finally:
        box.call("down")
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


@pytest.fixture
def there(slurm, tmp_path):
    """A profile for the private cluster, with an empty root."""
    return find_profile("slurm", roots=[str(tmp_path / "root")], memory_gib=0.5, signal_lead_s=10)


@pytest.fixture
def shim(tmp_path, monkeypatch):
    """shim("sbatch", "sleep 2"): lines that run before the real command, found first in PATH."""

    def make(command, lines):
        folder = tmp_path / "shims"
        folder.mkdir(exist_ok=True)
        path = folder / command
        path.write_text(f'#!/bin/bash\n{lines}\nexec {shutil.which(command)} "$@"\n')
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return make
