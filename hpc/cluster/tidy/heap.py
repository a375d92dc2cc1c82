"""What lies under ROOT that nobody needs any more: looked for, never touched. `hpc gc` shows it and deletes it.

    finished      checkpoints and scratch of attempts at stages that are published
    superseded    attempts at unpublished stages after which a younger one has a complete checkpoint at least as far
    leftover      .purged-*, .gone-* and temporary files of writers that died
    code          snapshots that no unfinished submission imports
    unreferenced  artifacts that no submission has named, as a stage or as an input

Never: what a live job makes, the newest attempt at an unpublished stage, logs, and the records of an attempt
(attempt.json, failure*.json: the next attempt counts on from them). Other users' plans are not seen from here.
"""

from __future__ import annotations

import calendar
import os
import pwd
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc import artifact, files, track
from hpc.cluster.profile import Profile
from hpc.cluster.tidy import uses as using
from hpc.cluster.tidy.uses import DAY_S, Uses
from hpc.errors import ArtifactError

KINDS = {
    "finished": "scratch of published stages",
    "superseded": "attempts that younger ones have passed",
    "leftover": "left by writers that died",
    "code": "code that no unfinished job imports",
    "unreferenced": "artifacts that no submission names",
}
LEFTOVER = re.compile(r"\.(purged|gone)-[0-9a-f]{32}|\..+\.[0-9a-f]{32}")
PLACES = ("ledger/.*", "jobs/*/.*", "jobs/*/*/.*", "code/.*", "code/functions/.*", "artifacts/*/.*", "work/*/*/*/.*")
"""Where writers make their temporary names. Published folders are never looked into."""


@dataclass(frozen=True)
class Item:
    """One thing that may be deleted. `inodes` counts files and folders; `used` is seconds since the epoch.

    `parts`: what would be removed of `path`. `mine`: all of it is owned by this user.
    """

    kind: str
    path: Path
    parts: tuple[Path, ...]
    stage: str
    key: str
    bytes: int
    inodes: int
    owner: str
    mine: bool
    used: float

    def document(self) -> dict[str, Any]:
        """The item for --json."""
        names = ("kind", "stage", "key", "bytes", "inodes", "owner", "mine")
        return {n: getattr(self, n) for n in names} | {"path": str(self.path), "used": utc(self.used)}


def look(profile: Profile, *, older_days: float = 1.0, now: float | None = None) -> list[Item]:
    """What may be deleted under the profile's own root, largest first. Changes nothing.

    Args:
        older_days: spare what was used within so many days. Use is what the ledger and DONE say, or a younger change.
        now: seconds since the epoch.

    Raises:
        ClusterError: Slurm does not say which jobs are alive.
    """
    now = time.time() if now is None else now
    uses = using.look(profile, now)
    root = profile.root
    found = [
        *_attempts(profile, uses, now),
        *(i for i in _leftovers(root) if now - i.used > DAY_S),
        *_snapshots(root, uses),
        *_unreferenced(root, uses),
    ]
    return sorted((i for i in found if now - i.used >= older_days * DAY_S), key=lambda i: (-i.bytes, str(i.path)))


def spared(profile: Profile, older_days: float) -> list[Item]:
    """What `look` leaves out for its age alone. Reads the root once more.

    Raises:
        ClusterError: Slurm does not say which jobs are alive.
    """
    now = time.time()
    return [i for i in look(profile, older_days=0.0, now=now) if now - i.used < older_days * DAY_S]


def _attempts(profile: Profile, uses: Uses, now: float) -> Iterator[Item]:
    for folder in sorted(profile.root.glob("work/*/*")):
        stage, key, tries = folder.parent.name, folder.name, artifact.attempts(folder)
        if key in uses.making or any(uses.busy(a, now) for a in tries):
            continue
        published = artifact.find(profile.all_roots, stage, key)
        if published and not _intact(published):
            continue  # purged scratch: these attempts may make it again sooner
        for attempt in tries if published else _passed(tries):
            parts = [p for p in sorted(attempt.iterdir()) if not _kept(p)]
            if parts:
                used = max(uses.asked.get(key, 0.0), _finished(published) if published else 0.0)
                yield _item("finished" if published else "superseded", attempt, parts, used, stage, key)


def _kept(path: Path) -> bool:
    """Records of an attempt; hidden names, which are leftovers or nobody's; W&B runs that were not yet sent."""
    if path.name == "wandb":
        return track.unsynced(path)
    return path.name.startswith(".") or path.name == "attempt.json" or bool(re.match(r"failure.*\.json$", path.name))


def _passed(tries: list[Path]) -> list[Path]:
    """Attempts whose furthest complete checkpoint a younger one has reached, in every layout that they saved."""
    marks = [_checkpoints(a) for a in tries]
    passed = []
    for number, attempt in enumerate(tries[:-1]):
        younger = [m for m in marks[number + 1 :] if m]
        best = {layout: max(m.get(layout, -1) for m in younger) for m in younger for layout in m}
        if younger and all(best.get(layout, -1) >= step for layout, step in marks[number].items()):
            passed.append(attempt)
    return passed


def _checkpoints(attempt: Path) -> dict[str, int]:
    """Layout (how a checkpoint is cut into shards) -> the last step that is saved whole."""
    found: dict[str, int] = {}
    for path in attempt.glob("checkpoints/*/COMPLETE"):
        row = files.read_json(path)
        step = int(row.pop("step"))
        layout = files.canonical(row)
        found[layout] = max(step, found.get(layout, -1))
    return found


def _leftovers(root: Path) -> Iterator[Item]:
    for path in sorted(p for place in PLACES for p in root.glob(place) if LEFTOVER.fullmatch(p.name)):
        try:
            changed = path.lstat().st_ctime  # a rename counts: .purged-* and .gone-* are older inside
        except FileNotFoundError:  # its writer was alive after all
            continue
        yield _item("leftover", path, [path], changed)


def _snapshots(root: Path, uses: Uses) -> Iterator[Item]:
    for record in sorted([*root.glob("code/[!.]*/SNAPSHOT.json"), *root.glob("code/functions/[!.]*/SNAPSHOT.json")]):
        name = str(record.parent.relative_to(root / "code"))
        if name not in uses.importing:
            yield _item("code", record.parent, [record.parent], uses.imported.get(name, 0.0))


def _unreferenced(root: Path, uses: Uses) -> Iterator[Item]:
    published = [p.parent for p in sorted(root.glob("artifacts/*/[!.]*/DONE"))]
    chosen = {f"{p.parent.name}/{p.name}": p for p in published if p.name not in uses.asked}
    last = dict.fromkeys(chosen, 0.0)
    for folder in published if chosen else []:
        for name in files.read_json(folder / "inputs.json").values():
            if name in last:  # a stage that a job without a ledger made from it
                last[name] = max(last[name], _finished(folder))
    for name, folder in chosen.items():
        used = max(last[name], _finished(folder))
        yield _item("unreferenced", folder, [folder], used, folder.parent.name, folder.name)


def _item(kind: str, path: Path, parts: list[Path], used: float, stage: str = "", key: str = "") -> Item:
    sizes: dict[tuple[int, int], int] = {}
    owners, newest = set(), 0.0
    for entry in (e for part in parts for e in _tree(part)):
        try:
            facts = os.lstat(entry)
        except FileNotFoundError:
            continue
        sizes[(facts.st_dev, facts.st_ino)] = 0 if os.path.isdir(entry) else facts.st_size  # noqa: PTH112 - many
        owners.add(facts.st_uid)
        newest = max(newest, facts.st_mtime)
    mine, whose = owners == {os.geteuid()}, owner(path)
    return Item(kind, path, tuple(parts), stage, key, sum(sizes.values()), len(sizes), whose, mine, max(used, newest))


def _tree(path: Path) -> Iterator[str]:
    """`path` and everything below it; links are not followed."""
    yield str(path)
    if path.is_dir() and not path.is_symlink():
        for folder, folders, names in os.walk(path):
            yield from (f"{folder}/{name}" for name in (*folders, *names))


def _intact(folder: Path) -> bool:
    try:
        artifact.check(folder)
    except ArtifactError:
        return False
    return True


def _finished(folder: Path) -> float:
    return float(calendar.timegm(time.strptime(files.read_json(folder / "DONE")["finished"], "%Y-%m-%dT%H:%M:%SZ")))


def owner(path: Path) -> str:
    """The user who owns a path: the name, or the number of one without; empty if the path is gone."""
    try:
        uid = path.lstat().st_uid
    except FileNotFoundError:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def utc(seconds: float) -> str:
    """Seconds since the epoch as text: 2026-11-22T02:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
