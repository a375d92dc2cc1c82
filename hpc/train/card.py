"""The card of a trained model: what it is made of, by which settings, at what cost. README.md beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hpc import files
from hpc.artifact import Work
from hpc.recipe.typed import plain


def write(work: Work, counts: dict[str, Any]) -> None:
    """Write out/model/README.md from the stage's settings, its inputs, its counts and its metrics."""
    (work.out / "model" / "README.md").write_text(text(work, counts), encoding="utf-8")


def text(work: Work, counts: dict[str, Any]) -> str:
    """The card: front matter that the hub reads, then tables. Examples of the data never stand in it."""
    model, base, drawn = work.inputs["model"], _name(work.inputs["model"]), work.config.init == "random"
    front: dict[str, Any] = {"library_name": "transformers", "tags": ["sft", "reasoning"]}
    if not isinstance(model, Path) and not drawn:
        front["base_model"] = base.partition("@")[0]
    settings = yaml.safe_dump(plain(work.config, "what"), sort_keys=False).strip()
    done = f"on {counts['examples']:,} examples in {counts['steps']:,} steps"
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False).strip()}\n---",
        f"# {work.run_name or work.key}",
        f"The shape of {base} with weights drawn at random, trained {done}."
        if drawn
        else f"{base}, fine-tuned {done}.",
        "## What it was made of",
        _table(_parts(work, base)),
        f"## Settings\n\n```yaml\n{settings}\n```",
        "## What it took",
        _table(_cost(work, counts)),
    ]
    return "\n\n".join(parts) + "\n"


def _parts(work: Work, base: str) -> dict[str, str]:
    return {
        "shape and tokenizer of" if work.config.init == "random" else "model": base,
        "data": _name(work.inputs["data"]),
        "data manifest (sha256)": _manifest(work),
        "format": work.what["format"]["name"],
        "seed": str(work.seed),
        "stage key": f"train {work.key}",
    }


def _name(source: Path | str) -> str:
    """An input as others know it: org/name@revision, STAGE/KEY of an artifact, the name of a local folder."""
    if not isinstance(source, Path):
        return source
    folder = source.parent if source.name == "model" else source  # of a train artifact, the model is what is meant
    made = folder.parent.parent.name == "artifacts"
    return f"{folder.parent.name}/{folder.name}" if made else source.name


def _manifest(work: Work) -> str:
    """The digest of the data's manifest: what every filter kept, and why the rest fell."""
    path = Path(work.inputs["data"]) / "manifest.json"
    return files.sha256_file(path) if path.is_file() else "none: the data is a local folder without a manifest"


def _cost(work: Work, counts: dict[str, Any]) -> dict[str, str]:
    """Time of the steps that count, as metrics.jsonl has it, and what they cost; the price is not known to a job."""
    rows = list(files.read_jsonl(work.out / "metrics.jsonl"))
    seconds = rows[-1]["seconds"] if rows else 0.0
    hours = (rows[-1].get("rank_s", seconds * work.world_size) if rows else 0.0) / 3600
    mfu = [row["mfu"] for row in rows if row.get("mfu") is not None]
    on_gpu = any(row.get("gpu_gib") is not None for row in rows)
    found = {
        "trained tokens": f"{counts['trained_tokens']:,}",
        "overlong examples": f"{counts['cut']} cut, {counts['dropped']} dropped",
        "final loss": f"{counts['final_loss']:.4f}",
        "training time": f"{seconds / 3600:.2f} h, at last on {work.world_size} rank(s)",
        "GPU-hours" if on_gpu else "rank-hours": f"{hours:.2f}",
        "not in these": "start, export, and steps that a stop or a failure made to be done again",
    }
    if on_gpu:
        found["dollars"] = f"{hours:.2f} x the price of a GPU-hour (`usd_per_gpu_hour` of the cluster's profile)"
    if mfu:
        found["MFU (median)"] = f"{100 * sorted(mfu)[len(mfu) // 2]:.1f} %"
    return found


def _table(rows: dict[str, str]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])
