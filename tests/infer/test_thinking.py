"""Budget forcing against a scripted engine: every rule of hpc.infer.thinking, and s1's seven defects by letter."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path as Folder
from typing import Any

import pytest
import yaml

import hpc
from hpc.errors import StageError
from hpc.formats import Format, read_format
from hpc.infer.engine import Completion, Request
from hpc.infer.scripted import ScriptedEngine
from hpc.infer.thinking import Path, complete, derive_seed, make_rules
from hpc.recipe.schema import Generate, Thinking

ANSWER = "<|im_start|>answer\n"
CUT = "<|im_start|>answer\nFinal Answer:"


def shipped(name: str) -> Format:
    file = Folder(hpc.__file__).parent / "formats" / f"{name}.yaml"
    return read_format(yaml.safe_load(file.read_text()), name)


def thinker(thought: str, answer: str = " 4<|im_end|>") -> Callable[[str], str]:
    """A model that always thinks `thought`, and answers once the answer has been opened."""
    return lambda prompt: answer if "answer\n" in prompt else thought


def run(
    vocabulary: Any,
    script: Callable[[str], str],
    *,
    form: str = "think_answer",
    prompt: str = "<|im_start|>think\n",
    context: int = 10_000,
    max_tokens: int = 1000,
    answer_tokens: int = 100,
    **thinking: Any,
) -> tuple[Path, ScriptedEngine]:
    engine = ScriptedEngine(vocabulary, script, context)
    settings = Generate(thinking=Thinking(**thinking), max_tokens=max_tokens, answer_tokens=answer_tokens)
    rules = make_rules(settings, shipped(form), vocabulary, context)
    path = Path(rules, vocabulary.encode(prompt), lambda part: derive_seed(0, "q", 0, part))
    complete(engine, [path])
    return path, engine


def thought(path: Path) -> str:
    return path.rules.words.decode(path.thinking)


def prompts(engine: ScriptedEngine) -> list[str]:
    return [engine.vocabulary.decode(call[0].prompt_ids) for call in engine.calls]


def test_thinking_is_cut_exactly_at_the_budget_and_gets_the_final_answer_prompt(vocabulary: Any) -> None:
    path, engine = run(vocabulary, thinker("x" * 100), max=10)
    assert (thought(path), path.thinking_finish, path.answer_finish) == ("x" * 10, "cut", "stop")
    assert path.events == [{"type": "cut", "at": 10}]
    assert prompts(engine)[1] == "<|im_start|>think\n" + "x" * 10 + "\n" + CUT
    assert path.answer_text == "Final Answer: 4"
    assert len(path.answer) == 2


def test_thinking_that_ends_by_itself_gets_no_final_answer_prompt(vocabulary: Any) -> None:
    path, engine = run(vocabulary, thinker("2+2\n<|im_start|>"), max=10)
    assert prompts(engine)[1] == "<|im_start|>think\n2+2\n" + ANSWER
    assert (path.thinking_finish, path.events, path.answer_text) == ("end", [], " 4")


def test_line_break_before_the_cut_marker_is_not_doubled(vocabulary: Any) -> None:
    _, engine = run(vocabulary, thinker("abc\nxyz"), max=4)
    assert prompts(engine)[1] == "<|im_start|>think\nabc\n" + CUT


def test_each_wait_replaces_one_end(vocabulary: Any) -> None:
    path, engine = run(vocabulary, thinker("ab<|im_start|>"), max="auto", waits=2)
    assert thought(path) == "abWaitabWaitab"
    assert path.events == [{"type": "wait", "at": 2, "tokens": 4}, {"type": "wait", "at": 8, "tokens": 4}]
    assert (path.thinking_finish, len(engine.calls)) == ("end", 4)
    assert path.policy_tokens == 3 * 3 + 3  # three thoughts with their stops, the answer with its stop; no wait


def test_budget_bounds_all_rounds_together_waits_included(vocabulary: Any) -> None:
    path, _ = run(vocabulary, thinker("abcd<|im_start|>"), max=12, waits=5)
    assert (thought(path), path.thinking_finish) == ("abcdWaitabcd", "cut")


def test_wait_that_leaves_no_room_to_think_is_not_made(vocabulary: Any) -> None:
    path, _ = run(vocabulary, thinker("abcd<|im_start|>"), max=8, waits=5)
    assert (thought(path), path.thinking_finish, path.events) == ("abcd", "end", [])


def test_ends_before_the_minimum_are_suppressed(vocabulary: Any) -> None:
    path, _ = run(vocabulary, thinker("ab<|im_start|>"), max=100, min=11)
    assert thought(path) == "abWaitabWaitab"
    assert (path.thinking_finish, len(path.events)) == ("end", 2)


def test_suppression_for_the_minimum_counts_as_a_wait(vocabulary: Any) -> None:
    path, _ = run(vocabulary, thinker("ab<|im_start|>"), max=100, min=5, waits=1)
    assert thought(path) == "abWaitab"


def test_suppressed_end_may_not_come_back_as_the_next_token(vocabulary: Any) -> None:
    path, engine = run(vocabulary, thinker("<|im_start|>ab<|im_start|>"), max=100, waits=1, wait_text="")
    assert [call[0].min_tokens for call in engine.calls] == [0, 1, 0]
    assert (thought(path), path.thinking_finish) == ("ab", "end")


def test_minimum_without_wait_text_gives_up_on_a_model_that_says_nothing(vocabulary: Any) -> None:
    path, engine = run(vocabulary, thinker("<|end_of_thought|>"), form="sky_t1", max=100, min=50, wait_text="")
    assert (thought(path), path.thinking_finish) == ("", "end")
    assert len(engine.calls) <= 3


def test_budget_of_zero_goes_straight_to_the_answer(vocabulary: Any) -> None:
    path, engine = run(vocabulary, thinker("never"), max=0)
    assert prompts(engine) == ["<|im_start|>think\n" + CUT]
    assert (path.thinking, path.thinking_finish, path.events) == ([], "cut", [{"type": "cut", "at": 0}])


def test_free_completion_is_one_call_and_is_split_at_the_marker(vocabulary: Any) -> None:
    path, engine = run(vocabulary, lambda _: "2+2\n<|im_start|>answer\nAnswer: 4<|im_end|>", max=None)
    assert len(engine.calls) == 1
    assert (thought(path), path.answer_text) == ("2+2\n", "Answer: 4")
    assert (len(path.thinking), len(path.marker), len(path.answer)) == (4, 8, 9)
    assert (path.thinking_finish, path.answer_finish, path.events) == ("end", "stop", [])


@pytest.mark.parametrize(("text", "finish"), [("abc<|im_end|>", ("end", "stop")), ("x" * 99, ("length", "length"))])
def test_free_completion_without_a_marker_has_no_answer(vocabulary: Any, text: str, finish: tuple[str, str]) -> None:
    path, _ = run(vocabulary, lambda _: text, max=None, max_tokens=50)
    assert (path.answer_text, path.answer) == ("", [])
    assert (path.thinking_finish, path.answer_finish) == finish


def test_null_budget_with_waits_prolongs_but_never_cuts(vocabulary: Any) -> None:
    path, _ = run(vocabulary, thinker("ab<|im_start|>"), max=None, waits=1)
    assert (thought(path), path.thinking_finish) == ("abWaitab", "end")
    path, engine = run(vocabulary, thinker("x" * 500), max=None, waits=1, max_tokens=20)
    assert (len(path.thinking), path.thinking_finish, path.answer_finish) == (20, "length", "length")
    assert len(engine.calls) == 1


def test_end_of_turn_inside_thinking_ends_it(vocabulary: Any) -> None:
    path, engine = run(vocabulary, thinker("ab<|im_end|>"), max=10)
    assert prompts(engine)[1].endswith("ab" + ANSWER)
    assert path.thinking_finish == "end"


def test_format_without_thinking_is_all_answer(vocabulary: Any) -> None:
    path, engine = run(vocabulary, lambda _: "it is 4<|im_end|>", form="plain", prompt="2+2?")
    assert (path.answer_text, path.thinking_finish, path.thinking) == ("it is 4", "none", [])
    assert len(engine.calls) == 1


def test_markers_of_several_tokens_end_thinking(vocabulary: Any) -> None:
    def script(prompt: str) -> str:
        return "4\n\n<|end_of_solution|><|endoftext|>" if "begin_of_solution" in prompt else "ab\n\n<|end_of_thought|>c"

    path, engine = run(vocabulary, script, form="sky_t1", prompt="<|begin_of_thought|>\n\n", max=90, waits=1)
    assert thought(path) == "ab\n\nWaitab\n\n"
    assert prompts(engine)[2].endswith("Waitab\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n")
    assert path.answer_text == "4"


def test_cut_inside_a_marker_keeps_what_was_counted(vocabulary: Any) -> None:
    path, _ = run(
        vocabulary,
        lambda p: "4<|endoftext|>" if "solution" in p else "ab<|end_of_thought|>",
        form="sky_t1",
        prompt="<|begin_of_thought|>\n\n",
        max=6,
    )
    assert (thought(path), path.thinking_finish, path.answer_text) == ("ab<|en", "cut", "Final Answer:4")


def test_free_completion_is_split_at_markers_of_several_tokens(vocabulary: Any) -> None:
    text = "ab\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\nfour\n\n<|end_of_solution|><|endoftext|>"
    path, engine = run(vocabulary, lambda _: text, form="sky_t1", prompt="<|begin_of_thought|>\n\n")
    assert (thought(path), path.answer_text) == ("ab\n\n", "four")
    kept = vocabulary.decode(path.seen[len(path.prompt) :])
    assert text.startswith(kept) and len(engine.calls) == 1


def test_defect_a_no_call_without_a_request(vocabulary: Any) -> None:
    path, engine = run(vocabulary, thinker("x" * 99), max=5, waits=4)  # ends in round 1 although waits are left
    assert len(engine.calls) == 2 and path.state == "done"
    idle = ScriptedEngine(vocabulary, str)
    complete(idle, [])
    assert idle.calls == []


def test_defect_b_empty_generations_are_fine(vocabulary: Any) -> None:
    path, engine = run(vocabulary, thinker("<|im_start|>", "<|im_end|>"), max=10)
    assert (path.thinking, path.answer_text, path.thinking_finish) == ([], "", "end")
    assert prompts(engine)[1] == "<|im_start|>think\n" + ANSWER


@pytest.mark.parametrize("context", [18, 20, 30, 40, 60])
def test_defect_c_context_is_never_exceeded(vocabulary: Any, context: int) -> None:
    path, _ = run(vocabulary, thinker("x" * 500, "y" * 500), max=25, context=context)  # the engine asserts it too
    assert len(path.seen) <= context
    assert path.answer_finish == "length"
    assert path.thinking_finish == "cut" and len(path.thinking) == min(25, (context - 7 + 1) // 2)


class Bytes(ScriptedEngine):
    """Thinks half a character: its text, encoded again, is other tokens."""

    def _one(self, request: Request) -> Completion:
        ids = self.vocabulary.encode("é")[:1] * min(3, request.max_tokens)
        return Completion(ids, self.vocabulary.decode(ids), "length", "", len(ids))


def test_defect_d_the_model_sees_the_very_ids_that_are_counted(vocabulary: Any) -> None:
    engine = Bytes(vocabulary, str)
    rules = make_rules(Generate(thinking=Thinking(max=3), max_tokens=100), shipped("think_answer"), vocabulary, 1000)
    path = Path(rules, vocabulary.encode("q"), lambda part: part)
    complete(engine, [path])
    fed = list(engine.calls[1][0].prompt_ids)
    assert vocabulary.encode(vocabulary.decode(path.thinking)) != path.thinking
    assert fed == path.prompt + path.thinking + path.marker and len(path.thinking) == 3


def test_defect_e_prompt_is_never_shortened(vocabulary: Any) -> None:
    path, engine = run(vocabulary, thinker("x" * 99), prompt="q" * 50, context=60, max_tokens=60, max=30)
    assert all(list(call[0].prompt_ids[:50]) == path.prompt for call in engine.calls)
    path, engine = run(vocabulary, thinker("x"), prompt="q" * 50, context=50, max=30)
    assert engine.calls == [] and (path.thinking_finish, path.answer_finish) == ("length", "length")


def test_defect_f_auto_does_not_depend_on_other_prompts(vocabulary: Any) -> None:
    settings = Generate(thinking=Thinking(max="auto"), max_tokens=60, answer_tokens=40)
    rules = make_rules(settings, shipped("think_answer"), vocabulary, 1000)

    def cut(*texts: str) -> list[int]:
        paths = [Path(rules, vocabulary.encode(text), lambda part: part) for text in texts]
        complete(ScriptedEngine(vocabulary, thinker("x" * 500)), paths)
        return paths[0].thinking

    assert cut("q") == cut("q", "q" * 200) and len(cut("q")) == 20


def test_a_long_prompt_shortens_thinking_and_leaves_the_answer_its_share(vocabulary: Any) -> None:
    settings = Generate(thinking=Thinking(max="auto"), max_tokens=100, answer_tokens=30)
    rules = make_rules(settings, shipped("think_answer"), vocabulary, 100)
    path = Path(rules, vocabulary.encode("q" * 25), lambda part: part)
    complete(ScriptedEngine(vocabulary, thinker("x" * 500)), [path])
    assert (path.thinking_finish, path.answer_finish) == ("cut", "stop")
    assert path.rules.maximum == 70 and len(path.thinking) == 100 - len(path.prompt) - 30 < 70


def test_auto_without_room_for_thinking_is_refused(vocabulary: Any) -> None:
    settings = Generate(thinking=Thinking(max="auto"), max_tokens=100, answer_tokens=100)
    with pytest.raises(StageError, match="no token for thinking"):
        make_rules(settings, shipped("think_answer"), vocabulary, 1000)


def test_later_rounds_hold_only_those_still_on_their_way(vocabulary: Any) -> None:
    rules = make_rules(Generate(thinking=Thinking(max=50, waits=1)), shipped("think_answer"), vocabulary, 1000)
    texts = {"a": "x" * 99, "b": "y<|im_start|>"}
    engine = ScriptedEngine(vocabulary, lambda p: " 1<|im_end|>" if "answer\n" in p else texts[p[0]])
    paths = [Path(rules, vocabulary.encode(name), lambda part: part) for name in "ab"]
    complete(engine, paths)
    assert [len(call) for call in engine.calls] == [2, 2, 1]
    assert [p.thinking_finish for p in paths] == ["cut", "end"]


def test_seed_belongs_to_item_sample_and_round() -> None:
    seeds = {derive_seed(s, i, n, r) for s in (0, 1) for i in ("a", "b") for n in (0, 1) for r in (0, 1)}
    assert len(seeds) == 16
    assert derive_seed(0, "a", 1, 2) == derive_seed(0, "a", 1, 2) < 2**63


def random_script(seed: int) -> Callable[[str], str]:
    """Any mixture of letters, stops and ends of turn, the same for the same prompt."""

    def script(prompt: str) -> str:
        draw = random.Random(f"{seed}{prompt}")
        pieces: Sequence[str] = ["a", "b\n", "<|im_start|>", "<|im_end|>", "<|im_start|>answer\n"]
        return "".join(draw.choices(pieces, [8, 3, 1, 0.5, 0.5], k=60))

    return script


@pytest.mark.parametrize("seed", range(60))
def test_limits_hold_for_any_model_and_setting(vocabulary: Any, seed: int) -> None:
    draw = random.Random(seed)
    maximum = draw.choice([None, 0, 1, 7, 30, 80])
    limits = {
        "max": maximum,
        "min": draw.choice([0, 0, 20]),
        "waits": draw.choice([0, 1, 4]),
        "wait_text": draw.choice(["Wait", "", "Hmm, "]),
    }
    context, max_tokens = draw.choice([20, 60, 1000]), draw.choice([1, 15, 50, 500])
    path, engine = run(vocabulary, random_script(seed), context=context, max_tokens=max_tokens, **limits)
    after = len(path.seen) - len(path.prompt)
    assert path.state == "done" and after <= max_tokens and len(path.seen) <= context
    assert maximum is None or len(path.thinking) <= maximum
    assert maximum is not None or path.thinking_finish != "cut"
    waits = [event for event in path.events if event["type"] == "wait"]
    assert len(waits) <= limits["waits"] or limits["min"] > 0
    assert sum(len(call) for call in engine.calls) == path.round
