"""The transformers engine: one decode loop over a batch with a key-value cache, finished rows dropped as they end.

For small models and for machines without vLLM. Requests are batched by length (left padding); every row draws from
its own seed. In fp32 equal requests give equal tokens; another batch may change the last bits of a logit, so that an
exact tie between two tokens can fall the other way (in bf16 that happens, in fp32 hardly ever).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from hpc.infer.attention import make_cache, use_grouped_attention
from hpc.infer.engine import Completion, Request, Setup, before_stop, silent
from hpc.infer.vocabulary import Vocabulary, open_vocabulary, split_reference

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
NOISE_BLOCK = 64
"""Random numbers are drawn per row in blocks of so many steps."""
KEEP_SHARE = 0.75
"""Rows are dropped from the cache when fewer than this share still runs: dropping copies the cache."""


class TransformersEngine:
    """A causal language model of transformers on the GPU if there is one, else on the CPU."""

    def __init__(self, setup: Setup) -> None:
        disable_progress_bar()
        self.vocabulary: Vocabulary = open_vocabulary(setup.model)
        name, revision = split_reference(setup.model)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=DTYPES[setup.dtype])
        self.model: Any = model.eval().to(self.device)
        if self.device.type == "cpu":
            use_grouped_attention(self.model)
        own_limit = int(getattr(model.config, "max_position_embeddings", 0) or 2**31)
        self.context_tokens = min(setup.context_tokens or own_limit, own_limit)
        self.num_parameters = int(model.num_parameters())
        self.batch_size = setup.batch_size
        self.beat: Callable[[], None] = silent

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The continuations of `requests`, in their order."""
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), i))
        done: dict[int, Completion] = {}
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = Batch(self.vocabulary, self.model, [requests[i] for i in rows], self.device, self.beat)
            done.update(zip(rows, batch.run(), strict=True))
        return [done[i] for i in range(len(requests))]

    def close(self) -> None:
        """Give the memory back."""
        self.model = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Batch:
    """Requests decoded together. B: rows still in the cache, P: padded prompt, L: tokens so far, V: vocabulary."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        model: Any,
        requests: Sequence[Request],
        device: torch.device,
        beat: Callable[[], None] = silent,
    ) -> None:
        self.vocabulary, self.model, self.device, self.beat = vocabulary, model, device, beat
        self.requests = requests
        self.drawn: list[list[int]] = [[] for _ in requests]
        self.ends: list[Completion | None] = [None] * len(requests)
        self.rows = list(range(len(requests)))  # which request each row of the cache belongs to
        self.generators = [torch.Generator().manual_seed(r.seed) for r in requests]
        self.noise = torch.empty(len(requests), 0)
        self.sampled = any(r.temperature > 0 for r in requests)

    def run(self) -> list[Completion]:
        """Prefill once, then step until every request has ended."""
        ids_BP, mask_BP = self._padded()
        cache = make_cache(self.model.config)
        positions_BP = (mask_BP.cumsum(1) - 1).clamp(min=0)
        padded = not bool(mask_BP.all())
        step = 0
        while self.rows:
            output = self.model(
                input_ids=ids_BP,
                attention_mask=mask_BP if padded else None,
                use_cache=True,
                position_ids=positions_BP,
                past_key_values=cache,
                logits_to_keep=1,
            )
            tokens_B = self._choose(output.logits[:, -1].float(), step)
            alive = self._take(tokens_B.tolist())
            self.beat()
            step += 1
            ids_BP, positions_BP = tokens_B[:, None], positions_BP[:, -1:] + 1
            if len(alive) < KEEP_SHARE * len(self.rows):
                keep = torch.tensor(alive, dtype=torch.long, device=self.device)
                if alive:
                    cache.batch_select_indices(keep)
                ids_BP, positions_BP, mask_BP = ids_BP[keep], positions_BP[keep], mask_BP[keep]
                self.rows = [self.rows[i] for i in alive]
                self.noise = self.noise[alive]
            if padded:
                mask_BP = torch.cat([mask_BP, mask_BP.new_ones(len(mask_BP), 1)], dim=1)
        return [end for end in self.ends if end is not None]

    def _padded(self) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(r.prompt_ids) for r in self.requests)
        ids = [[0] * (width - len(r.prompt_ids)) + list(r.prompt_ids) for r in self.requests]
        mask = [[0] * (width - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in self.requests]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def _choose(self, logits_BV: torch.Tensor, step: int) -> torch.Tensor:
        """The next token of every row: the likeliest, or the one its own random number points at."""
        requests = [self.requests[row] for row in self.rows]
        for i, request in enumerate(requests):
            if step < request.min_tokens and request.stop_ids:
                logits_BV[i, sorted(request.stop_ids)] = -torch.inf
        greedy_B = logits_BV.argmax(-1)
        if not self.sampled:
            return greedy_B
        temperature_B1 = logits_BV.new_tensor([[r.temperature] for r in requests])
        top_p_B1 = logits_BV.new_tensor([[r.top_p] for r in requests])
        drawn_B = nucleus(logits_BV, temperature_B1, top_p_B1, self._random(step).to(self.device))
        return torch.where(temperature_B1[:, 0] > 0, drawn_B, greedy_B)

    def _random(self, step: int) -> torch.Tensor:
        """One uniform number per row, from the row's own generator."""
        if step % NOISE_BLOCK == 0:
            self.noise = torch.stack([torch.rand(NOISE_BLOCK, generator=self.generators[row]) for row in self.rows])
        return self.noise[:, step % NOISE_BLOCK, None]

    def _take(self, tokens: list[int]) -> list[int]:
        """Append one token to every running row; the places in the batch of those that go on."""
        alive = []
        for place, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            if self.ends[row] is None:
                self.drawn[row].append(token)
                self.ends[row] = self._ended(self.requests[row], self.drawn[row])
                if self.ends[row] is None:
                    alive.append(place)
        return alive

    def _ended(self, request: Request, drawn: list[int]) -> Completion | None:
        words, last = self.vocabulary, drawn[-1]
        if last in request.stop_ids:
            kept = drawn[:-1]
            return Completion(kept, words.decode(kept), "stop", words.piece(last), len(drawn))
        if request.stop_texts and len(drawn) > request.min_tokens and words.stop_text(drawn, request.stop_texts):
            return before_stop(words, drawn, request.stop_texts)
        if len(drawn) >= request.max_tokens:
            return Completion(drawn, words.decode(drawn), "length", "", len(drawn))
        return None


def nucleus(
    logits_BV: torch.Tensor, temperature_B1: torch.Tensor, top_p_B1: torch.Tensor, noise_B1: torch.Tensor
) -> torch.Tensor:
    """Sample one token per row: the smallest set of likeliest tokens with probability top_p, by inverse CDF."""
    scaled_BV = logits_BV / temperature_B1.clamp(min=1e-5)
    chances_BV, tokens_BV = scaled_BV.softmax(-1).sort(dim=-1, descending=True, stable=True)
    sums_BV = chances_BV.double().cumsum(-1)
    inside_BV = sums_BV - chances_BV < top_p_B1  # the first token is always inside
    total_B1 = (chances_BV * inside_BV).double().sum(-1, keepdim=True)
    place_B1 = torch.searchsorted(sums_BV, noise_B1.double() * total_B1, right=True)
    last_B1 = inside_BV.sum(-1, keepdim=True) - 1
    return tokens_BV.gather(1, torch.minimum(place_B1, last_B1))[:, 0]
