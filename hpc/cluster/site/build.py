"""DeepSpeed's kernels, compiled once for each architecture into a versioned folder; stale build locks cleared.

    hpc doctor --build [--on PROFILE]              here, or as a job on the kind of node that will train
    python -m hpc.cluster.site.build CACHE RESULT.json  what it runs there

torch compiles an extension at first use, under a lock that it never takes back from a process that was killed: every
later job then waits for ever. Folders are named CACHE/torch_extensions/deepspeed-VERSION-torch-VERSION-ARCHITECTURE.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from hpc import files
from hpc.cluster.profile import Profile
from hpc.cluster.site import doctor, here
from hpc.cluster.site.facts import Row
from hpc.errors import ClusterError

STALE_S = 600.0
"""A build writes objects all the time; a lock beside which nothing has changed for so long is nobody's."""
BUILD_S = 1800.0
BUILD_HOURS = 0.5
CPUINFO = Path("/proc/cpuinfo")
OPS = ("CPUAdamBuilder", "ShareMemCommBuilder")
"""What stage train loads at run time: the optimizer of offloaded states, and collectives of ranks without GPUs."""


def architecture(cpuinfo: Path = CPUINFO) -> str:
    """The machine that kernels are compiled for: x86_64-genuineintel-6-143-sm90. CPU kernels use every instruction
    set of the CPU they are built on (-march=native), so its model counts, not only its family; -cpu is without GPU."""
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    keys = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")
    found = (re.search(rf"^{key}\s*:\s*(\S+)", text, re.MULTILINE) for key in keys)
    parts = [m.group(1).lower() for m in found if m]
    capability = here.output(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]).split()
    return "-".join([platform.machine(), *parts, f"sm{capability[0].replace('.', '')}" if capability else "cpu"])


def folder(cache: Path) -> Path:
    """Where this environment's kernels for this machine belong: TORCH_EXTENSIONS_DIR of its jobs.

    Raises:
        importlib.metadata.PackageNotFoundError: DeepSpeed or torch is not installed.
    """
    versions = [f"{n}-{importlib.metadata.version(n)}" for n in ("deepspeed", "torch")]
    return cache / "torch_extensions" / "-".join([*versions, architecture()])


def use() -> None:
    """Point this process, and what it starts, at the kernels that were built for this machine; call before DeepSpeed is
    imported. Without such a folder, torch compiles into TORCH_EXTENSIONS_DIR (or its own place) at first use."""
    named = os.environ.get("TORCH_EXTENSIONS_DIR", "")
    if not named or Path(named).name != "torch_extensions":
        return
    try:
        target = folder(Path(named).parent)
    except importlib.metadata.PackageNotFoundError:
        return
    if target.is_dir():
        os.environ["TORCH_EXTENSIONS_DIR"] = str(target)


def rows(profile: Profile) -> list[Row]:
    """Build on this machine (local), or in a job on a node of the profile, and tell what was done.

    Raises:
        ClusterError: sbatch refused, the job did not start in time, or the build took longer than BUILD_S.
    """
    cache = here.cache(profile)
    if not profile.cache or cache.state == "fail":  # jobs look for kernels in the profile's cache alone
        return [
            Row("cache", "fail", cache.found, "set cache in the profile: kernels are built there, and found by jobs")
        ]
    folder = Path(os.path.expandvars(profile.cache)).expanduser().absolute()
    return _built(profile, folder)


def _built(profile: Profile, cache: Path) -> list[Row]:
    try:
        result = doctor.fresh(profile, "build-")
    except OSError as error:
        return [doctor.unwritable("build", error)]
    place = profile.place("train")
    if profile.kind == "slurm":
        return _by_job(profile, cache, result)
    command = shlex.join(
        [place.python or sys.executable, "-m", "hpc.cluster.site.build", str(cache), str(result / "0.json")]
    )
    lines = "\n".join(["set -e", *place.setup, f"exec {command}"])
    try:
        with (result / "0.out").open("wb") as log:
            code = subprocess.call(["bash", "-c", lines], stdout=log, stderr=subprocess.STDOUT, timeout=BUILD_S)
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"the build did not end within {BUILD_S / 60:g} minutes",
            where=f"{result}/0.out",
            why="a slow or busy machine, or a build that waits for the lock of another; the file has its last words",
            next=f"hpc doctor --build --on {profile.name} on a less busy machine, in {STALE_S / 60:g} minutes: until "
            "then the lock that this build has left counts as held",
        ) from None
    if not (result / "0.json").exists():
        return [Row("build", "fail", f"exit {code}", f"read {result}/0.out")]
    return doctor.merged(result, 1)


def _by_job(profile: Profile, cache: Path, result: Path) -> list[Row]:
    test = doctor.trial(profile)
    gpus = 1 if test.node_gpus else 0
    hours = min(BUILD_HOURS, profile.debug.max_hours or profile.max_hours or BUILD_HOURS)
    resources = test.resources("train", {"gpus": gpus, "nodes": 1, "ranks": 1, "hours": hours, "cpus_per_rank": 4})
    resources["memory_gib"] = min(16, resources["memory_gib"])
    return doctor.run(test, resources, "site.build", [str(cache), str(result / "0.json")], result, BUILD_S)


def build(cache: Path) -> Iterator[Row]:
    """Clear stale locks under CACHE, then compile what is not there yet. Needs torch and DeepSpeed: minutes."""
    yield clear(cache / "torch_extensions")
    try:
        target = folder(cache)
    except importlib.metadata.PackageNotFoundError as error:
        yield Row(
            "kernels", "fail", f"{error.name} is not installed in {sys.executable}", "pip install 'thinkscale[train]'"
        )
        return
    target.mkdir(parents=True, exist_ok=True)
    os.environ["TORCH_EXTENSIONS_DIR"] = str(target)
    # ninja is installed beside Python, which need not be in PATH when Python is called by its full name
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for op in OPS:
        if row := compiled(op, target):
            yield row


def compiled(op: str, target: Path) -> Row | None:
    """Compile and load one op of DeepSpeed; None where this accelerator does not have it."""
    import deepspeed  # noqa: F401  # chooses the accelerator
    from deepspeed.accelerator import get_accelerator

    builder = get_accelerator().create_op_builder(op)
    if builder is None or type(builder).__name__ == "NotImplementedBuilder":
        return None
    there = set(target.rglob("*.so"))
    begin = time.monotonic()
    try:
        builder.load(verbose=True)
    except (RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        return Row(f"kernel {op}", "fail", last[:300], "a compiler and ninja are needed (module load gcc in setup)")
    took = f"compiled in {time.monotonic() - begin:.0f} s" if set(target.rglob("*.so")) - there else "was there"
    return Row(f"kernel {op}", "ok", f"{took}: {target}")


def clear(extensions: Path) -> Row:
    """Remove build locks that nobody holds: see `stale`."""
    gone, held = [], []
    for lock in sorted(extensions.rglob("lock")) if extensions.is_dir() else []:
        if stale(lock):
            lock.unlink(missing_ok=True)
            gone.append(str(lock.parent.relative_to(extensions)))
        else:
            held.append(str(lock.parent.relative_to(extensions)))
    text = f"{len(gone)} stale removed{': ' + ', '.join(gone) if gone else ''}"
    if held:
        return Row("build locks", "warn", f"{text}; held: {', '.join(held)}", "a build is at work there; wait for it")
    return Row("build locks", "ok", f"{text} under {extensions}")


def stale(lock: Path, age_s: float = STALE_S) -> bool:
    """Whether a build lock is nobody's: no process of this host has it open (torch keeps it open while it builds), and
    neither it nor anything beside it has changed for `age_s` by the clock of its own file system (builds elsewhere)."""
    try:
        newest = max(p.stat().st_mtime for p in [lock, *lock.parent.iterdir()])
    except FileNotFoundError:  # released while we looked
        return False
    return _now(lock.parent) - newest > age_s and not opened(lock)


def _now(where: Path) -> float:
    """The time by the clock of a folder's file system; the folder itself stays as it was."""
    before = where.stat()
    try:
        with tempfile.NamedTemporaryFile(dir=where, prefix=".clock-") as file:
            return Path(file.name).stat().st_mtime
    finally:
        os.utime(where, ns=(before.st_atime_ns, before.st_mtime_ns))


def opened(path: Path) -> bool:
    """True if a process of this host that we may look into has the file open."""
    wanted = path.stat()
    for handles in Path("/proc").glob("[0-9]*/fd"):
        try:
            for handle in handles.iterdir():
                seen = handle.stat()
                if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
                    return True
        except OSError:  # over, or another user's
            continue
    return False


def main() -> None:
    """Build, and write the rows as the doctor reads them."""
    parser = argparse.ArgumentParser(prog="python -m hpc.cluster.site.build")
    parser.add_argument("cache", type=Path)
    parser.add_argument("result", type=Path)
    chosen = parser.parse_args()
    found = [asdict(row) for row in build(chosen.cache)]
    files.write_json(chosen.result, {"host": platform.node(), "rows": found})


if __name__ == "__main__":
    main()
