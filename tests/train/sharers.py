"""One of several ranks that share a row: `torchrun --nproc-per-node N tests/train/sharers.py OUT.json`.

Compares, for every kind of head and of activation checkpointing, loss and gradients of a packed row shared by the ranks
with those of each document computed alone by transformers' own eager attention and loss.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, Qwen2Config

from hpc.train import attention, loss
from hpc.train.attention import Bounds
from hpc.train.batches import lay
from hpc.train.engine import checkpoint_activations
from hpc.train.learner import Learner
from hpc.train.text import Rendered
from hpc.train.ulysses import Sharers


def documents() -> list[Rendered]:
    """Four documents of 9 to 130 tokens, with prompts."""
    draw = random.Random(1)
    sizes = [(37, 5), (100, 20), (9, 3), (130, 60)]
    return [
        Rendered(str(n), [draw.randrange(300) for _ in range(size)], prompt) for n, (size, prompt) in enumerate(sizes)
    ]


def networks(tied: bool, key_heads: int) -> tuple[Any, Any]:
    """The same small Qwen2 twice: with our attention, and with transformers' eager one."""
    form = Qwen2Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
        vocab_size=300,
        intermediate_size=96,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    ours, theirs = (
        AutoModelForCausalLM.from_config(copy.deepcopy(form), dtype=torch.float32, attn_implementation=kind)
        for kind in (attention.NAME, "eager")
    )
    theirs.load_state_dict(ours.state_dict())
    return ours.train(), theirs.train()


def shared(network: Any, weights: list[float], chunk: int, sharers: Sharers | None) -> float:
    """The loss of the packed row, its gradients summed over the ranks into the network."""
    size, place = (sharers.size, sharers.place) if sharers else (1, 0)
    row = lay(list(zip(documents(), weights, strict=True)), size, place)
    bounds = Bounds(row.edges, "sdpa", torch.device("cpu"), sharers)
    found = Learner(network, chunk).train()(row.ids_BL, row.positions_BL, row.targets_N, row.weights_N, bounds)
    found.backward()
    total = found.detach().clone()
    if sharers:
        for tensor in (total, *(p.grad for p in network.parameters())):
            dist.all_reduce(tensor)
    return float(total)


def alone(network: Any, weights: list[float]) -> float:
    """The same loss, document by document."""
    total = torch.zeros(())
    for row, weight in zip(documents(), weights, strict=True):
        logits = network(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
        targets = torch.tensor(row.ids[row.prompt_tokens :])
        total = total + weight * cross_entropy(logits[row.prompt_tokens - 1 : -1], targets, reduction="sum")
    total.backward()
    return float(total.detach())


def main() -> None:
    """Write [{case, loss difference, largest difference of a gradient}] from rank 0."""
    dist.init_process_group("gloo")
    size = dist.get_world_size()
    sharers = Sharers(dist.group.WORLD, size, dist.get_rank()) if size > 1 else None  # type: ignore[arg-type]
    attention.register()
    found = []
    cases = [(tied, heads, "none", chunk) for tied in (False, True) for heads in (1, 2, 4) for chunk in (0, 16)]
    for tied, heads, kind, chunk in [*cases, (False, 2, "full", 16), (True, 2, "selective", 16)]:
        ours, theirs = networks(tied, heads)
        weights = loss.token_weights([row.trained_tokens for row in documents()], "sample", 1)
        checkpoint_activations(ours, kind)
        off = abs(shared(ours, weights, chunk, sharers) - alone(theirs, weights))
        pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
        worst = max(float((mine.grad - other.grad).abs().max()) for mine, other in pairs)
        found.append({"case": [tied, heads, kind, chunk], "loss": off, "gradient": worst})
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
