"""The same sweep of 1,000 trivial runs (10 x 10 x 10) submitted by peers and by us, side by side: bench/peers/with_*.

Seconds, CPU seconds, calls of Slurm, files, folders and bytes of a submission, and the same of a status. Once with
stand-ins for Slurm's clients that answer in about 10 ms, once on a real Slurm of one machine whose partition takes jobs
and starts none. Rounds are interleaved. Peers live in their own environment: `make bench-peers`, or PEERS_VENV=FOLDER.

    python -m bench.run submit
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.peers.clients import Clients, Spent, spend, weigh

HOME = Path(__file__).parents[1]
PEERS = Path(__file__).parent / "peers"
ROUNDS = 5
SLOW_ROUNDS = 3
"""Rounds of a tool that takes minutes."""
QUEUE = 20_000
MIDWAY = "COMPLETED 400 FAILED 100 RUNNING 256"
"""A sweep half done: the rest waits."""
BOX = HOME / "tests/slurm/box.sh"
PARTITION = "PartitionName=batch Nodes=cpu-[01-02] State=DOWN\\n"
"""Takes jobs and starts none."""

PARTS = """
import json, sys, time
began = time.perf_counter()
from hpc.cluster import profile, submit
from hpc.plan import document
from hpc.recipe import sweep
place = profile.find_profile(sys.argv[2])
made = document.make(sweep.load(sys.argv[1], []), place.all_roots, place.node_gpus)
plan = document.document(made)
planned = time.perf_counter()
submit.submit(plan, place)
submitted = time.perf_counter()
print(json.dumps({"import_and_plan_s": planned - began, "submit_after_planning_s": submitted - planned}))
"""

WORKER = """
import os, sys
import hpc.data.stage
from hpc import artifact
from hpc.cluster import worker
artifact.code()  # once for all
jobfile, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for index in range(first, last):
    if (pid := os.fork()) == 0:
        os.environ |= {"SLURM_JOB_ID": str(5000 + index), "SLURM_ARRAY_TASK_ID": str(index)}
        sys.argv = ["worker", jobfile, "--index", str(index)]
        os._exit(worker.main())
    failed = os.waitpid(pid, 0)[1] != 0
    assert failed == bool(os.environ.get("POINT_FAILS")), f"element {index}"
"""
"""The real worker makes these elements, without a new Python for each."""


@dataclass
class Tool:
    """A tool with its definition of the sweep, copied into a folder of its own for every submission.

    `status` is empty where the tool has none; `returns` is False where submitting blocks until the jobs end.
    """

    name: str
    definition: str
    submit: list[str]
    status: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    returns: bool = True


def measure() -> dict[str, Any]:
    """Numbers by tool, with the versions; a tool that is not installed is named under `left_out`."""
    tools, left_out = installed()
    known = versions()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=_memory()) as folder:
        pretended = side_by_side(tools, Path(folder) / "pretended", Clients(Path(folder) / "clients"))
        midway, own = ourselves(tools[0], Path(folder) / "own")
        pretended["hpc"] |= midway
        real: dict[str, Any] = {}
        if shutil.which("slurmctld") and os.geteuid() == 0:
            with box(Path(folder) / "box") as clients:
                quick = [t for t in tools if t.returns]
                real = side_by_side(quick, Path(folder) / "real", clients)
        else:
            left_out.append("a real Slurm (needs root, slurmctld, slurmd, munge)")
    return {
        "runs": 1000,
        "rounds": {"each": ROUNDS, "hydra": SLOW_ROUNDS},
        "versions": known,
        "left_out": left_out,
        "stand_ins": pretended,
        "real_slurm": real,
        "ours": own,
    }


def installed() -> tuple[list[Tool], list[str]]:
    """Ours and the peers that are installed; and the names of those that are not."""
    peers = peers_python()
    sweep, profile = str(PEERS / "with_hpc/grid.yaml"), str(PEERS / "with_hpc/batch.yaml")
    hpc = [sys.executable, "-m", "hpc.cli"]
    ours = Tool("hpc", "", [*hpc, "submit", sweep, "--on", profile], [*hpc, "status", sweep, "--on", profile])
    ours.env = {"HPC_ROOT": "root", "PYTHONPATH": str(HOME)}
    script = [peers, str(PEERS / "with_submitit/grid.py")]
    points = [f"{name}=range(10)" for name in "xyz"]
    found = [
        Tool("submitit", "with_submitit", [*script, "submit", "jobs"], [*script, "status", "jobs"]),
        Tool(
            "hyperherd",
            "with_hyperherd",
            [str(Path(peers).with_name("herd")), "run", "."],
            [str(Path(peers).with_name("herd")), "status", "."],
        ),
        Tool("hydra", "with_hydra", [peers, "app.py", "-m", "hydra.sweep.dir=multirun", *points], returns=False),
    ]
    if Path(peers).exists():
        return [ours, *found], []
    return [ours], [f"{t.name} (make bench-peers)" for t in found]


def peers_python() -> str:
    """The Python of the peers' environment, which need not exist."""
    folder = Path(os.environ.get("PEERS_VENV", HOME / ".venv-peers"))
    return str(folder.absolute() / "bin/python")


def side_by_side(tools: list[Tool], folder: Path, clients: Clients) -> dict[str, Any]:
    """Every tool submits and asks for the state, in turns; a first submission of each is not counted."""
    rows: dict[str, list[dict[str, Any]]] = {t.name: [] for t in tools}
    for turn in range(ROUNDS + 1):
        for tool in tools:
            if tool.returns or 0 < turn <= SLOW_ROUNDS:
                row = once(tool, folder / f"{tool.name}{turn}", clients)
                rows[tool.name] += [row] if turn else []
    return {name: summary(found) for name, found in rows.items()}


def once(tool: Tool, folder: Path, clients: Clients) -> dict[str, Any]:
    """One submission into a fresh folder, and statuses of it: as it is submitted, and half done."""
    env = prepare(tool, folder, clients)
    before = weigh(folder)
    row: dict[str, Any] = named("submit", spend(tool.submit, clients, env, folder, returns=tool.returns))
    row |= {name: count - before[name] for name, count in weigh(folder).items()}
    row["files"] -= 1  # where `spend` keeps the output
    row["bytes"] -= (folder / "output").stat().st_size
    code = weigh(folder / "root/code")
    row |= {f"of_which_code_{n}": code[n] for n in ("files", "bytes")} if code["files"] else {}
    if tool.status:
        row |= named("status", spend(tool.status, clients, env, folder))
    if clients.slurm_conf:
        subprocess.run(["scancel", "--partition=batch"], env=env, check=True, timeout=60)
    elif tool.status and tool.definition:  # ours needs artifacts for that: `ourselves`
        clients.say("phase", MIDWAY)
        row |= named("status_midway", spend(tool.status, clients, env, folder))
    shutil.rmtree(folder)
    return row


def prepare(tool: Tool, folder: Path, clients: Clients) -> dict[str, str]:
    """A fresh folder with the tool's definition, a queue without jobs, and the environment to run it in."""
    folder.mkdir(parents=True)
    if tool.definition:
        shutil.copytree(PEERS / tool.definition, folder, dirs_exist_ok=True)
    clients.forget("jobs", "phase", "foreign")
    return clients.environment(**{n: str(folder / v) if n == "HPC_ROOT" else v for n, v in tool.env.items()})


def named(what: str, spent: Spent) -> dict[str, Any]:
    """A row's fields of one command."""
    answered = {f"{what}_sbatch_answered_s": spent.sbatch_s} if spent.sbatch_s is not None else {}
    return {f"{what}_s": spent.returned_s, **answered, f"{what}_cpu_s": spent.cpu_s, f"{what}_calls": spent.calls}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds as median, min and max; counts, which do not differ between rounds, as they are."""
    found: dict[str, Any] = {}
    for name, last in rows[-1].items() if rows else []:
        values = [r[name] for r in rows]
        timed = name.endswith("_s") and last is not None
        found[name] = spread(values) if timed else last
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, min and max."""
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def ourselves(tool: Tool, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours alone: its status half way (the first result); parts of a submission, and statuses beside other jobs."""
    clients = Clients(folder / "clients")
    found: dict[str, Any] = in_parts(tool, folder, clients)
    here = folder / "again"
    env = prepare(tool, here, clients)
    first = spend([*tool.submit, "--json"], clients, env, here)
    halfway(json.loads(first.output), env, clients)
    midway = [named("status_midway", spend(tool.status, clients, env, here)) for _ in range(ROUNDS)]
    plan = [*tool.submit[:3], "plan", tool.submit[-3], "--on", "local", "--json"]
    found["plan_local_cpu_s"] = _cpu(plan, clients, env, here)
    found["status_midway_json_cpu_s"] = _cpu([*tool.status, "--json"], clients, env, here)
    for who, text in (("foreign", f"{QUEUE} 0"), ("own", f"0 {QUEUE}")):
        clients.say("foreign", text)
        found[f"status_midway_beside_{QUEUE}_{who}_jobs_cpu_s"] = _cpu(tool.status, clients, env, here)
    clients.forget("foreign")
    found |= named("submit_again_of_100_failed", spend(tool.submit, clients, env, here))
    return summary(midway), found


def in_parts(tool: Tool, folder: Path, clients: Clients) -> dict[str, Any]:
    """Seconds of planning (with imports) and of submitting after it, in one process."""
    rows: list[dict[str, float]] = []
    for turn in range(ROUNDS):
        env = prepare(tool, folder / f"parts{turn}", clients)
        code = [sys.executable, "-c", PARTS, tool.submit[-3], tool.submit[-1]]
        rows.append(json.loads(spend(code, clients, env, folder / f"parts{turn}").output))
    return summary(rows)


def halfway(submitted: dict[str, Any], env: dict[str, str], clients: Clients) -> None:
    """Let the real worker make 400 artifacts and fail at 100 more, and say so in the queue."""
    jobfile = next(a["jobfile"] for a in submitted["arrays"] if a["kind"] == "data")
    for first, last, more in ((0, 400, {}), (400, 500, {"POINT_FAILS": "1"})):
        command = [sys.executable, "-c", WORKER, jobfile, str(first), str(last)]
        subprocess.run(command, env={**env, **more}, check=True, timeout=600, capture_output=True)
    clients.say("phase", MIDWAY)


def _cpu(command: list[str], clients: Clients, env: dict[str, str], folder: Path) -> dict[str, float]:
    return spread([spend(command, clients, env, folder).cpu_s for _ in range(ROUNDS)])


@contextmanager
def box(folder: Path) -> Iterator[Clients]:
    """A real Slurm; its clients are counted. With accounting where slurmdbd is installed."""
    accounting = {"BOX_ACCT": "dbd"} if shutil.which("slurmdbd") and shutil.which("mariadbd") else {}
    env = {**os.environ, "BOX_EXTRA": PARTITION, "BOX_PORT": "16300", **accounting}
    subprocess.run([BOX, "up", folder], env=env, check=True, timeout=120)
    try:
        yield Clients(folder / "clients", f"{folder}/etc/slurm.conf")
    finally:
        subprocess.run([BOX, "down", folder], check=True, timeout=120)


def versions() -> dict[str, str]:
    """Versions of Python, of Slurm, of ours and of the peers."""
    found = {"python": sys.version.split()[0], "submitit (ours)": importlib.metadata.version("submitit")}
    if shutil.which("slurmctld"):  # the clients do not tell without a configuration
        text = subprocess.run(["slurmctld", "-V"], check=True, capture_output=True, text=True).stdout
        found["slurm"] = text.split()[-1]
    if Path(peers_python()).exists():
        names = ("submitit", "hydra-core", "hydra-submitit-launcher", "hyperherd")
        code = f"from importlib.metadata import version\nfor n in {names}: print(n, version(n))"
        lines = subprocess.run([peers_python(), "-c", code], check=True, capture_output=True, text=True).stdout
        found |= dict(line.split() for line in lines.splitlines())
    return found


def _memory() -> str | None:
    """A memory file system: what is measured is the tools, not the disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
