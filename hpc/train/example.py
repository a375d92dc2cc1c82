"""One training example as the model sees it, with its mask: where the loss begins, where it ends, and what is cut off.

    hpc show s1_32b --example 0

Text, template and mask come from the same functions as in training (hpc/train/text.py). The data and the tokenizer must
be at hand; no weights, no torch, no network.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc import artifact
from hpc.errors import StageError
from hpc.formats import Format, read_format
from hpc.plan import hub
from hpc.plan.graph import Graph, Input, Stage
from hpc.recipe import names
from hpc.recipe.sweep import Sweep
from hpc.records import Example
from hpc.train import text

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

WHOLE = sys.maxsize


@dataclass(frozen=True)
class View:
    """An example in three pieces.

    Attributes:
        where: what it is an example of.
        prompt: read, without loss; trained: with loss; cut: beyond max_tokens.
        end: the text that ends a turn.
        notes: what is otherwise in training.
    """

    id: str
    where: str
    prompt: str
    trained: str
    cut: str
    prompt_tokens: int
    trained_tokens: int
    cut_tokens: int
    max_tokens: int
    end: str
    notes: tuple[str, ...]


def view(sweep: Sweep, number: int, roots: Sequence[Path]) -> View:
    """Example `number` (from 0) of the first run's training data: published, or straight from its source.

    Raises:
        StageError: nothing is trained, data or tokenizer are not at hand, or there are fewer examples.
    """
    run = sweep.runs[0]
    graph = Graph()
    keys = graph.add(run.base, run.recipe, run.seeds, sweep.path)
    if keys.data is None or keys.train is None:
        raise StageError(
            "nothing is trained here",
            where=sweep.path,
            why=f"{'data' if keys.data is None else 'train'}: null",
            next="name a recipe that trains a model",
        )
    stage, data = graph.stages[keys.train], graph.stages[keys.data]
    model = _origin(stage.inputs["model"], graph, roots)
    published = artifact.find(roots, "data", keys.data)
    _check_here(model, None if published else data, sweep)
    examples, where, notes = _published(published) if published else _source(data, roots, sweep)
    form = read_format(**stage.what["format"])
    tokenizer = text.load_tokenizer(_reference(model))
    return _cut(_pick(examples, number, where), where, notes, tokenizer, form, stage)


def show(found: View, console: Console) -> None:
    """Colours on a terminal; marked sections elsewhere."""
    from rich.text import Text

    parts = {"prompt": found.prompt, "trained": found.trained, "cut": found.cut}
    counts = {"prompt": found.prompt_tokens, "trained": found.trained_tokens, "cut": found.cut_tokens}
    said = {"prompt": "read, no loss", "trained": "loss", "cut": f"cut off at max_tokens {found.max_tokens:,}"}
    styles = {"prompt": "dim", "trained": "green", "cut": "red strike"}
    plain = not console.is_terminal
    console.print(Text(f"{found.id}, {found.where}"))
    for name in (n for n in parts if counts[n]):
        console.print(Text(f"{name}: {counts[name]:,} tokens ({said[name]})", style=styles[name]))
    for line in (_ending(found), *found.notes):
        console.print(Text(line), soft_wrap=True)
    console.print()
    body = Text()
    for name in (n for n in parts if counts[n]):
        body.append(f"[[{name}]]" if plain else "").append(parts[name], style=styles[name])
    if not found.cut_tokens and found.trained.endswith(found.end):
        body.stylize("bold", len(body) - len(found.end))
    console.print(body, soft_wrap=True)


def document(found: View) -> dict[str, Any]:
    """The view as plain JSON."""
    return asdict(found)


def _ending(found: View) -> str:
    if found.cut_tokens:
        return f"the end of the turn, {found.end}, is cut off with the rest"
    return f"the end of the turn, {found.end}, is trained"


def _origin(model: Input, graph: Graph, roots: Sequence[Path]) -> Input:
    """The model whose tokenizer this is: the one that is trained, or the one that it will be trained from."""
    while "key" in model:
        folder = artifact.find(roots, model["stage"], model["key"])
        if folder is not None:
            return {"path": str(folder)}
        model = graph.stages[model["key"]].inputs["model"]
    return model


def _reference(model: Input) -> text.ModelReference:
    return text.model_reference(Path(model["path"]) if "path" in model else model["ref"])


def _check_here(model: Input, data: Stage | None, sweep: Sweep) -> None:
    """Raise if tokenizer or data would have to be downloaded: `show` reads, it does not fetch."""
    what = {"parts": [part["source"] for part in _parts(data)]} if data else {}
    asked = {"key": "", "stage": "data", "inputs": {"tokenizer": model}, "what": what}
    missing = hub.missing({"jobs": [{"stages": [""]}], "stages": [asked]})
    if missing or find_spec("transformers") is None:
        raise StageError(
            "the example cannot be shown: something is not at hand",
            where=sweep.path,
            why="; ".join(missing) or "the package transformers, which tokenizes, is not installed",
            next=f"hpc fetch {sweep.path}" if missing else "pip install transformers (torch is not needed for this)",
        )


def _published(folder: Path) -> tuple[Iterable[Example], str, list[str]]:
    return text.read_examples(folder / "examples.jsonl"), f"of the published data in {folder}", []


def _source(data: Stage, roots: Sequence[Path], sweep: Sweep) -> tuple[Iterable[Example], str, list[str]]:
    """The examples of the sources in their own order."""
    from hpc.data import registry

    found = {name: artifact.find(roots, i["stage"], i["key"]) for name, i in data.inputs.items() if "key" in i}
    inputs: dict[str, Path | str] = {name: folder for name, folder in found.items() if folder is not None}
    sources = [part["source"] for part in _parts(data)]
    for name in found:
        if name not in inputs and any(name in _words(source) for source in sources):
            raise StageError(
                f"the data is made from {name}, which is not published yet",
                where=f"{sweep.path}: data.source",
                why=f"no root has it: {', '.join(map(str, roots))}",
                next=f"hpc submit {sweep.path}",
            )

    def drawn(source: Any) -> Iterable[Example]:
        if names.split(source)[0].startswith("run:"):
            return registry.load(source, inputs)
        made: Iterable[Example] = registry.make("source", source, inputs)
        return made

    note = "straight from the source, in its own order: not yet filtered, selected, or freed from duplicates"
    return chain.from_iterable(map(drawn, sources)), f"of {', '.join(map(_title, sources))}", [note]


def _title(source: Any) -> str:
    name, arguments = names.split(source)
    local = names.local_file(str(arguments["file"])) if arguments.get("file") else None
    return str(local or arguments.get("hub") or name)


def _parts(data: Stage) -> list[dict[str, Any]]:
    mix = data.config.get("mix") or {}
    return [mix[name] for name in sorted(mix)] or [data.config]


def _words(value: Any) -> Iterator[str]:
    """Every text in a source and its arguments."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        yield from (word for inner in value for word in _words(inner))
    elif isinstance(value, str):
        yield value


def _pick(examples: Iterable[Example], number: int, where: str) -> Example:
    count = 0
    for example in examples:
        if count == number:
            return example
        count += 1
    raise StageError(
        f"there is no example {number}",
        where=where,
        why=f"it has {count} examples, numbered from 0",
        next=f"--example {count - 1} shows the last one" if count else "look at its source: it is empty",
    )


def _cut(
    example: Example,
    where: str,
    notes: list[str],
    tokenizer: PreTrainedTokenizerBase,
    form: Format,
    stage: Stage,
) -> View:
    """The example rendered whole, and taken apart where training begins to train, and where it ends to read."""
    (row,), _ = text.render_all([example], tokenizer, form, max_tokens=WHOLE, overlong="cut")
    most, overlong = stage.config["max_tokens"], stage.config["overlong"]
    if len(row.ids) > most and (overlong == "drop" or row.prompt_tokens >= most):
        why = "overlong: drop" if overlong == "drop" else "its prompt alone fills them"
        notes = [*notes, f"it is dropped, not trained: more than max_tokens {most:,} tokens ({why})"]
    begin, stop = row.prompt_tokens, max(row.prompt_tokens, min(most, len(row.ids)))

    def words(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    return View(
        id=example.id,
        where=where,
        prompt=words(row.ids[:begin]),
        trained=words(row.ids[begin:stop]),
        cut=words(row.ids[stop:]),
        prompt_tokens=begin,
        trained_tokens=stop - begin,
        cut_tokens=len(row.ids) - stop,
        max_tokens=most,
        end=form.end or str(tokenizer.eos_token),
        notes=tuple(notes),
    )
