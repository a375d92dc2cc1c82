"""A stage for tests of ranks: they meet by torch.distributed at MASTER_ADDR and add up their numbers."""

import json
import os
import platform

import torch
import torch.distributed as dist


def run(work):
    dist.init_process_group("gloo", rank=work.rank, world_size=work.world_size)
    total = torch.tensor([work.rank + 1])
    dist.all_reduce(total)
    hosts = [None] * work.world_size
    dist.all_gather_object(hosts, platform.node())
    dist.destroy_process_group()
    if work.rank == 0:
        row = {"total": total.item(), "hosts": hosts, "omp": os.environ["OMP_NUM_THREADS"]}
        (work.out / "result.json").write_text(json.dumps(row))
    return {}
