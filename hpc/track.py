"""metrics.jsonl is the truth of a run's progress; Weights & Biases gets the same rows as a view."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpc import files


def wandb_wanted() -> bool:
    """Whether rows also go to W&B: WANDB_MODE, WANDB_API_KEY or HPC_WANDB=1 is set, and wandb is installed."""
    if os.environ.get("WANDB_MODE") == "disabled":
        return False
    asked = any(os.environ.get(n) for n in ("WANDB_MODE", "WANDB_API_KEY")) or os.environ.get("HPC_WANDB") == "1"
    return asked and importlib.util.find_spec("wandb") is not None


class Tracker:
    """Writes one JSON object per line, each on disk when `log` returns; mirrors it to W&B where that is wanted.

    Args:
        path: the metrics.jsonl to write; an existing one is replaced.
        run_name, group, job_type: how W&B shows the run: its name, its sweep, its stage.
        config: settings to show in W&B.
        wandb: mirror rows to W&B; without WANDB_API_KEY and WANDB_MODE into an offline folder.
        run_id: W&B's id; a later attempt with the same id continues the run.
        folder: where W&B keeps its files; by default the folder above that of `path`, so that it is not published.
    """

    def __init__(
        self,
        path: Path,
        run_name: str,
        group: str,
        job_type: str,
        config: dict[str, Any],
        wandb: bool,
        *,
        run_id: str = "",
        folder: Path | None = None,
    ) -> None:
        self.path = path
        self._run: Any = None
        files.write_text(path, "")
        if wandb:
            self._run = _start(run_name, group, job_type, config, run_id, folder or path.parent.parent)

    def carry(self, rows: Sequence[dict[str, Any]]) -> None:
        """Put rows of an earlier attempt at the head of the file; W&B has them already."""
        files.write_jsonl(self.path, list(rows))

    def log(self, row: dict[str, Any]) -> None:
        """Append a row; it has the key `step`."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
        if self._run is not None:
            self._run.log({"global_step": row["step"], **{k: v for k, v in row.items() if k != "step"}})

    def close(self) -> None:
        """Finish the W&B run."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def _start(run_name: str, group: str, job_type: str, config: dict[str, Any], run_id: str, folder: Path) -> Any:
    import wandb

    mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "thinkscale"),
            mode=mode,
            dir=str(folder),
            name=run_name,
            group=group or None,
            job_type=job_type,
            config=config,
            id=run_id or None,
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.errors.Error as error:
        print(f"track: no W&B for {run_name}: {error}; {folder} keeps metrics.jsonl", file=sys.stderr)
        return None
    run.define_metric("global_step")
    run.define_metric("*", step_metric="global_step")
    return run
