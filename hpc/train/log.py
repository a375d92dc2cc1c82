"""The log of a training: metrics.jsonl and W&B, lines in a file, a bar with the time that is left on a terminal."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hpc import track
from hpc.artifact import Work
from hpc.train import checkpoint
from hpc.train.batches import Batches
from hpc.train.measure import Meter
from hpc.train.ranks import Team


class Log:
    """Rank 0 writes; other ranks keep quiet.

    A row: step (from 1) of steps, its loss, lr, grad_norm (before clipping), tokens (trained so far), seconds (of the
    steps so far, those of attempts before this one included) and rank_s (the same, times the ranks that ran them), and
    what Meter.row says of the steps since the row before.
    """

    def __init__(
        self, batches: Batches, work: Work, team: Team, start: checkpoint.Start, meter: Meter, rate: Any
    ) -> None:
        self.batches, self.team, self.settings, self.meter, self.rate = batches, team, work.config, meter, rate
        self.first_step, self.trained = start.step, sum(batches.trained_tokens(s) for s in range(start.step))
        self.started = time.monotonic()
        self.before_s, self.before_rank_s, self.last_loss = 0.0, 0.0, math.nan
        self.tracker: track.Tracker | None = None
        self.bar: Progress | None = None
        if team.leads:
            self._open(work, start)
        meter.begin()

    def step(self, step: int, loss: float, grad_norm: float) -> None:
        """Account for a finished step; every log_every_steps, and at the first and the last, write a row."""
        self.trained += self.batches.trained_tokens(step)
        self.meter.step(step)
        done, last = step + 1, self.batches.num_steps
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=done, loss=loss)
        if self.tracker is None or not (done % self.settings.log_every_steps == 0 or done in (1, last)):
            return
        passed = time.monotonic() - self.started
        row = {
            "step": done,
            "steps": last,
            "loss": loss,
            "lr": self.rate(self.settings, step, last),
            "grad_norm": grad_norm,
            "tokens": self.trained,
            "seconds": round(self.before_s + passed, 3),
            "rank_s": round(self.before_rank_s + passed * self.team.world_size, 3),
            **self.meter.row(),
        }
        self.meter.begin()
        self.tracker.log(row)
        if self.bar is None:
            self.team.say(self._line(row))

    def close(self) -> None:
        """Finish the W&B run and the bar, if there are any."""
        if self.bar is not None:
            self.bar.stop()
        if self.tracker is not None:
            self.tracker.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, work: Work, start: checkpoint.Start) -> None:
        carried = checkpoint.carried_metrics(start)
        self.tracker = track.Tracker(
            work.out / "metrics.jsonl",
            work.run_name or work.key,
            work.sweep,
            "train",
            {**asdict(work.config), "seed": work.seed, "key": work.key},
            wandb=track.wandb_wanted(),
            run_id=work.key,
            tags=work.tags,
            folder=work.attempt,
        )
        self.tracker.carry(carried)
        if carried:
            self.before_s, self.last_loss = carried[-1]["seconds"], carried[-1]["loss"]
            self.before_rank_s = carried[-1].get("rank_s", self.before_s * self.team.world_size)
        if sys.stderr.isatty():
            self.bar = _bar(self.batches.num_steps, start.step)

    def _line(self, row: dict[str, Any]) -> str:
        done, last = row["step"], self.batches.num_steps
        left_s = (time.monotonic() - self.started) / (done - self.first_step) * (last - done)
        mfu = f" mfu {100 * row['mfu']:.1f} %" if row["mfu"] is not None else ""
        return (
            f"train: step {done}/{last} loss {row['loss']:.4f} lr {row['lr']:.2e} grad_norm {row['grad_norm']:.3f} "
            f"{row['tokens_per_s']:,.0f} tokens/s{mfu} balance {row['balance']:.2f} eta {_clock(left_s)}"
        )


def _bar(num_steps: int, first: int) -> Progress:
    columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"))
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    bar.add_task("train", total=num_steps, completed=first, loss=math.nan)
    bar.start()
    return bar


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
