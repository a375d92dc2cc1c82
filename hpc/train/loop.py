"""The training loop: batch, forward, backward, step, log, save. It reads as the list of what a step does."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hpc import track
from hpc.artifact import Work
from hpc.recipe.schema import Train
from hpc.train import checkpoint
from hpc.train.batches import Batches
from hpc.train.loss import weighted_cross_entropy
from hpc.train.ranks import Stop, Team

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class Interrupted(Exception):
    """Training was asked to stop and has saved a checkpoint at a step boundary; the next attempt goes on from there."""


def train(
    trainer: DeepSpeedEngine, batches: Batches, work: Work, team: Team, stop: Stop, start: checkpoint.Start
) -> float:
    """Run steps `start.step` ... num_steps - 1; returns the loss of the last one (nan if none was left to run).

    Raises:
        Interrupted: a signal came; the checkpoint of the steps so far is complete.
        hpc.artifact.Superseded: a younger attempt exists.
    """
    log = Log(batches, work, team, start)
    loss = log.last_loss
    try:
        for step in range(start.step, batches.num_steps):
            loss, asked = run_step(trainer, batches, work, team, stop, step)
            log.step(step, loss, _grad_norm(trainer))
            done = step + 1
            every = work.config.save_every_steps
            if asked and done < batches.num_steps:
                checkpoint.save(trainer, work, team, done)
                raise Interrupted(f"train {work.key}: stopped after step {done} of {batches.num_steps}")
            if every and done % every == 0 and done < batches.num_steps:
                checkpoint.save(trainer, work, team, done)
    finally:
        log.close()
    return loss


def run_step(
    trainer: DeepSpeedEngine, batches: Batches, work: Work, team: Team, stop: Stop, step: int
) -> tuple[float, bool]:
    """One optimizer step over one global batch: (its loss, whether any rank was asked to stop)."""
    import torch

    torch.manual_seed(_draw(work.seed, step, team.rank))  # dropout, where a model has it, survives restarts unchanged
    _set_lr(trainer, learning_rate(work.config, step, batches.num_steps))
    total = 0.0
    for micro in batches.micros(step, team.rank):
        ids_BL, weights_BL = micro.ids_BL.to(team.device), micro.weights_BL.to(team.device)
        logits_BLV = trainer(input_ids=ids_BL, use_cache=False).logits
        loss = weighted_cross_entropy(logits_BLV, ids_BL, weights_BL)
        trainer.backward(loss, scale_wrt_gas=False)
        trainer.step()
        work.beat()
        total += float(loss.detach())
    summed, asked = team.sum([total, float(stop.asked)])
    return summed / team.world_size, asked > 0


def learning_rate(settings: Train, step: int, num_steps: int) -> float:
    """The rate of a step (from 0), as in the Hugging Face Trainer: linear from 0 over ceil(ratio x steps), then the
    schedule, which reaches min_lr after the last step."""
    warmup = math.ceil(settings.warmup_ratio * num_steps)
    if step < warmup:
        return settings.lr * step / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    share = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}
    return settings.min_lr + (settings.lr - settings.min_lr) * share[settings.schedule]


class Log:
    """metrics.jsonl, W&B and the progress lines of rank 0; other ranks keep quiet.

    A row: step (from 1) of steps, its loss, lr, grad_norm (before clipping), tokens (trained so far), tokens_per_s
    (prompts too, since the row before), seconds (training so far, attempts before this one included).
    """

    def __init__(self, batches: Batches, work: Work, team: Team, start: checkpoint.Start) -> None:
        self.batches, self.team, self.settings = batches, team, work.config
        self.first_step, self.trained = start.step, sum(batches.trained_tokens(s) for s in range(start.step))
        self.started = self.row_started = time.monotonic()
        self.row_tokens, self.before_s = 0, 0.0
        self.last_loss = math.nan
        self.tracker: track.Tracker | None = None
        if team.leads:
            self._open(work, start)

    def step(self, step: int, loss: float, grad_norm: float) -> None:
        """Account for a finished step; every log_every_steps, and at the first and the last, write a row."""
        self.trained += self.batches.trained_tokens(step)
        self.row_tokens += self.batches.tokens(step)
        done, last = step + 1, self.batches.num_steps
        if self.tracker is None or not (done % self.settings.log_every_steps == 0 or done in (1, last)):
            return
        now = time.monotonic()
        row = {
            "step": done,
            "steps": last,
            "loss": loss,
            "lr": learning_rate(self.settings, step, last),
            "grad_norm": grad_norm,
            "tokens": self.trained,
            "tokens_per_s": round(self.row_tokens / (now - self.row_started), 1),
            "seconds": round(self.before_s + now - self.started, 3),
        }
        self.row_started, self.row_tokens = now, 0
        self.tracker.log(row)
        self.team.say(self._line(row, now))

    def close(self) -> None:
        """Finish the W&B run, if there is one."""
        if self.tracker is not None:
            self.tracker.close()

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

    def _line(self, row: dict[str, Any], now: float) -> str:
        done, last = row["step"], self.batches.num_steps
        left_s = (now - self.started) / (done - self.first_step) * (last - done)
        return (
            f"train: step {done}/{last} loss {row['loss']:.4f} lr {row['lr']:.2e} grad_norm {row['grad_norm']:.3f} "
            f"{row['tokens_per_s']:,.0f} tokens/s eta {_clock(left_s)}"
        )


def _set_lr(trainer: DeepSpeedEngine, lr: float) -> None:
    for group in trainer.optimizer.param_groups:
        group["lr"] = lr


def _grad_norm(trainer: DeepSpeedEngine) -> float:
    norm = trainer.get_global_grad_norm()
    return math.nan if norm is None else float(norm)


def _draw(seed: int, step: int, rank: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:7], "big")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
