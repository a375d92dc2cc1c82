"""What the model reads and what it learns to write: delimiters, mask, end of turn, overlong examples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hpc.errors import StageError
from hpc.formats import read_format
from hpc.records import Example
from hpc.train import text

S1_FORM = {
    "system": None,
    "thinking_start": "<|im_start|>think\n",
    "thinking_end": "\n<|im_start|>answer\n",
    "thinking_stop": ["<|im_start|>"],
    "answer_prefix": "Answer: ",
    "end": "<|im_end|>",
}
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
S1_TEXT = """<|im_start|>system
You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>
<|im_start|>user
What is 6 x 7?<|im_end|>
<|im_start|>assistant
<|im_start|>think
Six sevens.
That is 42.
<|im_start|>answer
Answer: It is 42.<|im_end|>"""


@pytest.fixture(scope="module")
def qwen() -> Any:
    folder = Path(os.environ.get("HPC_DATA_DIR", "")) / "tokenizer_qwen"
    if not os.environ.get("HPC_DATA_DIR") or not folder.is_dir():
        pytest.skip("needs $HPC_DATA_DIR/tokenizer_qwen, a Qwen2.5 tokenizer")
    pytest.importorskip("transformers", reason="training extra not installed")
    return text.load_tokenizer(text.ModelReference(str(folder)))


def example(**changes: str) -> Example:
    fields = {
        "id": "1",
        "question": "What is 6 x 7?",
        "thinking": "Six sevens.\nThat is 42.\n",
        "answer": "It is 42.",
        "source": "test",
        **changes,
    }
    return Example(**fields)


def render(
    tokenizer: Any, *examples: Example, form: dict[str, Any] = S1_FORM, max_tokens: int = 4096, overlong: Any = "cut"
) -> tuple[list[text.Rendered], dict[str, int]]:
    return text.render_all(examples, tokenizer, read_format(form, "test"), max_tokens=max_tokens, overlong=overlong)


def test_s1_text_is_byte_for_byte_that_of_its_training_set(qwen: Any) -> None:
    (row,), _ = render(qwen, example(), form={**S1_FORM, "system": QWEN_SYSTEM})
    assert qwen.decode(row.ids) == S1_TEXT
    assert row.ids == qwen(S1_TEXT)["input_ids"]


def test_loss_covers_everything_after_the_assistant_header_and_the_end_of_turn(qwen: Any) -> None:
    (row,), _ = render(qwen, example(), form={**S1_FORM, "system": QWEN_SYSTEM})
    head, trained = S1_TEXT.split("<|im_start|>assistant\n")
    assert qwen.decode(row.ids[: row.prompt_tokens]) == head + "<|im_start|>assistant\n"
    assert qwen.decode(row.ids[row.prompt_tokens :]) == trained
    assert row.ids[-1] == qwen.convert_tokens_to_ids("<|im_end|>")


def test_white_space_around_a_question_is_not_trained_on_as_no_task_asks_with_it(qwen: Any) -> None:
    (plain, padded), _ = render(qwen, example(), example(question="\n What is 6 x 7? \n"))
    assert padded.ids == plain.ids


def test_answer_that_says_answer_gets_no_second_prefix(qwen: Any) -> None:
    (row,), _ = render(qwen, example(answer="The Answer: 42"))
    assert qwen.decode(row.ids).endswith("<|im_start|>answer\nThe Answer: 42<|im_end|>")


def test_format_without_thinking_trains_the_answer_and_the_tokenizers_own_end(qwen: Any) -> None:
    (row,), _ = render(qwen, example(), form={"thinking_start": None, "end": None})
    assert qwen.decode(row.ids[row.prompt_tokens :]) == "It is 42.<|im_end|>"


def test_overlong_examples_are_cut_and_counted(qwen: Any) -> None:
    rows, counts = render(qwen, example(), example(id="2", thinking="word " * 500), max_tokens=60)
    assert [len(row.ids) for row in rows][1] == 60
    assert counts == {"examples": 2, "cut": 1, "dropped": 0}


def test_overlong_examples_are_dropped_and_counted(qwen: Any) -> None:
    rows, counts = render(qwen, example(), example(id="2", thinking="word " * 500), max_tokens=60, overlong="drop")
    assert [row.id for row in rows] == ["1"]
    assert counts == {"examples": 1, "cut": 0, "dropped": 1}


def test_prompt_that_fills_the_limit_is_dropped_even_when_cutting(qwen: Any) -> None:
    rows, counts = render(qwen, example(), example(id="2", question="word " * 500), max_tokens=60)
    assert [row.id for row in rows] == ["1"]
    assert counts["dropped"] == 1


def test_nothing_left_to_train_on_is_an_error_with_numbers(qwen: Any) -> None:
    with pytest.raises(StageError) as caught:
        render(qwen, example(), max_tokens=5, overlong="drop")
    assert "max_tokens is 5" in caught.value.why and "train.max_tokens" in caught.value.next


def test_model_reference_finds_the_model_in_an_artifact_and_the_revision_of_a_hub_name(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert text.model_reference(tmp_path).name == str(tmp_path / "model")
    assert text.model_reference("Qwen/Qwen2.5-7B@abc") == text.ModelReference("Qwen/Qwen2.5-7B", "abc")
