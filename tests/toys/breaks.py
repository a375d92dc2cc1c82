"""A stage for tests of `hpc why`: real ranks that meet by torch.distributed, and one of which fails as it is told."""

import ctypes
import json
import os
import resource
import signal
import socket
import time
from pathlib import Path

import torch
import torch.distributed as dist

from hpc.errors import StageError


def raise_a_bug():
    shards = {"train": [1, 2, 3]}
    return shards["validation"]


def import_what_is_not_there():
    import flash_attention_that_is_not_installed  # noqa: F401


def open_what_is_not_there():
    return Path("/data/tokenized/shard_00017.arrow").read_bytes()


def touch_memory_of_nobody():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(8)


def refuse_the_settings():
    raise StageError(
        "max_tokens is above the model's context", where="train.max_tokens", why="40960 > 32768", next="lower it"
    )


def hang():
    time.sleep(3600)


BREAKS = {
    "bug": raise_a_bug,
    "import_error": import_what_is_not_there,
    "missing_file": open_what_is_not_there,
    "segfault": touch_memory_of_nobody,
    "bad_config": refuse_the_settings,
    "hung": hang,
}


def fill_the_disk(work):
    with (work.out / "states.bin").open("wb") as file:
        for _ in range(64):
            file.write(b"0" * (1 << 20))


def hear_no_signal(work):
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(3600)


ALONE = {"no_space": fill_the_disk, "time_limit": hear_no_signal}
"""Failures of one rank that needs no others."""


def run(work):
    config = work.config
    if config["how"] in ALONE:
        return ALONE[config["how"]](work)
    if config["how"] == "rendezvous" and work.rank == 0:
        taken = socket.socket()
        taken.bind(("", int(os.environ["MASTER_PORT"])))
        taken.listen()
    dist.init_process_group("gloo", rank=work.rank, world_size=work.world_size)
    total = torch.zeros(1)
    for step in range(config.get("steps", 5)):
        if step == 3 and work.rank == config.get("rank", 0) and config["how"] in BREAKS:
            BREAKS[config["how"]]()
        dist.all_reduce(total + step)
        work.beat()
        if work.rank == 0:
            with (work.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step + 1, "steps": config.get("steps", 5)}) + "\n")
        time.sleep(config.get("seconds", 0.05))
    dist.destroy_process_group()
    return {}
