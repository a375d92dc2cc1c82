"""Text formats of thinking and answer: NAME.yaml in this folder, read here for training and generation alike."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from hpc.errors import StageError, nearest
from hpc.records import Example

TODAY = datetime(2024, 7, 26)
"""The date that chat templates print: fixed, or a prompt (and its result) would change with the calendar day."""


@dataclass(frozen=True)
class Format:
    """Text of thinking and answer; null `thinking_start` means that the whole completion is the answer.

    Attributes:
        system: system prompt; null keeps the chat template's own.
        thinking_start: put after the generation prompt.
        thinking_end: between thinking and answer in training text.
        thinking_stop: generated texts that end thinking.
        answer_start, answer_start_cut: appended after thinking that ended by itself, or was cut.
        answer_prefix: put before an answer in training text.
        end: end-of-turn text; null takes the tokenizer's.
    """

    about: str = ""
    system: str | None = None
    thinking_start: str | None = None
    thinking_end: str = ""
    thinking_stop: list[str] = field(default_factory=list)
    answer_start: str = ""
    answer_start_cut: str = ""
    answer_prefix: str = ""
    end: str | None = None

    @property
    def opening(self) -> str:
        """The part of `answer_start_cut` that already belongs to the answer ("Final Answer:")."""
        marker = self.answer_start.strip()
        return self.answer_start_cut.partition(marker)[2].lstrip("\n") if marker else self.answer_start_cut


def read_format(text: dict[str, Any], name: str) -> Format:
    """The format from its file's content.

    Raises:
        StageError: a key that formats do not have, or thinking that nothing ends.
    """
    valid = [f.name for f in fields(Format)]
    for key in text:
        if key not in valid:
            raise StageError(
                f"format {name} has an unknown key {key}",
                where=f"format {name}",
                why=nearest(key, valid),
                next="correct the key in the format's YAML",
            )
    form = Format(**text)
    if form.thinking_start is not None and not form.thinking_stop:
        raise StageError(
            f"format {name} starts thinking but nothing ends it",
            where=f"format {name}",
            why="thinking_start is set and thinking_stop is empty",
            next="list the texts that end thinking in thinking_stop",
        )
    return form


def prompt_text(tokenizer: Any, prompt: str, form: Format) -> tuple[str, str]:
    """The chat template's text up to the model's turn, and the start of thinking that follows it ("" for none).

    A template that already opens the thinking (QwQ, later R1) is not given a second start. Without a chat template
    (base models) the prompt itself is the text.
    """
    turns = [{"role": "system", "content": form.system}] if form.system else []
    turns.append({"role": "user", "content": prompt})
    if tokenizer.chat_template:
        text = str(
            tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=True,
                date_string=TODAY.strftime("%d %b %Y"),
                strftime_now=TODAY.strftime,
            )
        )
    else:
        text = "\n\n".join(turn["content"] or "" for turn in turns)
    start = form.thinking_start or ""
    return text, "" if text.rstrip().endswith(start.strip()) else start


def completion_text(form: Format, example: Example, end: str) -> str:
    """What a model learns to write after `prompt_text`: thinking, answer, their delimiters, the turn's `end`."""
    answer = example.answer.strip()
    if form.answer_prefix.strip() not in answer:
        answer = form.answer_prefix + answer
    if form.thinking_start is None:
        return answer + end
    return f"{example.thinking.strip()}{form.thinking_end}{answer}{end}"
