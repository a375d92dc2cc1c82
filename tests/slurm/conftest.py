"""Private Slurm clusters of 4 nodes, two of them with 8 pretended H100; box.sh tells what they can do.

`slurm` is one for a module of tests; `fast`, `warned`, `small`, `cgroup` and `policed` are new for each test (a tenth
of a second); `accounted` has a data base and is one for the session.
"""

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpc import files
from hpc.cluster.profile import find_profile

SCRIPT = Path(__file__).parent / "box.sh"
SPEED = 20
"""How much faster the clock of a `fast` controller goes."""


class Box:
    """A running cluster; `call` is one command of box.sh on it."""

    def __init__(self, folder, speed=1):
        self.folder, self.speed = folder, speed

    def call(self, command, *arguments, **env):
        subprocess.run([SCRIPT, command, self.folder, *arguments], check=True, timeout=90, env={**os.environ, **env})

    def out(self, *command):
        env = {**os.environ, "SLURM_CONF": f"{self.folder}/etc/slurm.conf"}
        return subprocess.run(command, check=True, timeout=30, capture_output=True, text=True, env=env).stdout

    def workers(self, job="", rank=None):
        """Process ids of the workers of a job (its raw id; empty: of all), of one rank or of all."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                env = dict(v.partition(b"=")[::2] for v in (folder / "environ").read_bytes().split(b"\0"))
            except OSError:  # it ended meanwhile
                continue
            ours = env.get(b"SLURM_CONF", b"").decode() == f"{self.folder}/etc/slurm.conf"
            if ours and b"hpc.cluster.worker" in words and b"srun" not in words[0]:
                same = job in ("", env.get(b"SLURM_JOB_ID", b"").decode())
                if same and (rank is None or env.get(b"SLURM_PROCID") == str(rank).encode()):
                    found.append(int(folder.name))
        return found


def free_ports():
    """The first of 100 ports; those that are surely used must be free now."""
    for first in range(20000 + os.getpid() % 50 * 200, 32000, 100):
        with socket.socket() as one, socket.socket() as two, socket.socket() as three, socket.socket() as four:
            try:
                one.bind(("127.0.0.1", first + 17))
                two.bind(("127.0.1.1", first + 51))
                three.bind(("127.0.0.1", first + 19))
                four.bind(("127.0.0.1", first + 6))
            except OSError:
                continue
            return first
    raise AssertionError("no free block of ports")


@contextmanager
def cluster(memory=True, **knobs):
    """A cluster with BOX_... knobs, while the block lasts; in a folder of /dev/shm, where it may be."""
    shared = Path("/dev/shm") if memory and os.access("/dev/shm", os.W_OK) else Path("/tmp")
    box = Box(str(shared / f"box-{uuid.uuid4().hex[:8]}"), int(knobs.get("BOX_SPEED", 1)))
    try:
        box.call("up", **{"BOX_PORT": str(free_ports()), **knobs})
        yield box
    finally:
        if Path(box.folder, "etc").exists():
            box.call("down")


def lacking(*names):
    """Which of these programs are not installed."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [n for n in names if not shutil.which(n, path=path)]


def no_fast_clock():
    """Why a controller's clock cannot be made faster here; empty if it can."""
    library = Path(f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketimeMT.so.1")
    return "" if library.exists() else "not installed: libfaketime"


def no_accounts():
    """Why there can be no accounting here; empty if there can."""
    missing = lacking("slurmdbd", "mariadbd", "mariadb-install-db", "sacctmgr")
    return f"not installed: {', '.join(missing)}" if missing else ""


def no_cgroup():
    """Why the kernel cannot hold a job to its memory here; empty if it can."""
    writable = os.access("/sys/fs/cgroup/memory/memory.limit_in_bytes", os.W_OK)
    return "" if writable else "cgroup v1 with the memory controller is not mounted"


@pytest.fixture(scope="module")
def slurm():
    before = os.environ.get("SLURM_CONF")
    with cluster() as box:
        os.environ["SLURM_CONF"] = f"{box.folder}/etc/slurm.conf"
        try:
            yield box
        finally:
            os.environ.pop("SLURM_CONF")
            if before is not None:
                os.environ["SLURM_CONF"] = before


@contextmanager
def used(box, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", f"{box.folder}/etc/slurm.conf")
    yield box


@pytest.fixture
def fast(monkeypatch):
    """Time limits and requeues 20 times faster; jobs' own clocks are real."""
    if why := no_fast_clock():
        pytest.skip(why)
    with cluster(BOX_SPEED=str(SPEED)) as box, used(box, monkeypatch):
        yield box


@pytest.fixture
def warned(monkeypatch):
    """As fast; a preempted job gets its own signal instead of TERM."""
    if why := no_fast_clock():
        pytest.skip(why)
    with cluster(BOX_SPEED=str(SPEED), BOX_WARN="1") as box, used(box, monkeypatch):
        yield box


@pytest.fixture
def small(monkeypatch):
    """As fast, with a file system of 24 MB and 3,000 files in `box.folder`/disk."""
    if why := no_fast_clock():
        pytest.skip(why)
    with cluster(memory=False, BOX_SPEED=str(SPEED), BOX_DISK="size=24m,nr_inodes=3000") as box, used(box, monkeypatch):
        yield box


@pytest.fixture
def cgroup(monkeypatch):
    """As fast; the kernel kills what goes above its job's memory."""
    if why := no_fast_clock() or no_cgroup():
        pytest.skip(why)
    with cluster(BOX_SPEED=str(SPEED), BOX_MEMORY="cgroup") as box, used(box, monkeypatch):
        yield box


@pytest.fixture
def policed(monkeypatch):
    """As fast; Slurm looks at the memory of its jobs each second and kills those above theirs."""
    if why := no_fast_clock():
        pytest.skip(why)
    with cluster(BOX_SPEED=str(SPEED), BOX_MEMORY="kill") as box, used(box, monkeypatch):
        yield box


@pytest.fixture(scope="session")
def books():
    """The cluster behind `accounted`."""
    if why := no_accounts():
        pytest.skip(why)
    with cluster(BOX_ACCT="dbd") as box:
        yield box


@pytest.fixture
def accounted(books, monkeypatch):
    """A cluster with accounting: mariadb and slurmdbd. What a test stops is started again after it."""
    with used(books, monkeypatch):
        yield books
        for daemon in ("munged", "mariadbd", "slurmdbd"):
            books.call("start", daemon)


@pytest.fixture(scope="session")
def table(request):
    """Rows of what each fault did; written to --faults-table, where tests/summary.py gives that option."""
    rows = []
    yield rows
    if rows and (target := request.config.getoption("--faults-table", None)):
        machine = {
            "cores": os.cpu_count(),
            "slurm": subprocess.getoutput("slurmd -V || /usr/sbin/slurmd -V").split()[-1],
        }
        record = {"date": time.strftime("%Y-%m-%d"), "machine": machine, "faults": rows}
        text = re.sub(r"'/[^']*/([^'/]+)'", r"'\1'", json.dumps(record, indent=1))
        files.write_text(Path(target), text + "\n")


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


def until(true, timeout_s=30, pause_s=0.1):
    """Wait until `true()` is true; returns its value."""
    end = time.monotonic() + timeout_s
    while not (value := true()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(pause_s)
    return value
