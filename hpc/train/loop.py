"""The training loop: rows, forward, backward, step, log, save. It reads as the list of what a step does."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hpc.artifact import Work
from hpc.errors import StageError
from hpc.recipe.schema import Train
from hpc.train import checkpoint, mends
from hpc.train.attention import Bounds, Kernel
from hpc.train.batches import Batches, Row
from hpc.train.log import Log
from hpc.train.measure import Meter
from hpc.train.ranks import Interrupted, Stop, Team
from hpc.train.ulysses import Sharers

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


@dataclass
class Run:
    """What stays the same over the steps of an attempt."""

    work: Work
    team: Team
    batches: Batches
    stop: Stop
    meter: Meter
    kernel: Kernel
    sharers: Sharers | None
    form: dict[str, int]

    def inputs(self, row: Row) -> tuple[Any, ...]:
        """A row as the learner takes it, on this rank's device."""
        device = self.team.device
        tensors = (
            t.to(device, non_blocking=True) for t in (row.ids_BL, row.positions_BL, row.targets_N, row.weights_N)
        )
        return (*tensors, Bounds(row.edges, self.kernel, device, self.sharers))


def train(trainer: DeepSpeedEngine, run: Run, start: checkpoint.Start, log: Log) -> float:
    """Run steps `start.step` ... num_steps - 1; returns the loss of the last one (nan if none was left to run).

    Raises:
        Interrupted: a signal came; the checkpoint of the steps so far is complete, or its message says that it is not.
        hpc.artifact.Superseded: a younger attempt exists.
    """
    loss, last = log.last_loss, run.batches.num_steps
    cadence = checkpoint.Cadence(run.work.config.save_every_steps)
    if start.step < last and any(run.team.gather(run.stop.asked)):
        raise Interrupted(f"train {run.work.key}: stopped before step {start.step + 1} of {last}: nothing new to save")
    for step in range(start.step, last):
        loss, asked, due = run_step(trainer, run, cadence, step)
        log.step(step, loss, _grad_norm(trainer))
        done = step + 1
        if done < last and (asked or due):
            saved = checkpoint.save(trainer, run.work, run.team, done, run.form)
            cadence.saved(saved.seconds)
            if asked:
                lost = "" if saved.complete else "; NO CHECKPOINT was saved: the steps since the one before are lost"
                raise Interrupted(f"train {run.work.key}: stopped after step {done} of {last}{lost}")
    return loss


def run_step(trainer: DeepSpeedEngine, run: Run, cadence: checkpoint.Cadence, step: int) -> tuple[float, bool, bool]:
    """One optimizer step over one global batch: (its loss, was any rank asked to stop, is a checkpoint due)."""
    work, team = run.work, run.team
    torch.manual_seed(_draw(work.seed, step, team.rank))  # dropout, where a model has it, survives restarts unchanged
    mends.set_lr(trainer, learning_rate(work.config, step, run.batches.num_steps))
    total = torch.zeros((), dtype=torch.float64, device=team.device)
    passes = len(run.batches.passes(step))
    for number, row in enumerate(run.meter.waiting(run.batches.rows_of(step, team.rank))):
        trainer.set_gradient_accumulation_boundary(number == passes - 1)
        loss = trainer(*run.inputs(row))
        # a clone: without ZeRO, and under ZeRO-1 in bf16, DeepSpeed would divide by the number of passes all the same
        # where it gets the very tensor that its forward returned
        trainer.backward(loss.clone(), scale_wrt_gas=False)
        total += loss.detach()
        work.beat()
    trainer.step()
    due = team.leads and cadence.due(step + 1)
    summed, asked, wanted = team.sum([float(total), float(run.stop.asked), float(due)])
    _check_finite(trainer, work, step, summed)
    return summed / team.world_size, asked > 0, wanted > 0


def learning_rate(settings: Train, step: int, num_steps: int) -> float:
    """The rate of a step (from 0), as in the Hugging Face Trainer: linear from 0 over ceil(ratio x steps), then the
    schedule, which reaches min_lr after the last step."""
    warmup = math.ceil(settings.warmup_ratio * num_steps)
    if step < warmup:
        return settings.lr * step / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    share = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}
    return settings.min_lr + (settings.lr - settings.min_lr) * share[settings.schedule]


def _check_finite(trainer: DeepSpeedEngine, work: Work, step: int, loss: float) -> None:
    """Raise StageError where loss or gradients have left the numbers: DeepSpeed would skip the step, or apply it."""
    norm = trainer.get_global_grad_norm()
    if math.isfinite(loss) and (norm is None or math.isfinite(norm)) and trainer.was_step_applied():
        return
    raise StageError(
        f"training came apart in step {step + 1}",
        where=f"train {work.key}",
        why=f"the loss is {loss:g}, the norm of its gradient {norm}; nothing was saved since",
        next="lower train.lr, raise train.warmup_ratio, or look for a broken weight or example (hpc show --example); "
        "hpc submit goes on from the last checkpoint",
    )


def _grad_norm(trainer: DeepSpeedEngine) -> float:
    norm = trainer.get_global_grad_norm()
    return math.nan if norm is None else float(norm)


def _draw(seed: int, step: int, rank: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:7], "big")
