"""Both engines on one random tiny model: stops, budgets, seeds, and that they agree in fp32."""

from __future__ import annotations

import dataclasses
import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path as Folder
from typing import Any

import pytest
import yaml

import hpc
from hpc.errors import StageError
from hpc.formats import read_format
from hpc.infer.engine import Engine, Request, Setup, close_engines, open_engine
from hpc.infer.prompts import prompt_ids
from hpc.infer.thinking import Path, complete, derive_seed, make_rules
from hpc.recipe.schema import Generate, Thinking

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
ENGINES = ["transformers", pytest.param("vllm", marks=[pytest.mark.vllm, needs_vllm])]
EXPECTED: dict[str, list[list[int]]] = {}


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tiny_model: Folder) -> Iterator[Engine]:
    """One load per engine: parameters of a module fixture are run one after the other."""
    yield open_engine(Setup(request.param, str(tiny_model), "fp32", batch_size=16))
    close_engines()


def requests(num: int, **settings: Any) -> list[Request]:
    draw = random.Random(7)
    return [
        Request([draw.randrange(200) for _ in range(draw.randrange(5, 60))], **{"max_tokens": 40, **settings})
        for _ in range(num)
    ]


def test_length_and_counts(engine: Engine) -> None:
    for completion in engine.generate(requests(5, max_tokens=7)):
        assert (completion.finish, len(completion.token_ids), completion.drawn) == ("length", 7, 7)
        assert completion.text == engine.vocabulary.decode(completion.token_ids)


def test_greedy_tokens_are_those_of_one_request_alone_and_of_the_other_engine(engine: Engine) -> None:
    wanted = requests(40)
    together = [c.token_ids for c in engine.generate(wanted)]
    assert together == [c.token_ids for c in engine.generate(wanted)]
    alone = [engine.generate([r])[0].token_ids for r in wanted[:6]]
    assert sum(a == b for a, b in zip(alone, together, strict=False)) >= 5  # another batch may flip a near-tie
    for other in EXPECTED.values():
        assert sum(a == b for a, b in zip(other, together, strict=True)) >= 36
    EXPECTED[type(engine).__name__] = together


def test_stop_id_ends_and_is_not_kept(engine: Engine) -> None:
    free = engine.generate(requests(1))[0].token_ids
    stop = free[5]
    stopped = engine.generate(requests(1, stop_ids=frozenset([stop])))[0]
    assert stopped.token_ids == free[: free.index(stop)]
    assert (stopped.finish, stopped.drawn) == ("stop", free.index(stop) + 1)
    held = engine.generate(requests(1, stop_ids=frozenset([stop]), min_tokens=20))[0]
    assert len(held.token_ids) >= 20 and stop not in held.token_ids[:20]


def test_stop_text_across_tokens_ends_and_is_not_kept(engine: Engine) -> None:
    words = engine.vocabulary
    free = next(
        c.token_ids
        for c in engine.generate(requests(40))
        if any(
            words.piece(t).isascii() and words.piece(u).isascii() and words.piece(t) != words.piece(u)
            for t, u in zip(c.token_ids[3:], c.token_ids[4:], strict=False)
        )
    )
    place = next(i for i in range(3, 39) if words.decode(free[i : i + 2]).isascii())
    text = words.decode(free[place : place + 2])
    index = [c.token_ids for c in engine.generate(requests(40))].index(free)
    stopped = engine.generate(requests(40, stop_texts=(text,)))[index]
    assert stopped.finish == "stop" and text not in stopped.text
    assert stopped.token_ids == free[: len(stopped.token_ids)] and len(stopped.token_ids) <= place
    assert stopped.drawn == len(stopped.token_ids) + 2


def test_sampling_depends_on_the_seed_and_not_on_neighbours_or_order(engine: Engine) -> None:
    base = requests(20, temperature=1.0, top_p=0.95)
    seeded = [dataclasses.replace(r, seed=derive_seed(0, "q", i, 0)) for i, r in enumerate(base)]
    tokens = [c.token_ids for c in engine.generate(seeded)]
    assert tokens == [c.token_ids for c in engine.generate(seeded[::-1])][::-1]
    assert tokens[3:9] == [c.token_ids for c in engine.generate(seeded[3:9])]
    other = [dataclasses.replace(r, seed=r.seed + 1) for r in seeded]
    assert sum(a == c.token_ids for a, c in zip(tokens, engine.generate(other), strict=True)) <= 1


def test_top_p_of_nearly_zero_is_greedy(engine: Engine) -> None:
    drawn = engine.generate(requests(8, temperature=1.0, top_p=1e-6, seed=5))
    assert [c.token_ids for c in drawn] == [c.token_ids for c in engine.generate(requests(8))]


def forced(engine: Engine, **thinking: Any) -> list[Path]:
    file = Folder(hpc.__file__).parent / "formats" / "think_answer.yaml"
    form = read_format(yaml.safe_load(file.read_text()), "think_answer")
    settings = Generate(thinking=Thinking(**thinking), max_tokens=64, temperature=1.0)
    rules = make_rules(settings, form, engine.vocabulary, engine.context_tokens)
    rows = [(prompt_ids(rules.words, f"{i}+{i}?", form), str(i)) for i in range(40)]
    paths = [Path(rules, ids, lambda part, i=i: derive_seed(0, i, 0, part)) for ids, i in rows]
    complete(engine, paths)
    return paths


def test_budget_cuts_exactly_and_waits_are_in_the_ids(engine: Engine) -> None:
    paths = forced(engine, max=24, waits=2)
    wait = engine.vocabulary.encode("Wait")
    cuts, waits = 0, 0
    for path in paths:
        assert len(path.thinking) <= 24 and len(path.seen) - len(path.prompt) <= 64
        for event in path.events:
            at = event["at"]
            if event["type"] == "cut":
                cuts += 1
                assert at == len(path.thinking) == 24 and path.thinking_finish == "cut"
            else:
                waits += 1
                assert path.thinking[at : at + len(wait)] == wait
    assert cuts > 20 and waits > 0


def test_context_limits_are_met_without_a_crash(engine: Engine) -> None:
    rules = make_rules(
        Generate(thinking=Thinking(max=500), max_tokens=600),
        read_format(yaml.safe_load((Folder(hpc.__file__).parent / "formats" / "plain.yaml").read_text()), "plain"),
        engine.vocabulary,
        engine.context_tokens,
    )
    paths = [Path(rules, [65] * length, lambda part: part) for length in (500, 511, 512, 600)]
    complete(engine, paths)
    assert all(len(p.seen) <= max(512, len(p.prompt)) and p.answer_finish in ("stop", "length") for p in paths)
    assert [p.policy_tokens > 0 for p in paths] == [True, True, False, False]


def test_equal_setups_share_one_engine(tiny_model: Folder) -> None:
    setup = Setup("transformers", str(tiny_model), "fp32")
    first = open_engine(setup)
    assert open_engine(Setup("transformers", str(tiny_model), "fp32")) is first
    assert open_engine(dataclasses.replace(setup, context_tokens=100)).context_tokens == 100
    close_engines()


def test_folder_without_a_model_is_an_error_with_a_next_step(tmp_path: Folder) -> None:
    with pytest.raises(StageError, match="no model to generate with") as caught:
        open_engine(Setup("transformers", str(tmp_path)))
    assert "config.json" in str(caught.value) and "next:" in str(caught.value)


def test_missing_vllm_is_an_error_that_names_the_way_out(tiny_model: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("hpc.infer.vllms.request_amx", lambda: None)
    with pytest.raises(StageError, match="not installed") as caught:
        open_engine(Setup("vllm", str(tiny_model)))
    assert "generate.engine=transformers" in str(caught.value)


@pytest.mark.parametrize(
    ("heads", "shared", "num_gpus", "expected"),
    [(40, 8, 8, 8), (28, 4, 8, 4), (28, 4, 0, 1), (9, 3, 8, 3), (40, 8, 16, 8)],
)
def test_tensor_parallel_divides_the_heads(heads: int, shared: int, num_gpus: int, expected: int) -> None:
    from types import SimpleNamespace

    from hpc.infer.vllms import tensor_parallel

    config = SimpleNamespace(num_attention_heads=heads, num_key_value_heads=shared)
    assert tensor_parallel(config, num_gpus, "auto") == expected
    assert tensor_parallel(config, num_gpus, 2) == 2
