"""Delete under ROOT what nobody needs any more, so that a crash in the middle does no harm.

hpc gc [--on PROFILE] [--older DAYS]              shows it (hpc/cluster/tidy/heap.py says what counts)
hpc gc [--on PROFILE] --apply [--unreferenced]    deletes it; never what another user owns
"""

from __future__ import annotations

import errno
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc.cluster.profile import Profile
from hpc.cluster.tidy import heap
from hpc.cluster.tidy import uses as using
from hpc.cluster.tidy.heap import KINDS, Item, utc
from hpc.cluster.tidy.uses import Uses
from hpc.plan.room import size

if TYPE_CHECKING:
    from rich.console import Console

GONE = ".gone-"
"""What is being deleted is renamed to this first: a crash leaves no half artifact, and the next run finishes it."""
SHOWN = 40
"""Rows of the table; the rest is counted. --json has all of them."""

Moves = list[tuple[Path, Path]]
"""(name, the name that it has until it is removed)."""


@dataclass
class Swept:
    """What was deleted, and what the file system did not let go: item -> why."""

    items: list[Item]
    refused: dict[Item, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """True if nothing could be deleted because it may not be."""
        return bool(self.refused) and not self.items


def sweep(profile: Profile, items: Iterable[Item], *, unreferenced: bool = False) -> Swept:
    """Delete what is this user's, and return what was deleted.

    First everything is renamed; then the ledger and the queue are read again, and what a submission has come to need in
    the meantime goes back to its name; then the rest is removed.

    Args:
        unreferenced: delete these artifacts too.

    Raises:
        ClusterError: Slurm does not say which jobs are alive (everything is put back).
    """
    chosen = [i for i in items if i.mine and (unreferenced or i.kind != "unreferenced")]
    refused: dict[Item, str] = {}
    moved = [(item, _aside(item, refused)) for item in chosen]
    back = moved
    try:
        fresh = using.look(profile)
        back = [(item, names) for item, names in moved if _needed(item, fresh)]
    finally:
        for _, names in back:
            _put_back(names)
    rest = [(item, names) for item, names in moved if (item, names) not in back]
    removed = {item: [_remove(gone) for _, gone in names] for item, names in rest}
    return Swept([i for i, done in removed.items() if len(done) == len(i.parts) and all(done)], refused)


def _aside(item: Item, refused: dict[Item, str]) -> Moves:
    """Rename the parts of an item; why one stays where it is, is noted in `refused`."""
    moves = []
    for part in item.parts:
        gone = part.with_name(f"{GONE}{uuid.uuid4().hex}")
        try:
            part.rename(gone)
        except FileNotFoundError:  # another gc was faster
            continue
        except OSError as error:
            refused[item] = _why(part.parent, error)
            continue
        moves.append((part, gone))
    return moves


def _why(folder: Path, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{folder} may not be written (owner {heap.owner(folder)})"
    return f"{folder}: {error.strerror}"


def _needed(item: Item, uses: Uses) -> bool:
    if item.kind in ("finished", "superseded"):
        return item.key in uses.making
    if item.kind == "code":
        return item.path.name in uses.importing or f"functions/{item.path.name}" in uses.importing
    return item.kind == "unreferenced" and item.key in uses.asked


def _put_back(moves: Moves) -> None:
    for part, gone in moves:
        try:
            gone.rename(part)
        except OSError:  # it was made anew under its name
            if not part.exists():
                raise
            _remove(gone)


def _remove(path: Path) -> bool:
    """False if something stays: a file that a process of this user on another node holds open, as NFS shows it."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def document(profile: Profile, items: list[Item], swept: Swept | None) -> dict[str, Any]:
    """The JSON document of `hpc gc --json`; `swept` is None for a dry run."""
    gone, refused = (swept.items, swept.refused) if swept else ([], {})
    return {
        "root": str(profile.root),
        "dry_run": swept is None,
        "items": [{**i.document(), "deleted": i in gone, "refused": refused.get(i, "")} for i in items],
        "totals": {kind: _sum(i for i in items if i.kind == kind) for kind in KINDS},
        "deleted": _sum(gone),
    }


def _sum(items: Iterable[Item]) -> dict[str, int]:
    rows = list(items)
    return {"items": len(rows), "bytes": sum(i.bytes for i in rows), "inodes": sum(i.inodes for i in rows)}


def show(
    profile: Profile, items: list[Item], swept: Swept | None, console: Console, *, older_days: float = 1.0
) -> None:
    """Print a table of the items (other users' are dim), totals by kind, and the next command.

    Raises:
        ClusterError: nothing is found, and Slurm does not say whether there is something younger.
    """
    from rich.table import Table

    if items:
        table = Table("what", "where", "size", "files", "owner", "last use", box=None)
        for item in items[:SHOWN]:
            table.add_row(*_row(profile, item), style="" if item.mine else "dim")
        console.print(table)
    if len(items) > SHOWN:
        console.print(f"... and {len(items) - SHOWN} smaller ones (--json lists all)", highlight=False)
    for kind, about in KINDS.items():
        total = _sum(i for i in items if i.kind == kind)
        if total["items"]:
            console.print(f"{kind}: {_total(total)}  ({about})", highlight=False)
    others = sum(not i.mine for i in items)
    lines = [f"{others} of these belong to other users, who must delete them"] if others else []
    if not items:
        lines.append(_nothing(profile, older_days))
    else:
        lines += _next(profile, items, older_days) if swept is None else _done(items, swept)
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _row(profile: Profile, item: Item) -> tuple[str, ...]:
    from rich.markup import escape

    where = str(item.path.relative_to(profile.root))
    return item.kind, escape(where), size(item.bytes), str(item.inodes), escape(item.owner), utc(item.used)[:10]


def _done(items: list[Item], swept: Swept) -> list[str]:
    deleted, refused = swept.items, swept.refused
    stayed = sum(i.mine and i.kind != "unreferenced" and i not in deleted and i not in refused for i in items)
    lines = [f"deleted {_total(_sum(deleted))}"]
    lines += [f"{number} stayed: {why}" for why, number in Counter(refused.values()).items()]
    return [*lines, *([f"{stayed} stayed: a job began to use them, or a process holds them open"] if stayed else [])]


def _nothing(profile: Profile, older_days: float) -> str:
    """That there is nothing, or nothing old enough."""
    young = _sum(i for i in heap.spared(profile, older_days) if i.mine) if older_days > 0 else _sum([])
    if not young["items"]:
        return f"nothing to delete in {profile.root}"
    days = f"{older_days:g} day{'' if older_days == 1 else 's'}"
    found = f"{young['items']} item(s), {size(young['bytes'])} were used since"
    return f"nothing older than {days}; {found}: hpc gc --on {profile.name} --older 0"


def _next(profile: Profile, items: list[Item], older_days: float) -> list[str]:
    say = f"hpc gc --on {profile.name} --apply" + ("" if older_days == 1.0 else f" --older {older_days:g}")
    mine = [i for i in items if i.mine]
    safe = [i for i in mine if i.kind != "unreferenced"]
    if not mine:
        return [f"nothing to delete in {profile.root}"]
    first = [f"next: {say}  deletes {_total(_sum(safe))}"] if safe else []
    return [*first, *([f"next: {say} --unreferenced  deletes {_total(_sum(mine))}"] if len(mine) > len(safe) else [])]


def _total(total: dict[str, int]) -> str:
    return f"{total['items']} item(s), {size(total['bytes'])}, {total['inodes']} files"
