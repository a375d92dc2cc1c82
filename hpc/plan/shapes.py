"""Shapes of dense decoders: parameters, FLOPs and widths, from config.json or from a table. No weights, no network.

from hpc.plan import shapes
shapes.named("Qwen/Qwen2.5-32B-Instruct").params        # 32763876352
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

DENSE = ("llama", "qwen2", "qwen3", "mistral")
"""Values of config.json's model_type whose parameters follow from config.json alone."""


@dataclass(frozen=True)
class Shape:
    """A decoder of equal layers: attention, gated MLP, two norms.

    Attributes:
        name: for people.
        hidden, layers, heads, kv_heads, ffn, vocab: as in config.json.
        head_width: width of one head; 0 is hidden / heads.
        tied: input and output embeddings are one matrix.
        qkv_bias: biases of the three input projections of attention (Qwen2).
        qk_norm: norms of queries and keys (Qwen3).
        gated: three matrices in the MLP (gate, up, down); else two.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    head_width: int = 0
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    gated: bool = True

    @cached_property
    def head(self) -> int:
        """Width of one head."""
        return self.head_width or self.hidden // self.heads

    @cached_property
    def queries(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head

    @cached_property
    def keys(self) -> int:
        """Width of all keys of a token; of all values too."""
        return self.kv_heads * self.head

    @cached_property
    def attention_params(self) -> int:
        """Weights of the four matrices of attention in one layer."""
        return self.hidden * (2 * self.queries + 2 * self.keys)

    @cached_property
    def mlp_params(self) -> int:
        """Weights of the MLP in one layer."""
        return (3 if self.gated else 2) * self.hidden * self.ffn

    @cached_property
    def layer_params(self) -> int:
        """All parameters of one layer."""
        bias = self.queries + 2 * self.keys if self.qkv_bias else 0
        norms = 2 * self.hidden + (2 * self.head if self.qk_norm else 0)
        return self.attention_params + self.mlp_params + bias + norms

    @cached_property
    def params(self) -> int:
        """All parameters; a tied embedding once."""
        tables = 1 if self.tied else 2
        return self.vocab * self.hidden * tables + self.layers * self.layer_params + self.hidden

    @cached_property
    def matmul_params(self) -> int:
        """Parameters that every token is multiplied with: the layers' matrices and the output embedding."""
        return self.layers * (self.attention_params + self.mlp_params) + self.vocab * self.hidden

    def flops(self, tokens: float, squares: float) -> float:
        """FLOPs of forward and backward: 6 a parameter and token, 6 L q n^2 for causal attention over n tokens.

        Args:
            tokens: number of tokens; squares: sum of the squared lengths of their documents.
        """
        return 6.0 * self.matmul_params * tokens + 6.0 * self.layers * self.queries * squares


def named(reference: str) -> Shape | None:
    """The shape of a hub repository (org/name[@revision]) by the shipped table; None if it is not there."""
    name = reference.partition("@")[0]
    rows = _table()
    found = next((key for key, row in rows.items() if any(fnmatchcase(name, m) for m in row["models"])), None)
    return shape(found) if found else None


def shape(name: str) -> Shape:
    """A row of the shipped table (shapes.yaml) by its own name.

    Raises:
        KeyError: there is none.
    """
    row = _table()[name]
    return Shape(name, **{k: v for k, v in row.items() if k not in ("models", "params")})


def read(folder: Path) -> Shape | None:
    """The shape that a model folder's config.json describes; None for an architecture that is not DENSE.

    Raises:
        OSError, ValueError, KeyError, TypeError: config.json is absent, torn or of another make.
    """
    config = _config(folder)
    kind = config.get("model_type")
    if kind not in DENSE:
        return None
    heads = config["num_attention_heads"]
    sizes = {
        "hidden": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "ffn": config["intermediate_size"],
        "vocab": config["vocab_size"],
    }
    if wrong := {name: value for name, value in sizes.items() if not isinstance(value, int) or value < 1}:
        raise ValueError(f"{folder / 'config.json'}: not a number above 0: {wrong}")
    return Shape(
        folder.name,
        **sizes,
        head_width=int(config.get("head_dim") or 0),
        tied=bool(config.get("tie_word_embeddings")),
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
    )


def refused(folder: Path, longest: int) -> str:
    """Why training refuses the model of a folder, as far as its config.json tells; empty where it does not.

    The rules are those of hpc/train/learner.py and hpc/train/choices.py, with transformers' defaults.

    Args:
        longest: tokens of the longest example.
    """
    try:
        config = _config(folder)
    except (OSError, ValueError):  # absent or torn: the job says so
        return ""
    kind = config.get("model_type")
    if kind not in DENSE:
        return f"config.json says model_type {kind}; memory and time are predicted for {', '.join(DENSE)} only"
    slides = config.get("use_sliding_window", kind not in ("qwen2", "qwen3"))
    window = config.get("sliding_window", 4096 if kind == "mistral" else None) if slides else None
    if isinstance(window, int) and longest > window:
        return f"its attention sees {window:,} tokens back, an example has {longest:,}"
    return "it has attention dropout" if config.get("attention_dropout") else ""


def _config(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{folder / 'config.json'} holds no settings")
    return found


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    rows: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return rows
