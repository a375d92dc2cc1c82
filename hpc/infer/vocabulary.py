"""A model's tokenizer as the engines use it: ids and texts, special tokens kept, stops found across tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hpc.errors import StageError


class Vocabulary:
    """Encode and decode without any clean-up; `eos_ids` are the ids that end a turn.

    Args:
        tokenizer: a transformers tokenizer.
        eos_ids: further ids that end a turn (from the model's generation_config.json).
    """

    def __init__(self, tokenizer: Any, eos_ids: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self.eos_ids = frozenset([*own, *eos_ids])
        self._pieces: dict[int, str] = {}

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone, nothing added; special tokens written in the text become their ids."""
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens included."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def piece(self, token: int) -> str:
        """Text of one id (remembered: it is asked for at every step)."""
        if token not in self._pieces:
            self._pieces[token] = self.decode([token])
        return self._pieces[token]

    @cached_property
    def added(self) -> frozenset[int]:
        """Ids of added tokens: in text, these are always exactly one token."""
        return frozenset(int(i) for i in self.tokenizer.get_added_vocab().values())

    def stops(self, texts: Iterable[str]) -> tuple[frozenset[int], tuple[str, ...]]:
        """Split stop texts into ids (added tokens) and texts that any run of tokens may spell.

        Blank space around a text does not belong to the stop: models vary it.
        """
        ids, spelled = set(), []
        for text in (t.strip() for t in texts):
            encoded = self.encode(text)
            if len(encoded) == 1 and encoded[0] in self.added:
                ids.add(encoded[0])
            elif text:
                spelled.append(text)
        return frozenset(ids), tuple(spelled)

    def turn_ends(self, text: str | None) -> tuple[frozenset[int], tuple[str, ...]]:
        """Stops that end a turn: the model's own, and the last token of the format's end text (or the whole text)."""
        ids = self.encode((text or "").strip())
        if ids and ids[-1] in self.added:
            return self.eos_ids | {ids[-1]}, ()
        return self.eos_ids, self.stops([text or ""])[1]

    def find(self, ids: Sequence[int], texts: Sequence[str]) -> tuple[int, int, str] | None:
        """The first of `texts` to occur in `ids`: (tokens wholly before it, tokens up to its end, the text).

        A token that straddles the start of the text counts as part of it.
        """
        whole = self.decode(ids)
        hits = [(whole.find(text), text) for text in texts if text in whole]
        if not hits:
            return None
        position, text = min(hits, key=lambda hit: (hit[0], -len(hit[1])))
        start = self.tokens_within(ids, position)
        end = self.tokens_within(ids, position + len(text) - 1) + 1
        return start, min(end, len(ids)), text

    def tokens_within(self, ids: Sequence[int], characters: int) -> int:
        """How many leading tokens decode to at most `characters` characters (bisection)."""
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(self.decode(ids[:middle])) <= characters else (low, middle - 1)
        return low

    def stop_text(self, ids: Sequence[int], texts: Sequence[str]) -> str:
        """The stop text that the last token of `ids` completes, or "". Cheap enough for every step."""
        last = self.piece(ids[-1])
        for text in texts:
            if not text[-1].isascii() or text[-1] in last:
                window = self.decode(ids[-(len(text.encode()) + 1) :])
                if text in window:
                    return text
        return ""


def split_reference(model: str) -> tuple[str, str | None]:
    """A folder as it is, or a hub reference `org/name@revision` as (name, revision)."""
    name, _, revision = model.partition("@")
    return (model, None) if Path(model).exists() else (name, revision or None)


def open_vocabulary(model: str) -> Vocabulary:
    """The tokenizer of a model folder or hub reference, with the end ids of its generation_config.json.

    Raises:
        StageError: there is no model at that place.
    """
    from transformers import AutoTokenizer, GenerationConfig

    name, revision = split_reference(model)
    check_model(model)
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    try:
        ends = GenerationConfig.from_pretrained(name, revision=revision).eos_token_id
    except OSError:  # a model need not have the file
        ends = None
    return Vocabulary(tokenizer, ends if isinstance(ends, list) else [] if ends is None else [ends])


def check_model(model: str) -> None:
    """Raise StageError if `model` is a local path without a config.json in it."""
    path = Path(model)
    if (path.is_absolute() or path.exists()) and not (path / "config.json").exists():
        raise StageError(
            "there is no model to generate with",
            where=str(path),
            why="the folder has no config.json",
            next="set `model` to a folder in Hugging Face format, org/name@revision or run:RECIPE",
        )


def count_parameters(model: str) -> int:
    """Parameters of a model by its config.json alone (no weights are read); tied weights count once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    name, revision = split_reference(model)
    config = AutoConfig.from_pretrained(name, revision=revision)
    with torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(config).num_parameters())
