"""How far one attempt is: the last rows of its metrics.jsonl, or its progress.json; and how long the rest will take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpc import files

TAIL_BYTES = 65536
RATE_ROWS = 20
"""Rows that the rate of steps is taken over: the last ones, because the first hold warm-up and compilation."""
DECODER = json.JSONDecoder(parse_constant=str)
"""A loss of NaN is shown, and is no JSON number."""

Row = dict[str, Any]


def progress(attempt: Path) -> Row:
    """What an attempt says about itself.

    Returns:
        {} before its first word; else `progress` (the last row as it is) and, as far as it has them, `step` of `steps`
        or `done` of `total`, `loss`, `tokens_per_s`, and `eta_s` (seconds, predicted from the rate of the last rows).
    """
    counted = attempt / "progress.json"
    rows = _tail(attempt / "out" / "metrics.jsonl")
    if counted.exists():
        rows.append({**(rows[-1] if rows else {}), **files.read_json(counted)})
    if not rows:
        return {}
    last = rows[-1]
    shown: Row = {n: last[n] for n in ("step", "steps", "done", "total", "loss", "tokens_per_s") if n in last}
    left_s = eta_s(rows)
    return {"progress": last, **shown, **({"eta_s": round(left_s, 1)} if left_s is not None else {})}


def eta_s(rows: list[Row]) -> float | None:
    """Seconds that are left, from rows with step, steps and seconds (or done, total and seconds); None if not known."""
    last = rows[-1]
    at, end = ("step", "steps") if "steps" in last else ("done", "total")
    if not all(isinstance(last.get(n), int | float) for n in (at, end, "seconds")):
        return None
    first = next((r for r in rows[:-1] if at in r and "seconds" in r), {at: 0, "seconds": 0.0})
    moved, took_s = last[at] - first[at], last["seconds"] - first["seconds"]
    return (last[end] - last[at]) * took_s / moved if moved > 0 and took_s > 0 else None


def _tail(path: Path) -> list[Row]:
    """The last complete row of a file, and before it one that is up to RATE_ROWS older; torn lines are left out."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    except FileNotFoundError:
        return []
    last = next(filter(None, map(_row, reversed(lines))), None)
    first = next(filter(None, map(_row, lines[-RATE_ROWS:-1])), None)
    return [r for r in (first, last) if r is not None]


def _row(line: bytes) -> Row | None:
    try:
        row: Row = DECODER.decode(line.decode())
    except ValueError:  # torn by a crash, or the first half of a line was cut off here
        return None
    return row
