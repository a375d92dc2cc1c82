"""Stage `train`, as the worker calls it in every rank: render, build, resume, train, export.

srun python -m hpc.cluster.worker JOBFILE        the ranks come from SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc.artifact import Work
from hpc.formats import read_format
from hpc.recipe.schema import Train
from hpc.train import ranks, text
from hpc.train.batches import Batches

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def run(work: Work) -> dict[str, Any]:
    """Train `work.inputs["model"]` on `work.inputs["data"]`; writes out/model and out/metrics.jsonl.

    Returns the counts for DONE: steps, examples, dropped and cut overlong examples, trained tokens, final loss.

    Raises:
        hpc.train.loop.Interrupted: asked to stop (USR2 or TERM); a checkpoint is saved, the caller requeues.
        hpc.artifact.Superseded: a younger attempt exists.
        hpc.errors.StageError: the model or the examples cannot be trained on.
    """
    started = time.monotonic()
    with ranks.Stop() as stop:
        from hpc.train import checkpoint, engine, export, loop  # torch and DeepSpeed load here, not with the worker

        settings: Train = work.config
        team = ranks.join(work.rank, work.world_size)
        work.attempt = Path(team.agree(str(work.attempt)))
        model = text.model_reference(work.inputs["model"])
        tokenizer, rows, counts = _render(work, model)
        batches = Batches(
            rows,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            seed=work.seed,
            loss_average=settings.loss_average,
            world_size=team.world_size,
            micro_batch=settings.micro_batch,
        )
        trainer = engine.build(settings, batches, model, team, seed=work.seed)
        start = checkpoint.resume(trainer, work, team)
        team.say(f"train: ready after {time.monotonic() - started:.1f} s; {batches.about()}")
        final_loss = loop.train(trainer, batches, work, team, stop, start)
        export.save(trainer, tokenizer, work.out / "model", team, settings.dtype)
    return {
        "steps": batches.num_steps,
        "final_loss": final_loss,
        **counts,
        "trained_tokens": sum(batches.trained_tokens(step) for step in range(batches.num_steps)),
    }


def _render(
    work: Work, model: text.ModelReference
) -> tuple[PreTrainedTokenizerBase, list[text.Rendered], dict[str, int]]:
    tokenizer = text.load_tokenizer(model)
    examples = text.read_examples(Path(work.inputs["data"]) / "examples.jsonl")
    rows, counts = text.render_all(
        examples,
        tokenizer,
        read_format(**work.what["format"]),
        max_tokens=work.config.max_tokens,
        overlong=work.config.overlong,
    )
    return tokenizer, rows, counts
