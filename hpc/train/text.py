"""From an example to token ids and a loss mask: chat template, format file, end of turn (s1 appendix D, Sky-T1 4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hpc import files
from hpc.errors import StageError
from hpc.formats import Format, completion_text, prompt_text
from hpc.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ModelReference:
    """A model folder, or a repository on the hub at a revision."""

    name: str
    revision: str | None = None


@dataclass(frozen=True)
class Rendered:
    """A tokenized example: the first `prompt_tokens` ids are read, the rest is trained."""

    id: str
    ids: list[int]
    prompt_tokens: int

    @property
    def trained_tokens(self) -> int:
        """Tokens that carry loss; the first token of a document has nothing before it to be predicted from."""
        return len(self.ids) - max(self.prompt_tokens, 1)


def model_reference(model: Path | str) -> ModelReference:
    """A folder (a train artifact's model is in its model/) or 'org/name@revision' as from_pretrained takes it."""
    if isinstance(model, Path):
        inner = model / "model"
        return ModelReference(str(inner if (inner / "config.json").exists() else model))
    name, _, revision = model.partition("@")
    return ModelReference(name, revision or None)


def load_tokenizer(model: ModelReference) -> PreTrainedTokenizerBase:
    """The model's own tokenizer; a chat template is required.

    Raises:
        StageError: there is no tokenizer, or it has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.name, revision=model.revision)
    except OSError as error:
        raise StageError(
            "the model's tokenizer cannot be loaded",
            where=model.name,
            why=str(error).splitlines()[0],
            next="check the folder or the hub name; a hub model is fetched beforehand where nodes have no network",
        ) from error
    if not tokenizer.chat_template:
        raise StageError(
            "the model's tokenizer has no chat template",
            where=model.name,
            why="the prompt of every example is rendered by it",
            next="choose an instruct model, or put a chat_template.jinja into the model folder",
        )
    return tokenizer


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a data artifact, in file order."""
    for row in files.read_jsonl(path):
        yield Example(**row)


def render_all(
    examples: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    form: Format,
    *,
    max_tokens: int,
    overlong: Literal["drop", "cut"],
) -> tuple[list[Rendered], dict[str, int]]:
    """All examples as token ids, and what became of them: {examples, cut, dropped}.

    Prompt and completion are tokenized apart, so that the boundary between them is the one at which generation starts.
    An example above `max_tokens` loses its end (`cut`) or is left out (`drop`); one whose prompt alone fills
    `max_tokens` has nothing to train and is always left out.

    Raises:
        StageError: nothing is left to train on.
    """
    listed = list(examples)
    end = form.end or str(tokenizer.eos_token)
    opened = [prompt_text(tokenizer, e.question.strip(), form) for e in listed]  # as hpc.evals.tasks asks
    prompts = _tokenize(tokenizer, [text for text, _ in opened])
    completions = [start + completion_text(form, e, end) for (_, start), e in zip(opened, listed, strict=True)]
    rows, num_cut, longest = [], 0, 0
    for example, prompt, completion in zip(listed, prompts, _tokenize(tokenizer, completions), strict=True):
        ids = prompt + completion
        longest = max(longest, len(ids))
        if len(ids) > max_tokens and (overlong == "drop" or len(prompt) >= max_tokens):
            continue
        num_cut += len(ids) > max_tokens
        rows.append(Rendered(example.id, ids[:max_tokens], len(prompt)))
    if not rows:
        raise _nothing(len(listed), longest, max_tokens)
    return rows, {"examples": len(rows), "cut": num_cut, "dropped": len(listed) - len(rows)}


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return ids


def _nothing(num_examples: int, longest: int, max_tokens: int) -> StageError:
    return StageError(
        "no example is left to train on",
        where="train.max_tokens and train.overlong",
        why=f"{num_examples} examples, the longest has {longest} tokens, max_tokens is {max_tokens}",
        next="raise train.max_tokens, or set train.overlong=cut",
    )
