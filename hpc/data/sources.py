"""Sources by name: every public function here yields examples; sources.yaml names sets of them.

`records` reads any table of questions: a file (json, jsonl, jsonl.gz, parquet) or a data set of the Hugging Face hub,
with a map from our fields to its columns. A column is a dotted path: `metadata.source`, `conversations.1.value`.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpc.data import mini as chains
from hpc.data.registry import load as load  # the one entry for training data and for tasks
from hpc.data.text import box, plain
from hpc.errors import StageError
from hpc.files import read_jsonl
from hpc.recipe import names
from hpc.records import Example, question_id


def records(
    *,
    hub: str = "",
    subset: str = "",
    split: str = "train",
    file: str = "",
    question: str = "question",
    thinking: str = "",
    answer: str = "",
    reference: str = "",
    domain: str = "",
    source: str = "",
    question_pattern: str = "",
    thinking_pattern: str = "",
    answer_pattern: str = "",
    reference_pattern: str = "",
    reference_boxed: bool = False,
    extra: Sequence[str] = (),
) -> Iterator[Example]:
    """A table of questions, from a file or from the hub.

    Args:
        hub: org/name[@revision], loaded with `datasets` (its cache and offline mode are honoured).
        subset: configuration of the hub data set.
        split: its split.
        file: a path, or a name inside $HPC_DATA_DIR; it goes before the hub.
        question, thinking, answer, reference, domain, source: columns (dotted paths); empty leaves the field empty.
        question_pattern, thinking_pattern, answer_pattern, reference_pattern: regular expression whose first group is
            the field (the whole text stays where it does not match).
        reference_boxed: take the content of the last \\boxed{} of the reference column.
        extra: further columns to keep.
    """
    patterns = {
        "question": question_pattern,
        "thinking": thinking_pattern,
        "answer": answer_pattern,
        "reference": reference_pattern,
    }
    columns = {
        "question": question,
        "thinking": thinking,
        "answer": answer,
        "reference": reference,
        "domain": domain,
        "source": source,
    }
    origin = file or hub
    for row in _rows(file, hub, subset, split):
        text = {f: _match(_text(row, column, origin), patterns.get(f, "")) for f, column in columns.items()}
        text["source"] = text["source"] or Path(origin.split("@")[0]).stem
        if reference_boxed:
            text["reference"] = box(text["reference"]) or ""
        kept = {name: _walk(row, name, origin) for name in extra}
        yield Example(id=question_id(text["question"]), extra=kept, **text)  # type: ignore[arg-type]


def math_solved(
    *, file: str = "math_test5000_solved.jsonl", hub: str = "", split: str = "test", minus: Any = ""
) -> Iterator[Example]:
    """MATH problems with worked solutions: the solution is the thinking, its last \\boxed{} the answer.

    Args:
        file, hub, split: where the table is (columns problem, solution, type, level), see `records`.
        minus: a task, or a list of tasks, whose questions are left out (math500: MATH-500 is part of MATH's test).
    """
    excluded = _questions_of(minus)
    table = records(
        file=file,
        hub=hub,
        split=split,
        question="problem",
        thinking="solution",
        reference="solution",
        reference_boxed=True,
        domain="type",
        extra=("level",),
    )
    for example in table:
        if plain(example.question) in excluded:
            continue
        example.source = "math"
        example.answer = f"\\boxed{{{example.reference}}}" if example.reference else ""
        yield example


def mini(
    *,
    part: str = "pool",
    per_step: Sequence[int] = (),
    kinds: Mapping[str, float] | None = None,
    more_checks: float = 0.0,
    missing: float = 0.0,
    worked: bool = False,
    twice: float = 0.0,
    seed: int = 0,
) -> Iterator[Example]:
    """Chains of one-digit operations modulo 100 with traces: the mini study, see hpc/data/mini.py.

    Args:
        part: whose problems: test, pool or base; no problem is in two of them.
        per_step: number of problems of 1, 2, 3, ... steps.
        kinds: share of traces: plain, slip, check, repair.
        more_checks: chance of one more check after each, up to 3.
        missing: share of examples without a trace.
        worked: a worked answer instead of thinking and answer.
        twice: share of worked answers with the chain written a second time.
        seed: of the problems and traces (part of what this source is, not a seed of the stage).
    """
    return chains.examples(
        part=part,
        per_step=per_step,
        seed=seed,
        kinds=kinds or {"plain": 1.0},
        more_checks=more_checks,
        missing=missing,
        worked=worked,
        twice=twice,
    )


def _rows(file: str, hub: str, subset: str, split: str) -> Iterable[dict[str, Any]]:
    path = names.local_file(file) if file else None
    if path is not None:
        return _read(path)
    if hub:
        return _fetch(hub, subset, split, file)
    raise StageError(
        f"the data file {file or '(none named)'} is not there",
        where="data.source",
        why=f"looked at {file or '-'} and in HPC_DATA_DIR={os.environ.get('HPC_DATA_DIR', '(unset)')}; "
            "no hub data set is named",
        next="set HPC_DATA_DIR to the folder that holds the file, or name a hub data set with `hub: org/name`",
    )  # fmt: skip


def _read(path: Path) -> Iterable[dict[str, Any]]:
    if path.name.endswith(".parquet"):
        import pandas

        return [{str(k): v for k, v in row.items()} for row in pandas.read_parquet(path).to_dict("records")]
    if path.name.endswith((".jsonl", ".ndjson")):
        return read_jsonl(path)
    if path.name.endswith(".jsonl.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    whole = json.loads(path.read_text(encoding="utf-8"))
    return whole if isinstance(whole, list) else list(whole.values())


def _fetch(hub: str, subset: str, split: str, file: str) -> Iterable[dict[str, Any]]:
    """A data set of the hub: as fetched, at the commit that is in the key; only where it is not, over the network.

    `datasets` without network looks into its own cache of converted tables alone, not at the files that were fetched.
    """
    import datasets

    name, _, revision = hub.partition("@")
    commit = names.commit("datasets", hub)
    fetched = names.hub_cache() / f"datasets--{name.replace('/', '--')}" / "snapshots" / commit
    try:
        if fetched.is_dir():
            table = datasets.load_dataset(str(fetched), subset or None, split=split)
        else:
            table = datasets.load_dataset(name, subset or None, split=split, revision=revision or None)
    except (OSError, ValueError, RuntimeError) as error:  # `datasets` raises these for no network, no cache, no access
        raise StageError(
            f"the data set {hub} could not be loaded",
            where="data.source",
            why=f"file {file or '(none named)'} is not in HPC_DATA_DIR={os.environ.get('HPC_DATA_DIR', '(unset)')}; "
                f"hub: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            next=f"hpc fetch where there is a network, or put the data into HPC_DATA_DIR and set `file:` for {name}",
        ) from None  # fmt: skip
    rows: Iterable[dict[str, Any]] = table
    return rows


def _text(row: Mapping[str, Any], column: str, origin: str) -> str:
    value = _walk(row, column, origin) if column else ""
    if value is None:
        return ""
    if not isinstance(value, str) and isinstance(value, Iterable):
        return "\n".join(str(v) for v in value).strip()  # s1 keeps a trace as a list of pieces
    return str(value)


def _walk(row: Mapping[str, Any], column: str, origin: str) -> Any:
    value: Any = row
    for step in [column] if column in row else column.split("."):
        try:
            value = value[int(step) if step.isdigit() else step]
        except (KeyError, IndexError, TypeError):
            raise StageError(
                f'no column "{column}" in {origin}',
                where="data.source",
                why=f"columns: {', '.join(map(str, row))}",
                next="map our fields to its columns: question, thinking, answer, reference",
            ) from None
    return value


def _match(text: str, pattern: str) -> str:
    found = re.search(pattern, text, re.DOTALL) if pattern else None
    return found[1].strip() if found else text


def _questions_of(tasks: Any) -> set[str]:
    if not tasks:
        return set()
    from hpc.evals.tasks import load_questions

    resolved = [names.task(task, "data.source.minus") for task in (tasks if isinstance(tasks, list) else [tasks])]
    return {plain(question.question) for task in resolved for question in load_questions(task)}
