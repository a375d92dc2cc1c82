"""A stage for tests of jobs: sleeps, fails when told, and writes what its inputs and settings say it must."""

import json
import time
from pathlib import Path


def steps(work, config):
    for step in range(config.get("steps", 1)):
        with (work.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "loss": 1.0 / (1 + step)}) + "\n")
        time.sleep(config.get("seconds", 0.0))


def run(work):
    config = work.config
    folders = sorted(work.inputs.items())
    seen = {name: json.loads((Path(folder) / "result.json").read_text()) for name, folder in folders}
    if work.rank == 0:
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
    while len(list(work.attempt.glob("rank*"))) < work.world_size:
        time.sleep(0.02)
    (work.out / "result.json").write_text(json.dumps({"name": config["name"], "inputs": seen}, sort_keys=True))
    return {"inputs": len(seen)}
