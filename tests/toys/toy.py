"""A stage for tests of jobs: sleeps, fails when told, and writes what its inputs and settings say it must.

With `every` it is a small training: each step changes a state, every so many steps it is saved in the attempt, a later
attempt goes on from there, and the result is the last state. attempt/begun has a line for each step that began.
"""

import hashlib
import json
import time
from pathlib import Path

from hpc import files


class OutOfMemoryError(RuntimeError):
    """torch's, in name and words."""

    __module__ = "torch"


FULL = (
    "CUDA out of memory. Tried to allocate 5.25 GiB. GPU 0 has a total capacity of 79.11 GiB of which 2.84 GiB is "
    "free. Process 12345 has 76.26 GiB memory in use. Of the allocated memory 73.08 GiB is allocated by PyTorch, and "
    "2.35 GiB is reserved by PyTorch but unallocated."
)


def moved(state, step):
    return hashlib.sha256(f"{state} {step}".encode()).hexdigest()


def resumed(work, state):
    """(state, number of steps behind it) of the newest checkpoint of an earlier attempt that has one."""
    for older in work.older:
        saved = sorted((older / "checkpoints").glob("[0-9]*.json"), key=lambda p: int(p.stem))
        if saved:
            row = files.read_json(saved[-1])
            return row["state"], row["steps"]
    return state, 0


def together(work, step):
    """Wait for all ranks to come to this step, as a collective does."""
    folder = work.attempt / "ranks"
    folder.mkdir(exist_ok=True)
    (folder / f"{step}.{work.rank}").touch()
    while len(list(folder.glob(f"{step}.*"))) < work.world_size:
        time.sleep(0.05)


def misbehave(work, config, step):
    """What the settings say shall go wrong at this step; with `once`, only while that file exists."""
    if step != config.get("wrong_at") or work.rank != config.get("wrong_rank", 0):
        return
    if "once" in config:
        try:
            Path(config["once"]).unlink()
        except FileNotFoundError:
            return
    if config.get("memory_mib"):
        held = bytearray(config["memory_mib"] << 20)
        time.sleep(2.5)  # Slurm looks once a second
        del held
    if config.get("micro_batch", 0) > config.get("fits", 1 << 30):
        raise OutOfMemoryError(FULL)
    if config.get("hang"):
        time.sleep(3600)


def loop(work, config, state):
    state, first = resumed(work, state)
    for step in range(first, config.get("steps", 1)):
        if work.rank == 0:
            with (work.attempt / "begun").open("a") as file:
                file.write(f"{step} {time.time():.3f}\n")
        if work.world_size > 1:
            together(work, step)
        misbehave(work, config, step)
        time.sleep(config.get("seconds", 0.0))
        state = moved(state, step)
        if work.rank == 0:
            tell(work, step)
            if (step + 1) % config["every"] == 0:
                work.check_live()
                files.write_json(work.attempt / "checkpoints" / f"{step + 1}.json", {"steps": step + 1, "state": state})
        work.beat()
    return state


def tell(work, step):
    with (work.out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "loss": 1.0 / (1 + step)}) + "\n")


def steps(work, config):
    for step in range(config.get("steps", 1)):
        tell(work, step)
        time.sleep(config.get("seconds", 0.0))


def run(work):
    config, result = work.config, {"name": work.config["name"]}
    folders = sorted(work.inputs.items())
    result["inputs"] = {name: json.loads((Path(folder) / "result.json").read_text()) for name, folder in folders}
    if config.get("every"):
        result["state"] = loop(work, config, hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest())
    elif work.rank == 0:
        try:
            steps(work, config)
        finally:
            time.sleep(config.get("save_s", 0.0))
            (work.attempt / "saved").touch()
    if config.get("fail_while") and Path(config["fail_while"]).exists():
        raise RuntimeError("told to fail")
    (work.attempt / f"rank{work.rank}").write_text(str(work.world_size))
    if work.rank:
        return {}
    while len(list(work.attempt.glob("rank[0-9]*"))) < work.world_size:
        time.sleep(0.02)
    (work.out / "result.json").write_text(json.dumps(result, sort_keys=True))
    return {"inputs": len(result["inputs"])}
