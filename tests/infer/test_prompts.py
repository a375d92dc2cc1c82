"""Prompts are token ids of the chat template with a fixed date; formats are checked; stops are found across tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import hpc
from hpc.errors import StageError
from hpc.formats import Format, prompt_text, read_format
from hpc.infer.prompts import prompt_ids

FORMATS = Path(hpc.__file__).parent / "formats"
THINK = Format(
    thinking_start="<|im_start|>think\n",
    thinking_stop=["<|im_start|>"],
    answer_start="<|im_start|>answer\n",
    answer_start_cut="\n<|im_start|>answer\nFinal Answer:",
)


@pytest.mark.parametrize("file", sorted(FORMATS.glob("*.yaml")), ids=lambda f: f.stem)
def test_shipped_formats_open_the_answer_with_their_own_marker(file: Path) -> None:
    form = read_format(yaml.safe_load(file.read_text()), file.stem)
    if form.thinking_start is None:
        return
    assert form.about and any(form.answer_start.startswith(stop.strip()) for stop in form.thinking_stop)
    assert form.answer_start.strip() in form.thinking_end and form.answer_start.strip() in form.answer_start_cut


def test_s1_prompt_is_the_papers_text_and_one_id_per_special_token(vocabulary: Any) -> None:
    ids = prompt_ids(vocabulary, "2+2?", THINK)
    assert vocabulary.decode(ids) == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n<|im_start|>think\n"
    assert ids.count(vocabulary.encode("<|im_start|>")[0]) == 3


def test_system_prompt_comes_first(vocabulary: Any) -> None:
    text, start = prompt_text(vocabulary.tokenizer, "q", Format(system="be brief"))
    assert start == ""
    assert text.startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nq")


def test_template_that_opens_thinking_is_not_given_a_second_start(vocabulary: Any, monkeypatch: Any) -> None:
    template = vocabulary.tokenizer.chat_template.replace("assistant\n{%", "assistant\n<think>\n{%")
    monkeypatch.setattr(vocabulary.tokenizer, "chat_template", template)
    form = Format(thinking_start="<think>\n", thinking_stop=["</think>"])
    assert "".join(prompt_text(vocabulary.tokenizer, "q", form)).count("<think>") == 1


def test_date_in_a_template_is_fixed(vocabulary: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(vocabulary.tokenizer, "chat_template", "{{ date_string }}|{{ strftime_now('%Y-%m-%d') }}")
    assert prompt_text(vocabulary.tokenizer, "q", Format())[0] == "26 Jul 2024|2024-07-26"


def test_base_model_without_a_template_sees_the_bare_prompt(vocabulary: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(vocabulary.tokenizer, "chat_template", None)
    assert vocabulary.decode(prompt_ids(vocabulary, "2+2=", Format())) == "2+2="


def test_unknown_key_and_endless_thinking_are_refused() -> None:
    with pytest.raises(StageError, match="thinking_stopp"):
        read_format({"thinking_stopp": []}, "mine")
    with pytest.raises(StageError, match="nothing ends it"):
        read_format({"thinking_start": "<think>"}, "mine")


def test_stops_are_ids_only_where_text_cannot_spell_them_otherwise(vocabulary: Any) -> None:
    ids, texts = vocabulary.stops(["<|im_start|>", "a", "<|end_of_thought|>\n"])
    assert [vocabulary.piece(i) for i in ids] == ["<|im_start|>"]
    assert texts == ("a", "<|end_of_thought|>")


def test_text_is_found_at_token_borders(vocabulary: Any) -> None:
    ids = vocabulary.encode("éé</think>ab</think>")
    assert vocabulary.find(ids, ["ab", "</think>"]) == (4, 5, "</think>")
    assert vocabulary.find(ids, ["b<"])[:2] == (6, 8)
    assert vocabulary.find(ids, ["zz"]) is None
