"""Delete under ROOT what nobody needs any more, so that a crash in the middle does no harm.

hpc gc [--on PROFILE] [--older DAYS]              shows it (hpc/cluster/heap.py says what counts)
hpc gc [--on PROFILE] --apply [--unreferenced]    deletes it; never what another user owns
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc.cluster import uses as using
from hpc.cluster.heap import KINDS, Item, utc
from hpc.cluster.profile import Profile
from hpc.cluster.uses import Uses

if TYPE_CHECKING:
    from rich.console import Console

GONE = ".gone-"
"""What is being deleted is renamed to this first: a crash leaves no half artifact, and the next run finishes it."""
SHOWN = 40
"""Rows of the table; the rest is counted. --json has all of them."""

Moves = list[tuple[Path, Path]]
"""(name, the name that it has until it is removed)."""


def sweep(profile: Profile, items: Iterable[Item], *, unreferenced: bool = False) -> list[Item]:
    """Delete what is this user's, and return what was deleted.

    First everything is renamed; then the ledger and the queue are read again, and what a submission has come to need in
    the meantime goes back to its name; then the rest is removed.

    Args:
        unreferenced: delete these artifacts too.

    Raises:
        ClusterError: Slurm does not say which jobs are alive (everything is put back).
    """
    chosen = [i for i in items if i.mine and (unreferenced or i.kind != "unreferenced")]
    moved = [(item, _aside(item)) for item in chosen]
    back = moved
    try:
        fresh = using.look(profile)
        back = [(item, names) for item, names in moved if _needed(item, fresh)]
    finally:
        for _, names in back:
            _put_back(names)
    rest = [(item, names) for item, names in moved if (item, names) not in back]
    removed = {item: [_remove(gone) for _, gone in names] for item, names in rest}
    return [item for item, done in removed.items() if len(done) == len(item.parts) and all(done)]


def _aside(item: Item) -> Moves:
    moves = []
    for part in item.parts:
        gone = part.with_name(f"{GONE}{uuid.uuid4().hex}")
        try:
            part.rename(gone)
        except OSError:  # another gc was faster, or the folder around it may not be written to
            continue
        moves.append((part, gone))
    return moves


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


def document(profile: Profile, items: list[Item], deleted: list[Item] | None) -> dict[str, Any]:
    """The JSON document of `hpc gc --json`; `deleted` is None for a dry run."""
    gone = [] if deleted is None else deleted
    return {
        "root": str(profile.root),
        "dry_run": deleted is None,
        "items": [{**i.document(), "deleted": i in gone} for i in items],
        "totals": {kind: _sum(i for i in items if i.kind == kind) for kind in KINDS},
        "deleted": _sum(gone),
    }


def _sum(items: Iterable[Item]) -> dict[str, int]:
    rows = list(items)
    return {"items": len(rows), "bytes": sum(i.bytes for i in rows), "inodes": sum(i.inodes for i in rows)}


def show(
    profile: Profile, items: list[Item], deleted: list[Item] | None, console: Console, *, older_days: float = 1.0
) -> None:
    """Print a table of the items (other users' are dim), totals by kind, and the next command."""
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
    lines += _next(profile, items, older_days) if deleted is None else _done(items, deleted)
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _row(profile: Profile, item: Item) -> tuple[str, ...]:
    from rich.markup import escape

    where = str(item.path.relative_to(profile.root))
    return item.kind, escape(where), size(item.bytes), str(item.inodes), escape(item.owner), utc(item.used)[:10]


def _done(items: list[Item], deleted: list[Item]) -> list[str]:
    stayed = sum(i.mine and i.kind != "unreferenced" and i not in deleted for i in items)
    why = f"{stayed} stayed: a job began to use them, or a process holds them open"
    return [f"deleted {_total(_sum(deleted))}", *([why] if stayed else [])]


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


def size(num_bytes: int) -> str:
    """Bytes as a reader takes them: 1.4 GiB."""
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
