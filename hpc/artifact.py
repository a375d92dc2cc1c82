"""Artifacts: published output folders, made by attempts that claim, write and rename. No locks, no shared writers.

ROOT/work/STAGE/KEY/N/        attempt N (claimed by mkdir): out/ is what will be published, the rest is scratch
ROOT/artifacts/STAGE/KEY/     the published folder: config.json, inputs.json, data, environment.json, DONE
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import hpc
from hpc import files
from hpc.errors import ArtifactError

PATIENCE_S = 90.0
"""Network file systems show a new name up to a minute late; readers on nodes look again that long."""

TELL_S = 5.0

ENVIRONMENT = ("SLURM_", "CUDA_", "NCCL_", "OMP_")
SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD", "JWT", "CREDENTIAL")


class Superseded(Exception):
    """A younger attempt of the same key exists: this one leaves without a trace in artifacts/."""


@dataclass
class Work:
    """What a stage function gets. It reads inputs, writes into `out`, and keeps its scratch in `attempt`.

    Attributes:
        stage, key: which artifact is being made.
        config: the stage's typed settings (hpc.recipe.schema), resolved.
        what: the fields that entered the key, as plain JSON.
        inputs: by name: a published artifact folder or local folder (Path), or a hub reference (str).
        seed: the stage's seed.
        attempt: this attempt's folder; `out` inside it is published.
        older: folders of earlier attempts, newest first; their checkpoints may be read.
        rank, world_size: of this process in the job.
        run_name: name for W&B; sweep: group for W&B.
        tags: words to find the run by in W&B.
        begun, beaten: when the stage began and last made progress (time.monotonic).
    """

    stage: str
    key: str
    config: Any
    what: dict[str, Any]
    inputs: dict[str, Path | str]
    seed: int
    attempt: Path
    older: list[Path] = field(default_factory=list)
    rank: int = 0
    world_size: int = 1
    run_name: str = ""
    sweep: str = ""
    tags: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    beaten: float = field(default_factory=time.monotonic)
    told: float = 0.0

    def beat(self, done: int | None = None, total: int | None = None) -> None:
        """Say that something moved. A rank that is silent for the profile's hang_s is ended and started again.

        Args:
            done, total: items, for `hpc status`: rank 0 writes them to progress.json, at most every TELL_S seconds.
        """
        self.beaten = time.monotonic()
        if done is not None and self.rank == 0 and (self.beaten - self.told > TELL_S or done == total):
            self.told = self.beaten
            row = {"done": done, "total": total, "seconds": round(self.beaten - self.begun, 1)}
            files.write_json(self.attempt / "progress.json", row)

    @property
    def out(self) -> Path:
        """The folder that is published when the stage function returns."""
        return self.attempt / "out"

    def check_live(self) -> None:
        """Raise Superseded if a younger attempt has been claimed. Call it before a checkpoint."""
        if any(int(p.name) > int(self.attempt.name) for p in attempts(self.attempt.parent)):
            raise Superseded(f"{self.stage} {self.key}: attempt {self.attempt.name} is superseded")


def target(root: Path, stage: str, key: str) -> Path:
    """Where the artifact of `key` is, or will be."""
    return root / "artifacts" / stage / key


def attempts(folder: Path) -> list[Path]:
    """Attempt folders of one key, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))


def claim(root: Path, stage: str, key: str) -> Path:
    """Make the next attempt folder of `key`; mkdir decides between two that try at once."""
    folder = root / "work" / stage / key
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(p.name) for p in attempts(folder)), default=0)
    while True:
        try:
            (folder / str(number)).mkdir()
        except FileExistsError:
            number += 1
            continue
        (folder / str(number) / "out").mkdir()
        return folder / str(number)


def find(roots: Sequence[Path], stage: str, key: str) -> Path | None:
    """The published folder of `key` in the first root that has it, or None."""
    for root in roots:
        if (target(root, stage, key) / "DONE").exists():
            return target(root, stage, key)
    return None


def open_input(roots: Sequence[Path], stage: str, key: str, *, patience_s: float = PATIENCE_S) -> Path:
    """The published folder of `key`, checked against DONE's sizes.

    Raises:
        ArtifactError: not there after `patience_s`, or a file is missing or has another size (purged scratch).
    """
    end = time.monotonic() + patience_s
    while (folder := find(roots, stage, key)) is None:
        if time.monotonic() > end:
            raise ArtifactError(
                f"the {stage} artifact {key} is missing",
                where=str(target(roots[0], stage, key)),
                why=f"no DONE file after {patience_s:.0f} s in {len(roots)} root(s)",
                next="hpc submit the recipe again: it makes what is missing",
            )
        time.sleep(1.0)
        for root in roots:  # listing the parent makes NFS clients forget that the name was absent
            parent = target(root, stage, key).parent
            if parent.is_dir():
                list(parent.iterdir())
    check(folder)
    return folder


def check(folder: Path) -> None:
    """Raise ArtifactError unless every file of a published folder has the size that DONE records."""
    for name, entry in files.read_json(folder / "DONE")["files"].items():
        size = (folder / name).stat().st_size if (folder / name).exists() else None
        if size != entry["bytes"]:
            raise ArtifactError(
                f"{name} of a published artifact is {'gone' if size is None else 'damaged'}",
                where=str(folder),
                why=f"DONE records {entry['bytes']} bytes, found {size}",
                next=f"delete {folder} and hpc submit the recipe again: it is rebuilt",
            )


def publish(work: Work, root: Path, *, inputs: dict[str, str], counts: dict[str, Any]) -> bool:
    """Complete `work.out` with its records and rename it into artifacts/. False if another attempt was first.

    A published folder without DONE is what a purge of scratch left over: it is moved aside, to .purged-ID beside it.

    Raises:
        Superseded: a younger attempt exists.
    """
    work.check_live()
    write_records(work, inputs)
    entries = {str(p.relative_to(work.out)): p for p in sorted(work.out.rglob("*")) if p.is_file()}
    listing = {name: {"bytes": p.stat().st_size, "sha256": files.sha256_file(p)} for name, p in entries.items()}
    done = {
        "stage": work.stage,
        "key": work.key,
        "attempt": int(work.attempt.name),
        "counts": counts,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "code": code(),
        "files": listing,
    }
    for path in entries.values():
        _fsync(path)
    for folder in {p.parent for p in entries.values()} | {work.out}:
        files.fsync_folder(folder)
    files.write_json(work.out / "DONE", done)
    final = target(root, work.stage, work.key)
    final.parent.mkdir(parents=True, exist_ok=True)
    while not _renamed(work.out, final):
        if not _set_aside(final):
            shutil.rmtree(work.out)
            return False
    files.fsync_folder(final.parent)
    return True


def _renamed(source: Path, final: Path) -> bool:
    """Rename `source` to `final`; False if a folder with something in it is there."""
    try:
        source.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _set_aside(final: Path) -> bool:
    """Move a published folder that lost its DONE (purged scratch) out of the way. False if it is complete."""
    aside = final.with_name(f".purged-{uuid.uuid4().hex}")
    list(final.parent.iterdir())  # makes NFS clients forget that the name was absent
    try:
        if any(p.name == "DONE" for p in final.iterdir()):
            return False
        final.rename(aside)
    except FileNotFoundError:  # another attempt was faster with just this
        time.sleep(0.1)
        return True
    if (aside / "DONE").exists():  # complete after all: published between our look and our rename
        _renamed(aside, final)
        return False
    return True


def write_records(work: Work, inputs: dict[str, str]) -> None:
    """config.json, inputs.json and environment.json of an attempt: how it was made, without any secret."""
    files.write_json(
        work.out / "config.json", {"stage": work.stage, "key": work.key, "what": work.what, "seed": work.seed}
    )
    files.write_json(work.out / "inputs.json", inputs)
    files.write_json(work.out / "environment.json", environment())


def environment() -> dict[str, Any]:
    """Allow-listed variables, versions and the code's digest: what is needed to explain a result."""
    names = [n for n in os.environ if n.startswith(ENVIRONMENT) and not any(s in n.upper() for s in SECRET)]
    return {
        "variables": {n: os.environ[n] for n in sorted(names)},
        "host": platform.node(),
        "python": sys.version.split()[0],
        "versions": _versions(),
        "code": code(),
    }


@cache
def code() -> dict[str, str]:
    """The version of this package and a sha256 over its Python files."""
    home = Path(__file__).parent
    sums = {str(p.relative_to(home)): files.sha256_file(p) for p in sorted(home.rglob("*.py"))}
    return {"version": hpc.__version__, "digest": files.digest(sums)[:16]}


def _versions() -> dict[str, str]:
    names = ("torch", "transformers", "deepspeed", "vllm", "math_verify", "wandb", "numpy")
    loaded = {n: sys.modules.get(n) for n in names}
    return {n: str(getattr(m, "__version__", "")) for n, m in loaded.items() if m is not None}


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
