"""Training as a textbook has it, for comparison: one process, one document at a time, torch and transformers alone.

No DeepSpeed, no packing, transformers' eager attention, torch's cross-entropy and AdamW, transformers' schedules.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, get_cosine_schedule_with_warmup

from hpc.recipe.schema import Train
from hpc.train.text import Rendered

VOCABULARY = 211
SIZES = ((3, 1), (130, 20), (2, 1), (61, 60), (9, 3), (40, 8), (17, 5), (90, 2), (5, 4), (33, 30), (64, 7), (12, 1))
"""(tokens, prompt tokens) of documents: very different lengths, prompts of one token, one trained token."""


@dataclass
class Course:
    """What each step of a training came to.

    Attributes:
        losses, norms: by step; norms before clipping.
        gradients: by step and parameter, before clipping.
        weights: by parameter, after the last step.
        frequencies: of the rotary embedding, in fp32: an error of 1 % is whole turns after a thousand positions.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: list[dict[str, torch.Tensor]] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    frequencies: torch.Tensor = field(default_factory=lambda: torch.empty(0))


def documents(number: int = 22) -> list[Rendered]:
    """Documents of random tokens; 22 of them make batches of 10, 10 and 2."""
    draw = random.Random(3)
    sizes = [SIZES[n % len(SIZES)] for n in range(number)]
    return [
        Rendered(f"d{n}", [draw.randrange(VOCABULARY) for _ in range(size)], prompt)
        for n, (size, prompt) in enumerate(sizes)
    ]


def write_model(folder: Path, kind: str, *, shards: str = "5GB", **changes: Any) -> Path:
    """A random model of 2 layers: `qwen2` (tied head, biases) or `llama` (head of its own), sharp attention."""
    made = {"qwen2": Qwen2Config, "llama": LlamaConfig}[kind]
    form = made(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "initializer_range": 0.15,
            "tie_word_embeddings": kind == "qwen2",
            "architectures": [{"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}[kind]],
            **changes,
        }
    )
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(form, dtype=torch.float32).save_pretrained(folder, max_shard_size=shards)
    return folder


def loss_of(network: Any, batch: list[Rendered], average: str) -> float:
    """Backward through the loss of a batch, document by document; returns it."""
    trained = [len(row.ids) - row.prompt_tokens for row in batch]
    total = 0.0
    for row, number in zip(batch, trained, strict=True):
        logits = network(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0].float()
        each = cross_entropy(
            logits[row.prompt_tokens - 1 : -1], torch.tensor(row.ids[row.prompt_tokens :]), reduction="none"
        )
        loss = each.mean() / len(batch) if average == "sample" else each.sum() / sum(trained)
        assert each.numel() == number
        loss.backward()
        total += float(loss.detach())
    return total


def train(model: Path, batches: list[list[Rendered]], settings: Train) -> Course:
    """Train on these batches, one step each."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").train()
    named = dict(network.named_parameters())
    first, second = settings.betas
    matrices = [p for name, p in named.items() if not name.endswith("bias") and "norm" not in name]
    vectors = [p for name, p in named.items() if name.endswith("bias") or "norm" in name]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.lr,
        betas=(first, second),
        eps=settings.eps,
    )
    assert settings.schedule == "cosine" and settings.min_lr == 0
    warmup = -int(-settings.warmup_ratio * len(batches) // 1)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, len(batches))
    course = Course(frequencies=network.model.rotary_emb.inv_freq)
    for batch in batches:
        course.losses.append(loss_of(network, batch, settings.loss_average))
        course.gradients.append({name: p.grad.clone() for name, p in named.items()})
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), settings.grad_clip)
        course.norms.append(float(norm))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    course.weights = {name: p.detach().clone() for name, p in named.items()}
    return course
