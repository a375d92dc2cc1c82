"""One rank of many trainings in a row, each compared with the textbook's: `python tests/train/parity.py CASES OUT`.

CASES: [{name, model, settings}]. OUT (from rank 0): for each how far losses, gradients, norms and weights are from
those of tests/train/reference.py, and a digest of their bits. The rank comes from SLURM_PROCID and SLURM_NTASKS.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import reference
import torch
from reference import Course

from hpc.plan import shapes
from hpc.recipe.schema import Train, Zero
from hpc.train import choices, engine, export, loop, measure, mends, ranks, weights
from hpc.train.batches import Batches, Layout
from hpc.train.checkpoint import Cadence
from hpc.train.pack import Cost
from hpc.train.text import ModelReference

ZERO = engine._zero


def settings_of(case: dict[str, Any]) -> Train:
    """The settings of a case."""
    return Train(**{**case["settings"], "zero": Zero(**case["settings"].get("zero", {}))})


def thin(*arguments: Any) -> dict[str, Any]:
    """ZeRO's settings for a model of which no weight is small: every weight is gathered, used and released again."""
    small = {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 5000, "reduce_bucket_size": 5000}
    return {**ZERO(*arguments), **small, "stage3_max_live_parameters": 10000, "stage3_max_reuse_distance": 10000}


def leave_first(trainer: Any) -> None:
    """Let DeepSpeed believe that the first part of the states is left on a GPU, as a partial offload does there."""
    trainer.optimizer.subgroup_to_device[0] = "gpu"
    mends.save_all_states(trainer)


def run(case: dict[str, Any], team: ranks.Team) -> tuple[Course, Batches]:
    """Train as the stage does, with the gradients of every step gathered; and the batches."""
    settings, model = settings_of(case), ModelReference(case["model"])
    form, rows = weights.shape(model), reference.documents()
    chosen = choices.choose(settings, form, shapes.read(Path(model.name)), [len(row.ids) for row in rows], team)
    layout = Layout(
        team.world_size,
        chosen.sequence_parallel,
        settings.pack,
        chosen.row_tokens,
        settings.micro_batch,
        Cost(1e-3),
    )
    batches = Batches(
        rows,
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        seed=0,
        loss_average=settings.loss_average,
        layout=layout,
    )
    engine._zero = thin if case.get("thin") else ZERO
    engine._own_adam = lambda *_: case.get("own_adam", False)  # type: ignore[assignment]
    chosen = replace(chosen, offload_ratio=0.5 if case.get("partly") else 1.0)
    trainer = engine.build(settings, batches, chosen, model, form, team, seed=0)
    if case.get("partly"):
        leave_first(trainer)
    work: Any = SimpleNamespace(config=settings, seed=0, key="parity", beat=lambda: None)
    sharers = engine.sharers(team, chosen.sequence_parallel)
    going = loop.Run(work, team, batches, ranks.Stop(), measure.Meter(batches, team, None), chosen.kernel, sharers, {})
    course = Course(frequencies=trainer.module.network.model.rotary_emb.inv_freq.clone())
    watch(trainer, course)
    for step in range(batches.num_steps):
        course.losses.append(loop.run_step(trainer, going, Cadence(0), step)[0])
        course.norms.append(loop._grad_norm(trainer))
    course.weights = export.gather(trainer, team, torch.float32)
    trainer.destroy()
    return course, batches


def watch(trainer: Any, course: Course) -> None:
    """Gather the gradients between the last backward pass of a step and the optimizer."""
    from deepspeed.utils import safe_get_full_grad

    plain, named = trainer.step, dict(trainer.module.network.named_parameters())

    def step() -> None:
        course.gradients.append({name: safe_get_full_grad(p).float().clone() for name, p in named.items()})
        plain()

    trainer.step = step


def compare(course: Course, plain: Course) -> dict[str, Any]:
    """How far a course is from the plain one; gradients relative to the norm of each tensor's."""
    apart = [
        float((mine[name] - other[name]).norm() / other[name].norm())
        for mine, other in zip(course.gradients, plain.gradients, strict=True)
        for name in other
    ]
    moved = [float((course.weights[name] - plain.weights[name]).abs().max()) for name in plain.weights]
    return {
        "loss": max(abs(a - b) for a, b in zip(course.losses, plain.losses, strict=True)),
        "norm": max(abs(a - b) / b for a, b in zip(course.norms, plain.norms, strict=True)),
        "gradient": max(apart),
        "weight": max(moved),
        "same_frequencies": torch.equal(course.frequencies, plain.frequencies),
        "bits": digest(course),
        "norms": course.norms,
        "losses": course.losses,
    }


def digest(course: Course) -> str:
    """Of the bits of losses and weights."""
    bits = hashlib.sha256(json.dumps(course.losses).encode())
    for name in sorted(course.weights):
        bits.update(course.weights[name].numpy().tobytes())
    return bits.hexdigest()


def main() -> None:
    """Run all cases; rank 0 compares and writes."""
    team = ranks.join(int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"]))
    cases, found, plain = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), [], {}
    for case in cases:
        began = time.monotonic()
        course, batches = run(case, team)
        gc.collect()
        if not team.leads:
            continue
        settings, steps = settings_of(case), range(batches.num_steps)
        same = (case["model"], settings.loss_average, settings.grad_clip, settings.lr)
        if same not in plain:
            mends.restore_linear()  # torch's, not DeepSpeed's
            plain[same] = reference.train(Path(case["model"]), [batches.members(s) for s in steps], settings)
        found.append(
            {
                "name": case["name"],
                "passes": [len(batches.passes(step)) for step in steps],
                "seconds": round(time.monotonic() - began, 1),
                **compare(course, plain[same]),
            }
        )
        print(found[-1]["name"], found[-1]["seconds"], file=sys.stderr, flush=True)
    if team.leads:
        Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
