"""Published numbers: one CSV per table or figure of a paper, each row with its source."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from analysis.tables import Cell, Table
from hpc.errors import RecipeError, nearest

HOME = Path(__file__).parent
LO, HI = "_diff_lo", "_diff_hi"
"""Ends of columns that bound a difference; one cell shows both."""


@dataclass
class Published:
    """One published table. `label` matches labels of our sweeps' axes; columns named as tasks are accuracies in %."""

    name: str
    rows: list[dict[str, str]]

    @property
    def columns(self) -> list[str]:
        """Headings of the CSV."""
        return list(self.rows[0])

    @property
    def title(self) -> str:
        """The name as people write it: "s1 Table 2"."""
        return re.sub(r" (table|figure)(\d+)", lambda m: f" {m[1].title()} {m[2]}", self.name.replace("_", " "))

    def of(self, label: str) -> dict[str, str] | None:
        """The row with this label, or None."""
        return next((row for row in self.rows if label and row.get("label") == label), None)

    def table(self) -> Table:
        """As a table that is marked as published: numbers as printed, sources as notes."""
        hidden = {"source", "label"} | {c for c in self.columns if not any(row[c] for row in self.rows)}
        shown = [c for c in self.columns if c not in hidden and not c.endswith(HI)]
        rows: list[dict[str, Cell]] = [dict(_cell(c, row) for c in shown) for row in self.rows]
        sources = list(dict.fromkeys(row["source"] for row in self.rows))
        return Table(f"Published: {self.title}", rows, [f"Source: {s}" for s in sources], published=True)


def load(name: str) -> Published:
    """The published table called `name`.

    Raises:
        RecipeError: none of that name.
    """
    path = HOME / f"{name}.csv"
    if not path.is_file():
        raise RecipeError(
            f'there is no published table "{name}"',
            where="report: beside",
            why=nearest(name, (p.stem for p in HOME.glob("*.csv"))),
            next="name one of these",
        )
    with path.open(encoding="utf-8", newline="") as file:
        return Published(name, list(csv.DictReader(file)))


def _cell(column: str, row: dict[str, str]) -> tuple[str, Cell]:
    """Heading and cell: as printed, the two bounds of a difference in one."""
    if not column.endswith(LO):
        return column.replace("_", " "), row[column] or None
    task = column.removesuffix(LO)
    return f"{task} difference", f"[{row[column]}, {row[task + HI]}]" if row[column] else None
