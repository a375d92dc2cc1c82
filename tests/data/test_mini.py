"""The mini study's problems and traces: every number in them is recomputed here by other means."""

import random
import re
from pathlib import Path

import pytest

from hpc.data import mini, sources
from hpc.errors import StageError

SHIPPED = Path(__file__).parents[2] / "recipes" / "mini_model"


def evaluate(words: list[str], value: int) -> int:
    """Plain arithmetic from left to right, reduced once at the end."""
    for op, operand in zip(words[0::2], words[1::2], strict=True):
        value = {"+": value + int(operand), "-": value - int(operand), "*": value * int(operand)}[op]
    return value % 100


def unlabelled(text: str) -> str:
    return re.sub(r" [a-j](?= )", "", text)


def expected(question: str) -> int:
    words = unlabelled(question).removeprefix("mod 100: ").split()
    return evaluate(words[1:], int(words[0]))


def wrong_steps(trace: str) -> int:
    """Number of written steps 'a op b = c' whose c is wrong."""
    steps = re.findall(r"(?=\b(\d+) ([-+*]) (\d) = (\d+))", unlabelled(trace))
    return sum(evaluate([op, b], int(a)) != int(c) for a, op, b, c in steps)


@pytest.fixture(scope="module")
def pool():
    return sources.load("mini_pool")


def test_reference_and_answer_are_what_plain_arithmetic_gives(pool):
    for example in pool:
        assert example.reference == str(expected(example.question))
        assert example.answer == f"Answer: {example.reference}"


def test_every_trace_ends_in_the_right_value(pool):
    for example in pool:
        if example.thinking:
            assert example.thinking.split()[-1] == example.reference, example


def test_plain_and_check_traces_hold_no_wrong_step_and_the_others_exactly_one(pool):
    for example in pool:
        if example.thinking:
            slipped = example.extra["kind"] in ("slip", "repair")
            assert wrong_steps(example.thinking) == int(slipped), example


def test_a_slip_is_followed_at_once_by_wait_and_the_right_step():
    chain = mini.parse("mod 100: 4 a + 7 b * 3 c - 2")
    text = mini.derivation(chain, slip_at=1, noticed=True, offset=10)
    assert text == "4 a + 7 = 11 b * 3 = 43 Wait 11 b * 3 = 33 c - 2 = 31"


def test_a_repair_carries_its_slip_to_the_end_and_derives_the_chain_again():
    text = mini.trace(mini.parse("mod 100: 4 a + 7 b * 3 c - 2"), "repair", random.Random(0))
    first, second = text.split(" Wait ")
    assert second == "4 a + 7 = 11 b * 3 = 33 c - 2 = 31"
    assert first.split()[-1] != "31"


def test_no_question_is_in_two_of_test_pool_and_base(pool):
    test, base = ({e.question for e in sources.load(name)} for name in ("mini_test", "mini_worked"))
    traces = {e.question for e in pool}
    assert len(test) == 400 and len(traces) == len(pool) == 2970
    assert len(base) > 19_000
    assert test.isdisjoint(traces | base) and traces.isdisjoint(base)


def test_other_seeds_and_sizes_cannot_bring_a_test_question_into_training():
    def drawn(part):
        return {c.question for seed in range(3) for c in mini.chains(part=part, per_step=[100, 500], seed=seed)}

    test, pool, base = drawn("test"), drawn("pool"), drawn("base")
    assert test and pool and base
    assert test.isdisjoint(pool | base) and pool.isdisjoint(base)


def test_a_wrong_part_is_named():
    with pytest.raises(StageError, match="train"):
        list(sources.mini(part="train", per_step=[1]))


def test_worked_answers_have_no_thinking_and_state_the_answer():
    example = next(iter(sources.mini(per_step=[0, 1], worked=True)))
    assert example.thinking == ""
    assert re.fullmatch(r"\d+( [-+*] \d = \d+){2}; Answer: \d+", unlabelled(example.answer))


def test_a_chain_that_is_written_twice_is_written_equally():
    for example in sources.mini(per_step=[0, 0, 20], worked=True, twice=1.0):
        first, second, final = example.answer.split("; ")
        assert first == second and final == f"Answer: {example.reference}"


def test_the_domain_of_a_problem_is_its_number_of_steps(pool):
    assert mini.parse("mod 100: 4 a * 7 b + 3 c * 1").domain == "3 steps"
    assert len({e.domain for e in pool}) == 10


def test_every_word_of_the_pool_is_one_token_of_the_shipped_tokenizer(pool):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(SHIPPED)
    for example in pool[::50]:
        ids = tokenizer(example.thinking).input_ids
        assert len(ids) == len(example.thinking.split())
        assert tokenizer(tokenizer.decode(ids)).input_ids == ids


def test_numbers_survive_words_that_touch_them():
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(SHIPPED)
    text = "<think>4 + 7 = 11Wait4</think>Answer: 33<|im_end|>"
    words = ["<think>", "4", "+", "7", "=", "11", "Wait", "4", "</think>", "Answer", ":", "33", "<|im_end|>"]
    assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) == words


def test_the_shipped_tokenizer_is_what_the_generator_writes(tmp_path):
    pytest.importorskip("transformers")
    mini.write_model(tmp_path)
    for name in ("tokenizer.json", "config.json"):
        assert (tmp_path / name).read_bytes() == (SHIPPED / name).read_bytes()
