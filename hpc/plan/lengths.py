"""How many tokens the examples of a training have: counted where that is possible, else published, else estimated.

A plan has no tokenizer. A published data artifact whose stage counted with a model's tokenizer is taken at its word;
examples of a source with a published histogram follow that, however many they are; other texts at hand are estimated
by their bytes (BYTES_PER_TOKEN).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import yaml

from hpc import files
from hpc.plan.graph import Stage
from hpc.recipe import names

BYTES_PER_TOKEN = 2.6
"""UTF-8 bytes a token of Qwen2.5: 2.2 to 2.8 in Gemini's traces, 2.4 in MATH and GSM8K, 2.9 in s1's questions, 2.7 to
3.4 in R1's traces."""
BYTES_SPREAD = 0.12
TEMPLATE_TOKENS = 30
"""Of a chat template with its system prompt."""
POINTS = 2048
"""A distribution stands for its rows by so many lengths."""
READ_BYTES = 64 << 20
"""Larger files are not read for a plan."""

Kind = Literal["counted", "published", "estimated", "assumed"]


@dataclass(frozen=True)
class Lengths:
    """Tokens of the examples of a training, prompt and completion together.

    Attributes:
        tokens: lengths, in equal shares; all of them, or POINTS that stand for them.
        rows: number of examples; None where nobody knows.
        kind, how: where they come from; spread: standard deviation of ln(all tokens).
    """

    tokens: tuple[int, ...]
    rows: int | None
    kind: Kind
    how: str
    spread: float

    @property
    def mean(self) -> float:
        """Tokens of an example, on average."""
        return sum(self.tokens) / len(self.tokens)

    def over(self, max_tokens: int) -> float:
        """Share of the examples that are longer than max_tokens."""
        return sum(n > max_tokens for n in self.tokens) / len(self.tokens)

    @property
    def surely(self) -> tuple[int, int]:
        """The shortest and the longest example, smaller by two standard deviations: less than what there is. 0 where
        lengths are assumed.
        """
        share = 0.0 if self.kind == "assumed" else math.exp(-2 * self.spread)
        return int(min(self.tokens) * share), int(max(self.tokens) * share)

    def limited(self, max_tokens: int, overlong: str) -> Lengths:
        """What is trained: longer examples are cut or left out."""
        kept = [min(n, max_tokens) for n in self.tokens if overlong == "cut" or n <= max_tokens] or [max_tokens]
        rows = self.rows and max(1, round(self.rows * len(kept) / len(self.tokens)))
        return Lengths(tuple(kept), rows, self.kind, self.how, self.spread)


def of(stage: Stage, stages: Mapping[str, Stage], published: Mapping[str, Path]) -> Lengths:
    """The lengths of the examples that a train stage reads, before its max_tokens.

    Args:
        published: artifact folders by key.
    """
    key = stage.inputs["data"].get("key", "")
    folder = published.get(key)
    if folder is not None and (folder / "examples.jsonl").is_file():
        return _counted(folder / "examples.jsonl", stages[key])
    return planned(stages[key]) if key in stages else _drawn("assumed", None, "all")


def drawn(repository: str) -> Lengths:
    """The lengths of a repository that the table of histograms knows."""
    return _drawn(repository, None, "all")


def planned(stage: Stage) -> Lengths:
    """The lengths that a data stage will bring, by its source, selection and size."""
    parts = list(stage.config.get("mix", {}).values()) or [stage.config]
    return _joined([_part(part) for part in parts])


def _part(part: Mapping[str, Any]) -> Lengths:
    source, size = part["source"], part.get("size")
    select = names.split(part.get("select", "all"))[0]
    text = files.canonical(source)
    found = _local(text)
    if found is None:
        found = _drawn(_entry(source), size, select)
    elif size and found.rows and size < found.rows:
        ordered = sorted(found.tokens, reverse=select == "longest")
        chosen = ordered[:size] if select == "longest" else ordered
        found = Lengths(tuple(chosen), size, found.kind, found.how, found.spread)
    if part.get("filters"):
        found = Lengths(found.tokens, found.rows, found.kind, f"{found.how}; before filters", max(found.spread, 0.1))
    return found


def _entry(source: Mapping[str, Any]) -> str:
    hub = str(source.get("hub", "")).partition("@")[0]
    column = f"{hub}:{source.get('thinking', '')}"
    return column if column in _table() else hub if hub in _table() else "assumed"


def _joined(parts: list[Lengths]) -> Lengths:
    if len(parts) == 1:
        return parts[0]
    rows = None if any(p.rows is None for p in parts) else sum(p.rows or 0 for p in parts)
    shares = [(p.rows or 1) / (rows or len(parts)) for p in parts]
    tokens = [n for p, share in zip(parts, shares, strict=True) for n in _thinned(p.tokens, round(POINTS * share))]
    kinds: list[Kind] = [p.kind for p in parts]
    kind: Kind = next((k for k in ("assumed", "estimated", "published") if k in kinds), "counted")
    how = "; ".join(dict.fromkeys(p.how for p in parts))
    return Lengths(tuple(tokens), rows, kind, how, max(p.spread for p in parts))


def _thinned(tokens: tuple[int, ...], count: int) -> Iterator[int]:
    ordered = sorted(tokens)
    return (ordered[int((i + 0.5) / max(1, count) * len(ordered))] for i in range(max(1, count)))


@cache
def _drawn(entry: str, size: int | None, select: str) -> Lengths:
    """Lengths of a row of histograms.yaml at equal steps of probability; the upper ones where `select` is longest."""
    row = _table()[entry]
    rows = row.get("rows")
    number = size if rows is None else min(size or rows, rows)
    least = 1 - number / rows if select == "longest" and number and rows else 0.0
    points = min(number or POINTS, POINTS)
    shares = [least + (1 - least) * (i + 0.5) / points for i in range(points)]
    thinking = _by_bins(row, shares) if "bins" in row else _lognormal(row, shares)
    tokens = tuple(max(1, round(n)) + row["added"] for n in thinking)
    return Lengths(tokens, number, "assumed" if entry == "assumed" else "published", row["how"], row["spread"])


def _by_bins(row: Mapping[str, Any], shares: Iterable[float]) -> Iterator[float]:
    total, place, below = sum(row["bins"]), 0, 0
    for share in shares:
        while place < len(row["bins"]) - 1 and below + row["bins"][place] <= share * total:
            below += row["bins"][place]
            place += 1
        inside = (share * total - below) / max(1, row["bins"][place])
        yield row["start"] + (place + min(1.0, inside)) * row["step"]


def _lognormal(row: Mapping[str, Any], shares: Iterable[float]) -> Iterator[float]:
    median = math.log(row["mean"]) - row["sigma"] ** 2 / 2
    curve = NormalDist(median, row["sigma"])
    return (min(row["cap"], math.exp(curve.inv_cdf(share))) for share in shares)


def _counted(path: Path, stage: Stage) -> Lengths:
    """The examples of a published artifact: its own counts where these are tokens, else as its source is known to be,
    else their bytes.
    """
    exact = stage.config.get("tokenizer", "words") != "words"
    stat = path.stat()
    tokens = _examples(path, exact, stat.st_size, stat.st_mtime_ns)
    if exact:
        return Lengths(tokens, len(tokens), "counted", f"{len(tokens)} examples counted by the data stage", 0.02)
    told = planned(stage)
    if told.kind == "published" and not _filtered(stage.config):
        return Lengths(told.tokens, len(tokens), "published", f"{told.how}; {len(tokens)} of them here", told.spread)
    how = f"{len(tokens)} examples at {BYTES_PER_TOKEN} bytes a token"
    return Lengths(tokens, len(tokens), "estimated", how, BYTES_SPREAD)


def _filtered(config: Mapping[str, Any]) -> bool:
    """Whether filters have changed the distribution of lengths."""
    return bool(config.get("filters")) or any(part.get("filters") for part in config.get("mix", {}).values())


@cache
def _examples(path: Path, exact: bool, size: int, changed: int) -> tuple[int, ...]:
    """Lengths of a file's examples; `size` and `changed` tell one state of it from another."""
    return tuple(_tokens(row, exact) for row in files.read_jsonl(path)) or (1,)


def _tokens(row: Mapping[str, Any], exact: bool) -> int:
    if exact and row.get("lengths"):
        return sum(map(int, row["lengths"].values())) + _by_bytes(row["question"]) + TEMPLATE_TOKENS
    return sum(_by_bytes(row[part]) for part in ("question", "thinking", "answer")) + TEMPLATE_TOKENS


def _by_bytes(text: str) -> int:
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


@cache
def _local(source: str) -> Lengths | None:
    """The lengths of a source (canonical JSON) whose file lies here and is small enough to read; None otherwise."""
    spec = json.loads(source)
    path = names.local_file(str(spec["file"])) if isinstance(spec, dict) and spec.get("file") else None
    if path is None or path.suffix == ".parquet" or path.stat().st_size > READ_BYTES:
        return None
    from hpc.data import registry  # only here: the plan reads no data unless it lies at hand

    tokens = tuple(_tokens(vars(example), False) for example in registry.load(spec))
    if not tokens:
        return None
    how = f"{len(tokens)} rows of {path.name} at {BYTES_PER_TOKEN} bytes a token"
    return Lengths(tokens, len(tokens), "estimated", how, BYTES_SPREAD)


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = Path(__file__).with_name("histograms.yaml").read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return table
