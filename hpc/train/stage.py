"""Stage `train`, as the worker calls it in every rank: render, choose, build, resume, train, export.

srun python -m hpc.cluster.worker JOBFILE        the ranks come from SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc.artifact import Work
from hpc.formats import read_format
from hpc.plan import memory, shapes
from hpc.recipe.schema import Train
from hpc.train import ranks, text
from hpc.train.batches import Batches, Layout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hpc.train.choices import Choices


def run(work: Work) -> dict[str, Any]:
    """Train `work.inputs["model"]` on `work.inputs["data"]`; writes out/model and out/metrics.jsonl.

    Returns the counts for DONE: steps, examples, dropped and cut overlong examples, trained tokens, final loss.

    Raises:
        hpc.train.ranks.Interrupted: asked to stop (USR2 or TERM), before the first step or after a save; the caller
            requeues.
        hpc.artifact.Superseded: a younger attempt exists.
        hpc.errors.StageError: the model or the examples cannot be trained on.
    """
    started = time.monotonic()
    with ranks.Stop() as stop, ExitStack() as closing:
        # torch and DeepSpeed load here, not with the worker
        from hpc.train import card, checkpoint, choices, engine, export, learner, log, loop, measure, weights

        settings: Train = work.config
        team = ranks.join(work.rank, work.world_size)
        cores = closing.enter_context(ranks.bound(team))
        work.attempt = Path(team.agree(str(work.attempt)))
        model = text.model_reference(work.inputs["model"])
        tokenizer, rows, counts = _render(work, model)
        form, tokens = weights.shape(model), [len(row.ids) for row in rows]
        shape = shapes.read(weights.folder(model))
        place = choices.machine_of(team)
        chosen = team.agree(choices.choose(settings, form, shape, tokens, team, place) if team.leads else None)
        assert chosen is not None
        learner.check(form, max(tokens), chosen.loss_chunk)
        batches = _batches(work, rows, chosen, shape, team)
        zero_form = checkpoint.layout(memory.zero_stage(settings), team.world_size)
        start = checkpoint.find(work, team, zero_form, stop)
        trainer = engine.build(settings, batches, chosen, model, form, team, seed=work.seed, universal=start.universal)
        checkpoint.resume(trainer, start, team)
        meter = measure.Meter(batches, team, shape, place.tflops if place else None)
        sharers = engine.sharers(team, chosen.sequence_parallel)
        for line in (cores, *chosen.reasons, batches.about(), f"ready after {time.monotonic() - started:.1f} s"):
            team.say(f"train: {line}")
        going = loop.Run(work, team, batches, stop, meter, chosen.kernel, sharers, zero_form)
        writer = closing.enter_context(log.Log(batches, work, team, start, meter, loop.learning_rate))
        final_loss = loop.train(trainer, going, start, writer)
        export.save(trainer, tokenizer, work.out / "model", team, settings.dtype)
        counts |= {
            "steps": batches.num_steps,
            "final_loss": final_loss,
            "trained_tokens": sum(batches.trained_tokens(step) for step in range(batches.num_steps)),
        }
        if team.leads:
            card.write(work, counts)
    return counts


def _render(
    work: Work, model: text.ModelReference
) -> tuple[PreTrainedTokenizerBase, list[text.Rendered], dict[str, Any]]:
    tokenizer = text.load_tokenizer(model)
    examples = text.read_examples(Path(work.inputs["data"]) / "examples.jsonl")
    rows, counts = text.render_all(
        examples,
        tokenizer,
        read_format(**work.what["format"]),
        max_tokens=work.config.max_tokens,
        overlong=work.config.overlong,
    )
    return tokenizer, rows, dict(counts)


def _batches(
    work: Work, rows: list[text.Rendered], chosen: Choices, shape: shapes.Shape | None, team: ranks.Team
) -> Batches:
    from hpc.train.pack import Cost, cost_of

    settings: Train = work.config
    cost = cost_of(shape.matmul_params, shape.layers, shape.queries) if shape else Cost()
    layout = Layout(
        world_size=team.world_size,
        sharing=chosen.sequence_parallel,
        packed=settings.pack,
        row_tokens=chosen.row_tokens,
        micro_batch=settings.micro_batch,
        cost=cost,
    )
    return Batches(
        rows,
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        seed=work.seed,
        loss_average=settings.loss_average,
        layout=layout,
    )
