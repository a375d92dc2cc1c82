"""How much room a folder has: what the file system says, what a quota leaves, what the profile says of a quota.

hpc doctor --on PROFILE           tells it, as rows "free space" and "free inodes"
hpc fetch X [--dry-run]           holds it against what is to be downloaded
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

GIB = 2**30
QUOTA_S = 10
"""A quota server that has not answered by then is not asked again."""
NUMBER = re.compile(r"\[?(\d+)\*?\]?")


class Mount(NamedTuple):
    """Where a file system hangs, its device or server, and its type: lustre, nfs4, ext4 ..."""

    point: str
    device: str
    kind: str


@dataclass(frozen=True)
class Room:
    """What is left: bytes and files (None where nobody says), and who says so."""

    bytes: int | None
    files: int | None
    bytes_by: str = ""
    files_by: str = ""

    def __str__(self) -> str:
        many = f"{self.files:,} files ({self.files_by})" if self.files is not None else "files unknown"
        return f"{size(self.bytes)} ({self.bytes_by or 'nobody says'}), {many}"


def of(
    folder: Path, *, quota_gib: float | None = None, quota_files: int | None = None, beside: Path | None = None
) -> Room:
    """The room that is left for new files in `folder`, which need not exist yet.

    Args:
        quota_gib, quota_files: what the user may have on that file system, as the profile says; what lies in `folder`
            and in `beside` is counted and taken off.
        beside: another folder under the same quota (the root of results), if it is on the same file system.
    """
    place = existing(folder)
    counts = [_file_system(place), _quota_command(place)]
    if quota_gib is not None or quota_files is not None:
        counts.append(_profile(folder, beside, quota_gib, quota_files))
    free_bytes, bytes_by = _least((r.bytes, r.bytes_by) for r in counts)
    free_files, files_by = _least((r.files, r.files_by) for r in counts)
    return Room(free_bytes, free_files, bytes_by, files_by)


def existing(folder: Path) -> Path:
    """The folder, or the nearest of its parents that is there."""
    return next(p for p in (folder, *folder.absolute().parents) if p.exists())


def mount(place: Path) -> Mount:
    """The file system that holds `place`: of all mount points above it the longest."""
    best, whole = Mount("/", "", "unknown"), place.resolve()
    try:
        text = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return best
    for line in text.splitlines():
        device, point, kind = (_unescaped(word) for word in line.split()[:3])
        if whole.is_relative_to(point) and len(point) >= len(
            best.point
        ):  # of two at one place the later hides the other
            best = Mount(point, device, kind)
    return best


def _unescaped(name: str) -> str:
    """/proc writes a space as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m.group(1), 8)), name)


def used(folders: Iterable[Path]) -> tuple[int, int]:
    """Bytes on disk and number of files and folders below `folders`; one inside another is counted once."""
    total = number = 0
    distinct = sorted({f.resolve() for f in folders if f.exists()})
    stack = [f for f in distinct if not any(o != f and f.is_relative_to(o) for o in distinct)]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    number += 1
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(Path(entry.path))
        except (FileNotFoundError, PermissionError):  # gone meanwhile, or another user's
            continue
    return total, number


def size(number: float | None) -> str:
    """Bytes for people: 1.5 GiB."""
    if number is None:
        return "unknown"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _least(counts: Iterable[tuple[int | None, str]]) -> tuple[int | None, str]:
    return min(((n, by) for n, by in counts if n is not None), default=(None, ""))


def _file_system(place: Path) -> Room:
    stat = os.statvfs(place)
    files = stat.f_favail if stat.f_files else None  # some network file systems count no inodes
    return Room(stat.f_bavail * stat.f_frsize, files, "file system", "file system")


def _profile(folder: Path, beside: Path | None, gib: float | None, files: int | None) -> Room:
    near = [folder]
    if beside is not None:
        if existing(beside).stat().st_dev != existing(folder).stat().st_dev:
            return Room(None, None)  # the quota is of the other file system
        near.append(beside)
    taken_bytes, taken_files = used(near)
    return Room(
        None if gib is None else int(gib * GIB) - taken_bytes,
        None if files is None else files - taken_files,
        f"quota_gib {gib:g} of the profile minus {size(taken_bytes)} in use" if gib is not None else "",
        f"quota_files {files:,} of the profile minus {taken_files:,} in use" if files is not None else "",
    )


def _quota_command(place: Path) -> Room:
    """`lfs quota` on Lustre, else `quota`; nothing where there is none or it says nothing of this file system."""
    point, device, _ = mount(place)
    if shutil.which("lfs"):
        found = parse_quota(_out(["lfs", "quota", "-q", "-u", getpass.getuser(), str(place)]), [point, str(place)])
        if found is not None:
            return Room(*found, "lfs quota", "lfs quota")
    if shutil.which("quota"):
        found = parse_quota(_out(["quota", "-u", "-w", "-p"]), [device, point])
        if found is not None:
            return Room(*found, "quota", "quota")
    return Room(None, None)


def parse_quota(text: str, names: list[str]) -> tuple[int | None, int | None] | None:
    """Bytes and files that are left by a table of `quota -w -p` or `lfs quota`; None if no row is named in `names`.

    A row is NAME KIB SOFT HARD GRACE FILES SOFT HARD GRACE; a limit of 0 is none, and the hard one counts.
    """
    words = text.split()
    for place, word in enumerate(words):
        row = [NUMBER.fullmatch(w) for w in words[place + 1 : place + 9]]
        if word in names and len(row) >= 7 and all(row[i] for i in (0, 1, 2, 4, 5, 6)):
            kib, soft, hard, _, files, soft_files, hard_files = (int(m[1]) if m else 0 for m in row[:7])
            left_bytes, left_files = _left(kib, soft, hard), _left(files, soft_files, hard_files)
            return None if left_bytes is None else left_bytes * 1024, left_files
    return None


def _left(taken: int, soft: int, hard: int) -> int | None:
    limit = hard or soft
    return limit - taken if limit else None


def _out(command: list[str]) -> str:
    """What a command prints; empty where it fails or does not answer (`quota` exits with 1 above a limit)."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUOTA_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
