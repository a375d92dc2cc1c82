"""Engines: token ids in, token ids out. `open_engine` loads a model once and keeps it for the next stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from hpc.errors import StageError, nearest
from hpc.infer.vocabulary import Vocabulary


def silent() -> None:
    """Nobody listens to the engine's beats."""


@dataclass(frozen=True)
class Request:
    """One continuation to generate.

    Attributes:
        prompt_ids: every token the model sees first; never empty.
        max_tokens: most tokens to draw, a stop included; at least 1.
        min_tokens: no stop id may be drawn before so many tokens, and no stop text counts.
        stop_ids, stop_texts: what ends the continuation; a text may be spread over several tokens.
        temperature: 0 is greedy; top_p: nucleus.
        seed: of this request alone, so that neither its neighbours nor its place in the batch matter.
    """

    prompt_ids: Sequence[int]
    max_tokens: int
    min_tokens: int = 0
    stop_ids: frozenset[int] = frozenset()
    stop_texts: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """What was generated: `token_ids` and their `text` without the stop; `stop` is the stop's text.

    `drawn` counts the tokens that the model produced, those of the stop included.
    """

    token_ids: list[int]
    text: str
    finish: Literal["stop", "length"]
    stop: str = ""
    drawn: int = 0


@dataclass(frozen=True)
class Setup:
    """Which engine on which model. Two stages with equal setups share one loaded engine."""

    engine: str
    model: str
    dtype: str = "bf16"
    context_tokens: int | None = None
    tensor_parallel: int | Literal["auto"] = "auto"
    batch_size: int = 256
    gpu_memory_fraction: float = 0.9


class Engine(Protocol):
    """A loaded model. `vocabulary` is its tokenizer with the stops it knows (hpc.infer.vocabulary).

    `beat` is called whenever tokens have come; a stage puts its own there.
    """

    vocabulary: Vocabulary
    beat: Callable[[], None]
    context_tokens: int
    num_parameters: int

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The continuations of `requests`, in their order."""

    def close(self) -> None:
        """Give the memory back."""


def before_stop(words: Vocabulary, drawn: list[int], texts: Sequence[str]) -> Completion:
    """The completion whose last tokens spell one of `texts`: the tokens wholly before it are kept."""
    window = drawn[-(2 * max(len(t.encode()) for t in texts) + 2) :]
    found = words.find(window, texts)
    assert found is not None, "called only after a stop text was seen"
    kept = drawn[: len(drawn) - len(window) + found[0]]
    return Completion(kept, words.decode(kept), "stop", found[2], len(drawn))


ENGINES = ("transformers", "vllm")
_loaded: dict[Setup, Engine] = {}


def open_engine(setup: Setup) -> Engine:
    """The engine for `setup`: the loaded one if it is the same, else a new one in its place.

    Raises:
        StageError: unknown engine, engine not installed, or a folder that holds no model.
    """
    if setup in _loaded:
        return _loaded[setup]
    close_engines()
    _loaded[setup] = _load(setup)
    return _loaded[setup]


def close_engines() -> None:
    """Close what is loaded. At most one engine is held at a time: two models rarely fit."""
    while _loaded:
        _loaded.popitem()[1].close()


def _load(setup: Setup) -> Engine:
    if setup.engine == "vllm":
        from hpc.infer.vllms import VllmEngine

        return VllmEngine(setup)
    if setup.engine == "transformers":
        from hpc.infer.transformer import TransformersEngine

        return TransformersEngine(setup)
    raise StageError(
        f"no engine is called {setup.engine}",
        where="generate.engine",
        why=nearest(setup.engine, ENGINES),
        next="set generate.engine to one of these",
    )
