"""A minute on the nodes: what they have, and whether they reach each other, the root, Slurm and the hub.

    srun python -m hpc.cluster.site.probe FOLDER        one process on each node; `hpc doctor --job` submits it

Each process writes FOLDER/RANK.json; the first one also talks to the doctor that waits on the login node.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from io import BufferedRWPair
from pathlib import Path

from hpc import files
from hpc.cluster import queue
from hpc.cluster.site import here
from hpc.cluster.site.facts import Row
from hpc.errors import ClusterError

MEET_S = 40.0
"""How long one process waits for another, or for a file to be seen."""
ECHO_S = 20.0
POLL_S = 0.02
REDUCE_S = 150.0
"""Time for importing torch from a cold file system, and one all-reduce."""
CHUNK_BYTES = 2**26
REDUCE = r"""
import datetime, os, sys, time
import torch, torch.distributed as dist
cuda = torch.cuda.is_available()
if cuda:
    torch.cuda.set_device(0)
backend = "nccl" if cuda and dist.is_nccl_available() else "gloo"
dist.init_process_group(backend, timeout=datetime.timedelta(seconds=60))
n = 2 ** 26 if cuda else 2 ** 20
x = torch.ones(n, device="cuda" if cuda else "cpu")
dist.all_reduce(x)
assert int(x[0]) == dist.get_world_size() == int(x[-1]), x
begin = time.perf_counter()
for _ in range(5):
    dist.all_reduce(x)
if cuda:
    torch.cuda.synchronize()
each = (time.perf_counter() - begin) / 5
name = torch.cuda.get_device_name() if cuda else "no GPU"
print(f"REDUCED {backend} {dist.get_world_size()} ranks, {4 * n / 2**20:.0f} MiB in {each * 1000:.1f} ms ({name})")
dist.destroy_process_group()
"""


def main() -> None:
    """Look at this node and write FOLDER/RANK.json."""
    parser = argparse.ArgumentParser(prog="python -m hpc.cluster.site.probe")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--network", action="store_true", help="the profile says that nodes reach the hub")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that this node was given")
    chosen = parser.parse_args()
    rank, ranks = int(os.environ.get("SLURM_PROCID", "0")), int(os.environ.get("SLURM_NTASKS", "1"))
    rows = list(look(chosen.folder, rank, ranks, gpus=chosen.gpus, network=chosen.network))
    files.write_json(chosen.folder / f"{rank}.json", {"host": socket.gethostname(), "rows": [asdict(r) for r in rows]})


def look(folder: Path, rank: int, ranks: int, *, gpus: int, network: bool) -> Iterator[Row]:
    """All rows of one node. The meetings come first: the other nodes are waiting for them."""
    if ranks > 1:
        yield from meet(folder, rank)
    if rank == 0:
        yield echo(folder)
    yield Row(
        "node", "ok", f"{platform.node()}, {os.cpu_count()} CPUs ({len(os.sched_getaffinity(0))} for us), {kernel()}"
    )
    yield from here.root_rows(folder)
    yield from graphics(gpus)
    yield from here.memory()
    yield here.namespaces()
    yield from here.scratch()
    yield here.hub(needed=network)
    yield from clients()


def kernel() -> str:
    """Linux and Python, in short."""
    return f"Linux {platform.release()}, Python {platform.python_version()}"


def meet(folder: Path, rank: int) -> Iterator[Row]:
    """TCP between two nodes, their clocks, how long a new file takes to be seen; then an all-reduce."""
    try:
        if rank == 0:
            yield from _host(folder)
        else:
            yield from _guest(folder, rank)
        yield all_reduce(folder, rank)
    except (OSError, ValueError) as error:
        yield Row(
            "TCP between nodes",
            "fail",
            f"rank {rank}: {error}",
            "which interface do nodes share? NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME in env name it; ask the staff",
        )


def _host(folder: Path) -> Iterator[Row]:
    """The first node: listen, say where, and answer the second one."""
    with closing(socket.create_server(("", 0))) as server, closing(socket.create_server(("", 0))) as spare:
        server.settimeout(MEET_S)
        where = {"host": socket.gethostname(), "port": server.getsockname()[1], "master_port": spare.getsockname()[1]}
        files.write_json(folder / "listen.json", where)
        line, peer = server.accept()
    with closing(line), line.makefile("rwb") as talk:
        line.settimeout(MEET_S)
        for word in iter(talk.readline, b"bye\n"):
            if word == b"time\n":
                _say(talk, repr(time.time()))
            elif word == b"write\n":
                files.write_text(folder / "seen", "x")
                _say(talk, "written")
            elif word == b"send\n":
                talk.write(bytes(CHUNK_BYTES))
                talk.flush()
            elif not word:
                raise OSError("the other node hung up")
    yield Row("TCP between nodes", "ok", f"a connection from {peer[0]}")


def _guest(folder: Path, rank: int) -> Iterator[Row]:
    """The second node: connect, and measure."""
    where = json.loads(wait(folder / "listen.json").read_text())
    begin = time.monotonic()
    with closing(socket.create_connection((where["host"], where["port"]), timeout=MEET_S)) as line:
        opened_s = time.monotonic() - begin
        with line.makefile("rwb") as talk:
            skew_s = _skew(lambda: float(_ask(talk, "time")))
            _ask(talk, "write")
            begin = time.monotonic()
            wait(folder / "seen")
            seen_s = time.monotonic() - begin
            begin = time.monotonic()
            _say(talk, "send")
            if len(talk.read(CHUNK_BYTES)) < CHUNK_BYTES:
                raise OSError("the first node hung up")
            rate = CHUNK_BYTES / (time.monotonic() - begin) / 1e9
            _say(talk, "bye")
    text = f"{where['host']}:{where['port']} in {opened_s * 1000:.1f} ms, one stream {rate:.2f} GB/s"
    yield Row("TCP between nodes", "ok", text)
    yield clock("clock of the nodes", skew_s, f"{where['host']} against {platform.node()}")
    yield _visibility("new file seen by another node", seen_s)


def _say(talk: BufferedRWPair, word: str) -> None:
    talk.write(word.encode() + b"\n")
    talk.flush()


def _ask(talk: BufferedRWPair, word: str) -> str:
    _say(talk, word)
    answer = talk.readline()
    if not answer:
        raise OSError("the first node hung up")
    return answer.decode().strip()


def _skew(ask: Callable[[], float]) -> float:
    """Seconds that another clock is ahead: the answer with the shortest way there and back, of five."""
    tries = []
    for _ in range(5):
        before = time.time()
        there = ask()
        after = time.time()
        tries.append((after - before, there - (before + after) / 2))
    return min(tries)[1]


def clock(name: str, skew_s: float, what: str) -> Row:
    """A row about two clocks."""
    text = f"{what}: {skew_s:+.3f} s"
    return (
        Row(name, "ok", text)
        if abs(skew_s) < 5
        else Row(name, "warn", text, "tell the staff: ntp does not run somewhere")
    )


def _visibility(name: str, seconds: float) -> Row:
    text = f"after {seconds * 1000:.0f} ms"
    if seconds < 60:
        return Row(name, "ok", text)
    return Row(name, "fail", text, "readers wait 90 s for a new artifact: use a root with shorter attribute caching")


def wait(path: Path, limit_s: float = MEET_S) -> Path:
    """`path`, once it is listed in its folder (listing asks the server; a failed open may be cached).

    Raises:
        OSError: not within `limit_s`.
    """
    end = time.monotonic() + limit_s
    while path not in path.parent.iterdir():
        if time.monotonic() > end:
            raise OSError(f"{path} was not seen within {limit_s:.0f} s")
        time.sleep(POLL_S)
    return path


def echo(folder: Path) -> Row:
    """The login node answers a file by a file: the way there and back, and its clock."""
    before = time.time()
    files.write_json(folder / "hello.json", {"at": before})
    try:
        there = json.loads(wait(folder / "echo.json", ECHO_S).read_text())["at"]
    except OSError:
        return Row(
            "files to and from the login node",
            "warn",
            f"no answer within {ECHO_S:.0f} s",
            "is the root the same there?",
        )
    after = time.time()
    text = f"there and back in {(after - before) * 1000:.0f} ms; its clock {there - (before + after) / 2:+.1f} s"
    if abs(there - (before + after) / 2) > 5 + (after - before):
        return Row("files to and from the login node", "warn", text, "tell the staff: the clocks differ")
    return Row("files to and from the login node", "ok", text)


def all_reduce(folder: Path, rank: int) -> Row:
    """The collective that training needs, in a process of its own: NCCL with GPUs, gloo without."""
    name = "all-reduce between nodes"
    if "torch" not in _installed(("torch",)):
        return Row(name, "ok", "not tried: this Python has no torch")
    where = json.loads(wait(folder / "listen.json").read_text())
    extra = {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": where["host"],
        "MASTER_PORT": str(where["master_port"]),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", REDUCE],
            capture_output=True,
            text=True,
            timeout=REDUCE_S,
            env={**os.environ, **extra},
        )
    except subprocess.TimeoutExpired:
        return Row(
            name,
            "fail",
            f"hangs ({REDUCE_S:.0f} s)",
            "NCCL_SOCKET_IFNAME in env names the interface; NCCL_DEBUG=INFO tells more",
        )
    lines = [line.removeprefix("REDUCED ") for line in done.stdout.splitlines() if line.startswith("REDUCED ")]
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return Row(
            name, "fail", last[:300], "NCCL_SOCKET_IFNAME in env names the interface; NCCL_DEBUG=INFO tells more"
        )
    return Row(name, "ok", lines[-1])


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def graphics(asked: int) -> Iterator[Row]:
    """GPUs: how many were given, which type and driver, and whether the driver carries torch's CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    given = len([d for d in (visible or "").split(",") if d.strip()])
    if asked:
        right = given == asked
        text = f"CUDA_VISIBLE_DEVICES={visible if visible is not None else '(not set)'} for {asked} asked"
        hint = "" if right else "is gres.conf's File= set? ask the staff; jobs would see other jobs' GPUs"
        yield Row("GPUs given", "ok" if right else "warn", text, hint)
    if not shutil.which("nvidia-smi"):
        if asked:
            yield Row(
                "GPU driver",
                "warn",
                "no nvidia-smi on this node",
                "are these NVIDIA GPUs? load the driver's module in setup",
            )
        return
    cards = here.output(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    yield Row(
        "GPUs seen",
        "ok" if cards else "fail",
        cards_text(cards),
        "" if cards else "nvidia-smi fails: drain this node (sbatch: {exclude: NODE})",
    )
    driver = re.search(r"CUDA Version:\s*([\d.]+)", here.output(["nvidia-smi"]))
    yield fits(driver.group(1) if driver else "", wheel_cuda())


def cards_text(listing: str) -> str:
    """Lines of `nvidia-smi --query-gpu=name,driver_version,memory.total` -> "8 x H100 80 GiB, driver 550.54"."""
    cards = [[w.strip() for w in line.split(",")] for line in listing.splitlines() if line.count(",") >= 2]
    if not cards:
        return "nvidia-smi lists no GPU"
    name, driver, memory = cards[0][:3]
    mib = re.match(r"\d+", memory)
    return f"{len(cards)} x {name} {int(mib.group()) / 1024 if mib else 0:.0f} GiB, driver {driver}"


def wheel_cuda() -> str:
    """The CUDA that torch was built for, by metadata: 12.8; "cpu" for a build without; empty without torch."""
    version = _installed(("torch",)).get("torch", "")
    if match := re.search(r"\+cu(\d+)(\d)$", version):
        return f"{match.group(1)}.{match.group(2)}"
    if "+cpu" in version or not version:
        return "cpu" if version else ""
    runtime = _installed(("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12"))
    return ".".join(next(iter(runtime.values()), "").split(".")[:2])


def fits(driver: str, wheel: str) -> Row:
    """Whether a driver (its highest CUDA) carries a wheel's CUDA: the major version must; a lower minor mostly does."""
    name, text = "driver against torch", f"driver carries CUDA {driver or '?'}, torch is built for {wheel or '?'}"
    if wheel == "cpu":
        return Row(name, "fail", f"{text}: this torch uses no GPU", "install the CUDA build (constraints/cuda.txt)")
    if not driver or not wheel:
        return Row(
            name, "warn", text, "not told: `nvidia-smi` and `python -c 'import torch; print(torch.version.cuda)'`"
        )
    have, want = ([int(n) for n in v.split(".")[:2]] for v in (driver, wheel))
    if have >= want:
        return Row(name, "ok", text)
    if have[0] == want[0]:
        return Row(
            name,
            "warn",
            text,
            "works as a rule (minor version compatibility), but not for kernels compiled at run time",
        )
    return Row(name, "fail", text, f"install a torch built for CUDA {have[0]} or ask for a newer driver")


def clients() -> Iterator[Row]:
    """Whether a job may ask Slurm and submit to it: requeues need scontrol, the mender needs sbatch."""
    for name, command, hint in (
        (
            "squeue from nodes",
            ["squeue", "--me", "-h", "-o", "%i"],
            "jobs do not need it; run hpc status on the login node",
        ),
        ("scontrol from nodes", ["scontrol", "ping"], "jobs cannot requeue themselves: choose hours that fit the work"),
        ("sbatch from nodes", _trial(), "set mend: false in the profile: `hpc submit` on the login node mends instead"),
    ):
        try:
            queue.run(command, timeout_s=20)
            yield Row(name, "ok", "works")
        except ClusterError as error:
            yield Row(name, "warn", f"{error.what}: {' '.join(error.why.split())}"[:300], hint)


def _trial() -> list[str]:
    """An sbatch that is only tested, in this job's own partition and account."""
    options = {"SLURM_JOB_PARTITION": "partition", "SLURM_JOB_ACCOUNT": "account", "SLURM_JOB_QOS": "qos"}
    chosen = [f"--{o}={os.environ[v]}" for v, o in options.items() if os.environ.get(v)]
    return ["sbatch", "--test-only", "--time=1", "--nodes=1", *chosen, "--wrap=true"]


if __name__ == "__main__":
    main()
