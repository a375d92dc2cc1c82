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
    base = Path(work.inputs["model"]).name if isinstance(work.inputs["model"], Path) else str(work.inputs["model"])
    front: dict[str, Any] = {"library_name": "transformers", "tags": ["sft", "reasoning"]}
    if not isinstance(work.inputs["model"], Path):
        front["base_model"] = base.partition("@")[0]
    settings = yaml.safe_dump(plain(work.config, "what"), sort_keys=False).strip()
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False).strip()}\n---",
        f"# {work.run_name or work.key}",
        f"{base}, fine-tuned on {counts['examples']:,} examples in {counts['steps']:,} steps.",
        "## What it was made of",
        _table({"model": base, "data manifest (sha256)": _manifest(work), "stage key": f"train {work.key}"}),
        f"## Settings\n\n```yaml\n{settings}\n```",
        "## What it took",
        _table(_cost(work, counts)),
    ]
    return "\n\n".join(parts) + "\n"


def _manifest(work: Work) -> str:
    """The digest of the data's manifest: what every filter kept, and why the rest fell."""
    path = Path(work.inputs["data"]) / "manifest.json"
    return files.sha256_file(path) if path.is_file() else "none: the data is a local folder without a manifest"


def _cost(work: Work, counts: dict[str, Any]) -> dict[str, str]:
    """Time and GPU-hours of the training steps of all attempts, as metrics.jsonl has them."""
    rows = list(files.read_jsonl(work.out / "metrics.jsonl"))
    seconds = rows[-1]["seconds"] if rows else 0.0
    mfu = [row["mfu"] for row in rows if row.get("mfu") is not None]
    found = {
        "trained tokens": f"{counts['trained_tokens']:,}",
        "overlong examples": f"{counts['cut']} cut, {counts['dropped']} dropped",
        "final loss": f"{counts['final_loss']:.4f}",
        "training time": f"{seconds / 3600:.2f} h on {work.world_size} rank(s)",
        "rank-hours": f"{seconds / 3600 * work.world_size:.2f}",
    }
    if mfu:
        found["MFU (median)"] = f"{100 * sorted(mfu)[len(mfu) // 2]:.1f} %"
    return found


def _table(rows: dict[str, str]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])
