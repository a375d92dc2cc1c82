"""The same training by us, by Hugging Face's Trainer and by TRL, in one process: `python tests/train/peers.py OUT`.

All get the same weights, the same batches in the same order and the same settings; OUT has for each the losses, rates
and gradient norms of all steps. TRL's packing chooses the members of a batch itself, so where it packs, a batch is the
whole data set.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import parity
import reference
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from hpc.train import loop, mends, ranks
from hpc.train.text import Rendered

SETTINGS: dict[str, Any] = {
    "lr": 3e-3,
    "batch_size": 10,
    "epochs": 1,
    "dtype": "fp32",
    "weight_decay": 0.1,
    "grad_clip": 0.5,
    "warmup_ratio": 0.3,
    "schedule": "cosine",
    "loss_average": "token",
    "row_tokens": 131,
    "loss_chunk": 16,
}
NUM_WHOLE = 4
"""Steps of the trainings in which a batch is the whole data set."""


def ours(model: Path, **changes: Any) -> tuple[dict[str, list[float]], list[list[Rendered]]]:
    """What our loop makes of it, and the batches."""
    case = {"model": str(model), "settings": {**SETTINGS, **changes}}
    course, batches = parity.run(case, ranks.join(0, 1))
    steps = range(batches.num_steps)
    rates = [loop.learning_rate(parity.settings_of(case), step, batches.num_steps) for step in steps]
    found = {"losses": course.losses, "norms": course.norms, "rates": rates}
    return found, [batches.members(step) for step in steps]


def table(rows: list[Rendered]) -> Dataset:
    """Examples as their trainers take them: ids, and labels that leave the prompt out."""
    return Dataset.from_list(
        [{"input_ids": row.ids, "labels": [-100] * row.prompt_tokens + row.ids[row.prompt_tokens :]} for row in rows]
    )


def arguments(kind: Any, folder: Path, **changes: Any) -> Any:
    """Our settings by their names."""
    return kind(
        **{
            "output_dir": str(folder),
            "learning_rate": SETTINGS["lr"],
            "weight_decay": SETTINGS["weight_decay"],
            "max_grad_norm": SETTINGS["grad_clip"],
            "warmup_steps": SETTINGS["warmup_ratio"],
            "lr_scheduler_type": "cosine",
            "optim": "adamw_torch",
            "num_train_epochs": 1,
            "train_sampling_strategy": "sequential",
            "logging_steps": 1,
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "remove_unused_columns": False,
            **changes,
        }
    )


def history(trainer: Trainer) -> dict[str, list[float]]:
    """What a trainer logged, step by step."""
    trainer.train()
    rows = [row for row in trainer.state.log_history if "grad_norm" in row]
    names = {"losses": "loss", "norms": "grad_norm", "rates": "learning_rate"}
    return {ours: [float(row[theirs]) for row in rows] for ours, theirs in names.items()}


def padded(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch filled up to its longest example."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    columns = {
        "input_ids": ([row["input_ids"] for row in examples], 0),
        "labels": ([row["labels"] for row in examples], -100),
        "attention_mask": ([[1] * len(row["input_ids"]) for row in examples], 0),
    }
    return {
        name: pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=value)
        for name, (rows, value) in columns.items()
    }


def words() -> PreTrainedTokenizerFast:
    """A tokenizer that is never asked to tokenize."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    made = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>")


def network(model: Path) -> Any:
    """The weights of all, and torch's own linear, which DeepSpeed has replaced in this process."""
    mends.restore_linear()
    return AutoModelForCausalLM.from_pretrained(model, dtype="float32", attn_implementation="sdpa")


def by_trainer(model: Path, rows: list[Rendered], folder: Path, rows_at_once: int) -> dict[str, list[float]]:
    """Hugging Face's Trainer."""
    accumulated = SETTINGS["batch_size"] // rows_at_once
    made = arguments(
        TrainingArguments,
        folder,
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=accumulated,
    )
    return history(Trainer(network(model), made, train_dataset=table(rows), data_collator=padded))


def by_trl(
    model: Path, rows: list[Rendered], folder: Path, rows_at_once: int, **changes: Any
) -> dict[str, list[float]]:
    """TRL's SFTTrainer."""
    accumulated = changes.pop("accumulated", SETTINGS["batch_size"] // rows_at_once)
    made = arguments(
        SFTConfig,
        folder,
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=accumulated,
        **{"max_length": None, **changes},
    )
    return history(SFTTrainer(network(model), made, train_dataset=table(rows), processing_class=words()))


def packed_rows(rows: list[Rendered], length: int) -> int:
    """How many rows TRL packs these examples into."""
    from trl.data_utils import pack_dataset

    return len(pack_dataset(table(rows), length, "bfd"))


def main() -> None:
    """Train by all, for both models."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for kind in ("qwen2", "llama"):
            model = reference.write_model(Path(place) / kind, kind)
            ours_found, batches = ours(model)
            ordered, folder = [row for batch in batches for row in batch], Path(place) / "out"
            found[f"{kind} batches"] = {
                "ours": ours_found,
                "ours, not packed": ours(model, pack=False, loss_chunk=0)[0],
                "Trainer, 2 at once": by_trainer(model, ordered, folder, 2),
                "TRL, 2 at once": by_trl(model, ordered, folder, 2),
                "TRL, padding-free, 5 at once": by_trl(model, ordered, folder, 5, padding_free=True),
            }
            whole, batches = ours(model, batch_size=1000, epochs=NUM_WHOLE)
            rows = packed_rows(batches[0], 140)
            found[f"{kind} whole"] = {
                "ours": whole,
                "TRL, packed": by_trl(
                    model,
                    batches[0],
                    folder,
                    1,
                    packing=True,
                    max_length=140,
                    accumulated=rows,
                    num_train_epochs=NUM_WHOLE,
                ),
            }
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
