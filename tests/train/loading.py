"""One rank that loads a model under ZeRO-3: `python tests/train/loading.py MODEL OUT ours|transformers`.

OUT.RANK holds: MiB that the process grew by at most while it loaded, those of the model, of a rank's share, and of its
largest tensor; and a digest of the whole weights, gathered tensor by tensor after that.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from hpc.recipe.schema import Train, Zero
from hpc.train import attention, ranks, weights
from hpc.train.text import ModelReference

MIB = 2**20


def status(name: str) -> float:
    """A number of /proc/self/status, in MiB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 1024


def load(model: ModelReference, kind: str) -> Any:
    """The network, sharded; by hpc.train.weights, or as transformers does it."""
    settings, world_size = Train(dtype="bf16", zero=Zero(stage=3)), torch.distributed.get_world_size()
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": world_size,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3},
    }
    if kind == "ours":
        return weights.network(model, weights.shape(model), settings, config, 0)
    from transformers import AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig

    attention.register()
    keep = HfDeepSpeedConfig(config)
    found = AutoModelForCausalLM.from_pretrained(model.name, dtype=torch.bfloat16)
    del keep
    return found


def digest(network: Any) -> str:
    """Of all weights, one tensor at a time."""
    from deepspeed.runtime.zero import GatheredParameters

    bits = hashlib.sha256()
    for name, parameter in sorted(network.named_parameters()):
        with GatheredParameters([parameter]):
            bits.update(name.encode() + parameter.detach().view(torch.int16).numpy().tobytes())
    return bits.hexdigest()


def main() -> None:
    """Load a small model first, so that what libraries keep for themselves is there; then measure the large one."""
    team = ranks.join(int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"]))
    model, small = ModelReference(sys.argv[1]), ModelReference(sys.argv[1] + "-small")
    load(small, sys.argv[3])
    team.wait()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = status("VmRSS")
    network = load(model, sys.argv[3])
    grown = status("VmHWM") - before
    sizes = [2 * p.ds_numel / MIB for p in network.parameters()]
    share = sum(2 * p.ds_tensor.numel() for p in network.parameters()) / MIB
    found = {"grown": grown, "model": sum(sizes), "share": share, "largest": max(sizes), "digest": digest(network)}
    Path(f"{sys.argv[2]}.{team.rank}").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
