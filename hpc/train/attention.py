"""Attention over packed rows: every document attends to itself alone. One function, registered with transformers.

A row holds several documents end to end; `bounds` says where each begins and ends. The function never sees a mask:
transformers' own packing derives one from position ids and drops it silently in several cases (a cache, a mask of
ones), after which documents see each other. Here a forward pass without bounds is an error.

On GPUs one variable-length kernel computes all documents of a row; on CPUs each goes through torch's own attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from hpc.train.ulysses import Sharers

NAME = "documents"
"""Of this function in transformers' registries: `attn_implementation`."""

Kernel = Literal["sdpa", "varlen", "flash"]
"""sdpa: torch, document by document (any device). varlen: torch.nn.attention.varlen (GPU). flash: flash-attn (GPU)."""


SHORT = 64
"""Positions; documents up to this length are computed together whatever their lengths."""
LIKE = 0.75
"""Longer ones are, if the shorter has at least this share of the longer's length."""


@dataclass(frozen=True)
class Bunch:
    """Documents computed at once, filled up to one length behind their ends, where no causal query looks.

    Attributes:
        places_DP: of D documents, the place of each of P positions in the row.
        real_DP: which positions are the document's own.
    """

    places_DP: Tensor
    real_DP: Tensor


@dataclass(frozen=True)
class Bounds:
    """Where the documents of a whole row begin and end, and which ranks share the row.

    Attributes:
        edges: 0, end of the first document, ..., number of positions in the row.
        kernel: what computes attention.
        device: of the row.
        sharers: the ranks that share the row (Ulysses), or None.
    """

    edges: tuple[int, ...]
    kernel: Kernel
    device: torch.device
    sharers: Sharers | None = None

    @cached_property
    def longest(self) -> int:
        """Positions of the longest document."""
        return max(b - a for a, b in zip(self.edges, self.edges[1:], strict=False))

    @cached_property
    def bunches(self) -> list[Bunch]:
        """The documents in bunches of like length, for kernels that compute a rectangle at a time."""
        order = sorted(range(len(self.edges) - 1), key=lambda n: self.edges[n] - self.edges[n + 1])
        found: list[list[int]] = []
        for number in order:
            length = self.edges[number + 1] - self.edges[number]
            longest = self.edges[found[-1][0] + 1] - self.edges[found[-1][0]] if found else 0
            if found and (longest <= SHORT or length >= LIKE * longest):
                found[-1].append(number)
            else:
                found.append([number])
        return [self._bunch(numbers) for numbers in found]

    def _bunch(self, numbers: list[int]) -> Bunch:
        spans = [(self.edges[n], self.edges[n + 1]) for n in numbers]
        longest = max(b - a for a, b in spans)
        starts_D1 = torch.tensor([a for a, _ in spans], device=self.device)[:, None]
        ends_D1 = torch.tensor([b for _, b in spans], device=self.device)[:, None]
        places_DP = starts_D1 + torch.arange(longest, device=self.device)[None]
        return Bunch(torch.minimum(places_DP, ends_D1 - 1), places_DP < ends_D1)

    @cached_property
    def offsets(self) -> Tensor:
        """The edges as the kernels take them: int32, on the row's device."""
        return torch.tensor(self.edges, dtype=torch.int32, device=self.device)


def register() -> None:
    """Make `attn_implementation="documents"` known to transformers; again is no harm."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _no_mask)


def attend(
    module: nn.Module,
    query_BHLD: Tensor,
    key_BKLD: Tensor,
    value_BKLD: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    bounds: Bounds | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each document of a row (B = 1), as transformers calls it: returns (BLHD, None).

    Under sequence parallelism L is this rank's share of the row; heads are exchanged for positions around the kernel.
    """
    assert bounds is not None and attention_mask is None, "a packed row needs its bounds, and no mask"
    assert not dropout, "attention dropout is not supported: the kernels draw differently"
    assert sliding_window is None or sliding_window >= bounds.longest, "a document is longer than the sliding window"
    scale = query_BHLD.shape[-1] ** -0.5 if scaling is None else scaling
    states = (query_BHLD[0], key_BKLD[0], value_BKLD[0])
    if bounds.sharers is None:
        return _kernel(*states, bounds, scale).transpose(0, 1)[None], None
    query_HLD, key_KLD, value_KLD = bounds.sharers.heads(*states)
    whole_HLD = _kernel(query_HLD, key_KLD, value_KLD, bounds, scale)
    return bounds.sharers.positions(whole_HLD).transpose(0, 1)[None], None


def choose(asked: str, device: torch.device, head_width: int, dtype: str) -> tuple[Kernel, str]:
    """The kernel, and the reason: what was asked for, else the best that this machine has for this number format."""
    if asked != "auto":
        kernel: Any = asked
        return kernel, "as asked"
    if device.type != "cuda":
        return "sdpa", "no GPU: torch computes document by document"
    if dtype == "fp32":
        return "sdpa", "the variable-length kernels compute in bf16 alone"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "sdpa", "the variable-length kernels need an A100 or younger"
    if head_width > 256:
        return "sdpa", f"heads of {head_width} are too wide for the variable-length kernels"
    return "varlen", "torch's own variable-length kernel"


def _kernel(query_HLD: Tensor, key_KLD: Tensor, value_KLD: Tensor, bounds: Bounds, scale: float) -> Tensor:
    """Attention of a whole row; H query heads over K key heads. Returns HLD."""
    kernels = {"sdpa": _by_document, "varlen": _varlen, "flash": _flash}
    return kernels[bounds.kernel](query_HLD, key_KLD, value_KLD, bounds, scale)


def _by_document(query_HLD: Tensor, key_KLD: Tensor, value_KLD: Tensor, bounds: Bounds, scale: float) -> Tensor:
    done_HLD = torch.zeros_like(query_HLD)
    for bunch in bounds.bunches:
        query, key, value = (x[:, bunch.places_DP].transpose(0, 1) for x in (query_HLD, key_KLD, value_KLD))
        grouped = query.shape[1] != key.shape[1]
        out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
        places, real = bunch.places_DP[bunch.real_DP], bunch.real_DP
        done_HLD = done_HLD.index_copy(1, places, out.transpose(0, 1)[:, real])
    return done_HLD


def _varlen(query_HLD: Tensor, key_KLD: Tensor, value_KLD: Tensor, bounds: Bounds, scale: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query_LHD, key_LKD, value_LKD = (x.transpose(0, 1).contiguous() for x in (query_HLD, key_KLD, value_KLD))
    done_LHD: Tensor = varlen_attn(
        query_LHD,
        key_LKD,
        value_LKD,
        bounds.offsets,
        bounds.offsets,
        bounds.longest,
        bounds.longest,
        scale=scale,
        window_size=(-1, 0),  # causal
        enable_gqa=query_LHD.shape[1] != key_LKD.shape[1],
    )
    return done_LHD.transpose(0, 1)


def _flash(query_HLD: Tensor, key_KLD: Tensor, value_KLD: Tensor, bounds: Bounds, scale: float) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    query_LHD, key_LKD, value_LKD = (x.transpose(0, 1).contiguous() for x in (query_HLD, key_KLD, value_KLD))
    done_LHD: Tensor = flash_attn_varlen_func(
        query_LHD,
        key_LKD,
        value_LKD,
        bounds.offsets,
        bounds.offsets,
        bounds.longest,
        bounds.longest,
        softmax_scale=scale,
        causal=True,
    )
    return done_LHD.transpose(0, 1)


def _no_mask(*_: Any, **__: Any) -> None:
    """Bounds say what a mask would."""


def edges(lengths: Sequence[int]) -> tuple[int, ...]:
    """Running sums of document lengths: 0, l1, l1 + l2, ..."""
    found = [0]
    for length in lengths:
        found.append(found[-1] + length)
    return tuple(found)
