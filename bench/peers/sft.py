"""The same fine-tuning by our loop and by TRL's SFTTrainer, timed step by step: bench/training.py and bench/gpu.py.

    python -m bench.peers.sft TASK.json       a worker: reads ways of training from stdin, answers each in a line

Ours is the loop of stage `train` under DeepSpeed with one rank; TRL's is SFTTrainer.train() with a callback that reads
the clock. Both start from the same random weights and see the same random documents in the same order.
"""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hpc.recipe.schema import Train, Zero
from hpc.train import pack
from hpc.train.batches import Batches, Layout
from hpc.train.text import Rendered

LR = 1e-5
SEED = 0


@dataclass(frozen=True)
class Task:
    """What is trained, whoever does it.

    Attributes:
        form: keyword arguments of transformers' Qwen2Config.
        tokens: length of every document; the first `prompt_tokens` of each carry no loss.
        batch_size: documents a step; the loss is the mean over its trained tokens.
        dtype: bf16 with fp32 master weights (ours: DeepSpeed's; TRL: autocast), or fp32.
        device: cuda or cpu.
    """

    form: dict[str, Any]
    tokens: tuple[int, ...]
    prompt_tokens: int = 8
    batch_size: int = 16
    dtype: str = "fp32"
    device: str = "cpu"


@dataclass
class Outcome:
    """What became of one training.

    Attributes:
        step_s, cpu_s: wall and CPU seconds of each step; the first warms up.
        step_tokens: tokens of each step, prompts too, padding not; step_squares: sum of their squared lengths.
        losses: of each step.
        passes: forward passes of each step.
        peak_allocated_bytes, peak_reserved_bytes: of the GPU, over all steps; 0 on CPUs.
        about: how it was laid out.
    """

    step_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    step_tokens: list[int] = field(default_factory=list)
    step_squares: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    peak_allocated_bytes: int = 0
    peak_reserved_bytes: int = 0
    about: str = ""

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Note the time of a step."""
        began, spent = time.perf_counter(), time.process_time()
        yield
        _finish()
        self.step_s.append(time.perf_counter() - began)
        self.cpu_s.append(time.process_time() - spent)


class Worker:
    """A process of its own that trains as it is told: what one library sets up does not meet the other."""

    def __init__(self, task: Task, folder: str) -> None:
        path = Path(tempfile.mkdtemp(dir=folder)) / "task.json"
        path.write_text(json.dumps(asdict(task)), encoding="utf-8")
        self.log = path.with_name("log")
        with self.log.open("w", encoding="utf-8") as log:
            command = [sys.executable, "-m", "bench.peers.sft", str(path)]
            first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]  # the Trainer would take all it sees
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": first},
            )

    def train(self, way: dict[str, Any]) -> Outcome:
        """One training; the worker stays for the next.

        Raises:
            RuntimeError: the worker has died; its last lines.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(way) + "\n")
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                return Outcome(**json.loads(line.removeprefix(ANSWER)))
        raise RuntimeError(f"{way}: {_last(self.log)}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


ANSWER = "outcome: "


def main() -> None:
    """Train once for every line of stdin, and answer in a line."""
    raw = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    task = Task(**{**raw, "tokens": tuple(raw["tokens"])})
    for line in sys.stdin:
        way = json.loads(line)
        train = {"ours": ours, "trl": trl}[way.pop("by")]
        print(ANSWER + json.dumps(asdict(train(task, Path(sys.argv[1]).parent, **way))), flush=True)
        gc.collect()


def ours(task: Task, folder: Path, *, zero_stage: int = 3, steps: int | None = None, **settings: Any) -> Outcome:
    """Our loop, as stage `train` runs it.

    Args:
        settings: of schema.Train, where they differ from the defaults.
        steps: as many of them; None is all.
    """
    from hpc.plan import shapes
    from hpc.train import choices, engine, loop, measure, ranks, weights
    from hpc.train.checkpoint import Cadence
    from hpc.train.text import ModelReference

    asked = _settings(task, zero_stage, settings)
    _form(task).save_pretrained(folder / "model")
    model, team = ModelReference(str(folder / "model")), ranks.join(0, 1)
    form, shape = weights.shape(model), shapes.read(folder / "model")
    assert shape is not None
    chosen = choices.choose(asked, form, shape, list(task.tokens), team, choices.machine_of(team))
    cost = pack.cost_of(shape.matmul_params, shape.layers, shape.queries)
    batches = _batches(task, Layout(1, 1, asked.pack, chosen.row_tokens, asked.micro_batch, cost))
    trainer = engine.build(asked, batches, chosen, model, form, team, seed=SEED)
    work: Any = SimpleNamespace(config=asked, seed=SEED, key="bench", beat=lambda: None)
    meter = measure.Meter(batches, team, shape)
    going = loop.Run(work, team, batches, ranks.Stop(), meter, chosen.kernel, None, {})
    outcome = Outcome(about="; ".join(chosen.reasons))
    _forget_peaks()
    for step in range(min(steps or batches.num_steps, batches.num_steps)):
        with outcome.timed():
            outcome.losses.append(loop.run_step(trainer, going, Cadence(0), step)[0])
        _count(outcome, [len(member.ids) for member in batches.members(step)], len(batches.passes(step)))
    _note_peaks(outcome)
    trainer.destroy()
    return outcome


def trl(
    task: Task,
    folder: Path,
    *,
    per_pass: int,
    row_tokens: int | None = None,
    padding_free: bool = False,
    attention: str = "sdpa",
    checkpointing: bool = False,
    steps: int | None = None,
) -> Outcome:
    """TRL's SFTTrainer.

    Args:
        per_pass: documents of one forward pass; rows where they are packed.
        row_tokens: pack (best-fit decreasing) into rows of so many tokens, as many rows a step as hold batch_size
            documents on average: other batches than ours, of the same size.
        padding_free: the documents of a pass end to end in one row.
        attention: transformers' name of the kernel.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from trl import SFTTrainer

    torch.manual_seed(SEED)
    network = AutoModelForCausalLM.from_config(_form(task), dtype=torch.float32, attn_implementation=attention)
    rows, documents = _trl_rows(task, row_tokens)
    each = max(1, round(len(rows) * task.batch_size / len(task.tokens))) if row_tokens else task.batch_size
    assert each % per_pass == 0, f"{each} rows a step are not whole passes of {per_pass}"
    config = _trl_config(task, folder, per_pass, each // per_pass, row_tokens, padding_free, checkpointing, steps)
    outcome = Outcome(about=f"{len(rows)} rows, {each} a step, {per_pass} a pass, attention {attention}")
    clock = _clock(outcome)
    trainer = SFTTrainer(network, config, train_dataset=documents, processing_class=_tokenizer(), callbacks=[clock])
    _forget_peaks()
    trainer.train()
    _note_peaks(outcome)
    outcome.losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    for first in range(0, len(rows), each)[: len(outcome.step_s)]:
        _count(outcome, [n for row in rows[first : first + each] for n in row], each // per_pass)
    return outcome


def _settings(task: Task, zero_stage: int, changes: dict[str, Any]) -> Train:
    plain: dict[str, Any] = {
        "lr": LR,
        "epochs": 1,
        "batch_size": task.batch_size,
        "max_tokens": max(task.tokens),
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "loss_average": "token",
        "dtype": task.dtype,
        "init": "random",
        "zero": Zero(stage=zero_stage, offload="none"),
    }
    return Train(**{**plain, **changes})


def _batches(task: Task, layout: Layout) -> Batches:
    return Batches(
        documents(task), batch_size=task.batch_size, epochs=1, seed=SEED, loss_average="token", layout=layout
    )


def documents(task: Task) -> list[Rendered]:
    """Documents of random tokens."""
    draw, vocabulary = random.Random(SEED), task.form["vocab_size"]
    return [
        Rendered(f"{n}", [draw.randrange(4, vocabulary) for _ in range(length)], task.prompt_tokens)
        for n, length in enumerate(task.tokens)
    ]


def _trl_rows(task: Task, row_tokens: int | None) -> tuple[list[list[int]], Any]:
    """The documents of each row that the trainer will see, in its order; and the data set, in the order of ours."""
    from datasets import Dataset, disable_progress_bars
    from trl import pack_dataset

    disable_progress_bars()
    batches = _batches(task, Layout())
    members = [member for step in range(batches.num_steps) for member in batches.members(step)]
    masked = [[-100] * m.prompt_tokens + m.ids[m.prompt_tokens :] for m in members]
    made = Dataset.from_dict({"input_ids": [m.ids for m in members], "labels": masked})
    if row_tokens is None:
        return [[len(m.ids)] for m in members], made
    return pack_dataset(made, row_tokens, "bfd")["seq_lengths"][:], made


def _trl_config(
    task: Task,
    folder: Path,
    per_pass: int,
    accumulated: int,
    row_tokens: int | None,
    padding_free: bool,
    checkpointing: bool,
    steps: int | None,
) -> Any:
    from trl import SFTConfig

    on_gpu = task.device == "cuda"
    return SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=accumulated,
        num_train_epochs=1,
        max_steps=steps or -1,
        learning_rate=LR,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused" if on_gpu else "adamw_torch",
        bf16=task.dtype == "bf16",
        use_cpu=not on_gpu,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        packing=row_tokens is not None,
        packing_strategy="bfd",
        max_length=row_tokens,
        padding_free=padding_free,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
    )


def _clock(outcome: Outcome) -> Any:
    """A callback that notes how long steps take, from the end of the one before, so that data loading counts."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self._begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            _finish()
            outcome.step_s.append(time.perf_counter() - self.began)
            outcome.cpu_s.append(time.process_time() - self.spent)
            self._begin()

        def _begin(self) -> None:
            self.began, self.spent = time.perf_counter(), time.process_time()

    return Clock()


def _tokenizer() -> Any:
    """Four words: the trainer asks for padding and for the end, nothing is tokenized."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2, "a": 3}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def _form(task: Task) -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(**task.form)


def _count(outcome: Outcome, lengths: Sequence[int], passes: int) -> None:
    outcome.step_tokens.append(sum(lengths))
    outcome.step_squares.append(sum(n * n for n in lengths))
    outcome.passes.append(passes)


def _finish() -> None:
    """Wait for the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _forget_peaks() -> None:
    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _note_peaks(outcome: Outcome) -> None:
    import torch

    if torch.cuda.is_available():
        outcome.peak_allocated_bytes = torch.cuda.max_memory_allocated()
        outcome.peak_reserved_bytes = torch.cuda.max_memory_reserved()


def _last(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])


if __name__ == "__main__":
    main()
