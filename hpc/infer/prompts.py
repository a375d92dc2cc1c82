"""Prompts as token ids, encoded as training encoded them."""

from __future__ import annotations

from hpc.formats import Format, prompt_text
from hpc.infer.vocabulary import Vocabulary


def prompt_ids(words: Vocabulary, prompt: str, form: Format) -> list[int]:
    """Token ids of both parts of `prompt_text`, encoded apart: so they were in training.

    Templates write their own first token (BOS); a bare prompt gets the tokenizer's.
    """
    text, start = prompt_text(words.tokenizer, prompt, form)
    bare = not words.tokenizer.chat_template
    return [*words.tokenizer.encode(text, add_special_tokens=bare), *words.encode(start)]
