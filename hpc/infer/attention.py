"""Decoding on a CPU without copies: a key-value cache that grows in place, and attention by groups of heads.

transformers appends to its cache by concatenation and repeats keys and values for every query head; on a CPU, both
copies cost more than the arithmetic of a small model. Shapes: B rows, H key-value heads, G query heads of each,
L tokens, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "hpc_grouped"
GROWTH_TOKENS = 64


class GrowingLayer(DynamicLayer):
    """The cache of one layer: views into buffers that hold GROWTH_TOKENS more than they need."""

    keys: torch.Tensor
    values: torch.Tensor
    buffers: tuple[torch.Tensor, ...] | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append [B, H, new, D] keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        length = old + key_states.shape[-2]
        if self.buffers is None or self.buffers[0].shape[-2] < length:
            pairs = ((self.keys, key_states), (self.values, value_states))
            self.buffers = tuple(self._larger(held, new, length) for held, new in pairs)
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, old:length] = states
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the given rows."""
        length = self.get_seq_length()
        assert self.buffers is not None, "rows are dropped only after a step"
        self.buffers = (self.buffers[0][indices], self.buffers[1][indices])
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)

    def _larger(self, old: torch.Tensor, new: torch.Tensor, length: int) -> torch.Tensor:
        rows, heads, _, size = new.shape
        buffer = new.new_empty(rows, heads, length + GROWTH_TOKENS, size)
        if old.numel():
            buffer[:, :, : old.shape[-2]] = old
        return buffer


def make_cache(config: Any) -> DynamicCache:
    """An empty cache for a model; layers with a sliding window stay those of transformers."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one new token per row without repeating keys; longer queries go to transformers' own function."""
    if query.shape[2] > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    rows, heads, size = query.shape[0], key.shape[1], query.shape[3]
    scores_BHGL = query.reshape(rows, heads, -1, size) @ key.transpose(2, 3)
    scores_BHGL *= size**-0.5 if scaling is None else scaling
    if attention_mask is not None:
        scores_BHGL.masked_fill_(~attention_mask, -torch.inf)
    mixed_BHGD = scores_BHGL.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
    return mixed_BHGD.reshape(rows, 1, -1, size), None


def use_grouped_attention(model: Any) -> None:
    """Make `model` decode with grouped attention if it attends by sdpa now."""
    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)
