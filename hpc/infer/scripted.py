"""A scripted engine: a function says how a text goes on. For tests of the logic around engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hpc.infer.engine import Completion, Request, before_stop, silent
from hpc.infer.vocabulary import Vocabulary


class ScriptedEngine:
    """Continues every prompt with `script(prompt text)`, token by token, under the request's limits and stops.

    Attributes:
        calls: the requests of every `generate` call, to look at afterwards.
    """

    num_parameters = 1000
    beat = staticmethod(silent)

    def __init__(self, vocabulary: Vocabulary, script: Callable[[str], str], context_tokens: int = 10_000) -> None:
        self.vocabulary, self.script, self.context_tokens = vocabulary, script, context_tokens
        self.calls: list[list[Request]] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The scripted continuations; like a real engine it takes no empty list and no overlong prompt."""
        assert requests, "an engine wants at least one prompt"
        self.calls.append(list(requests))
        return [self._one(request) for request in requests]

    def close(self) -> None:
        """Nothing to give back."""

    def _one(self, request: Request) -> Completion:
        assert 0 < len(request.prompt_ids) <= self.context_tokens - request.max_tokens, "beyond the context"
        words = self.vocabulary
        drawn: list[int] = []
        for token in words.encode(self.script(words.decode(request.prompt_ids))):
            if token in request.stop_ids and len(drawn) < request.min_tokens:
                continue
            drawn.append(token)
            if token in request.stop_ids:
                return Completion(drawn[:-1], words.decode(drawn[:-1]), "stop", words.piece(token), len(drawn))
            if len(drawn) > request.min_tokens and words.stop_text(drawn, request.stop_texts):
                return before_stop(words, drawn, request.stop_texts)
            if len(drawn) == request.max_tokens:
                return Completion(drawn, words.decode(drawn), "length", "", len(drawn))
        return Completion(drawn, words.decode(drawn), "stop", "", len(drawn))
