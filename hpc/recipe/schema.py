"""Every key of a recipe, with its type, unit, default, and whether it is *what* or *how*.

*what* changes the meaning of a result and enters the key of its stage; *how* changes only the way to it. A field added
after its stage was first released is marked `late`: it is left out of the key at its default, so old keys stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

STAGES = ("data", "train", "generate", "grade")

Spec = str | dict[str, Any]
"""A name, or {name: ..., keyword: value}: a source, filter, selection, task or grader with its arguments."""


def what(default: Any, doc: str, *, late: bool = False, least: float | None = None) -> Any:
    """A field that changes the meaning of the result. `late`: left out of the key at its default; `least`: a bound."""
    return _field(default, {"kind": "what", "doc": doc, "late": late, "least": least})


def how(default: Any, doc: str, *, least: float | None = None, older: dict[Any, Any] | None = None) -> Any:
    """A field that changes only the way to the same result. `least`: smallest value; `older`: values once in use."""
    return _field(default, {"kind": "how", "doc": doc, "late": False, "least": least, "older": older or {}})


def _field(default: Any, metadata: dict[str, Any]) -> Any:
    if isinstance(default, type) or (callable(default) and default in (list, dict)):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _copied(value: list[Any]) -> Any:
    return lambda: list(value)


@dataclass
class Part:
    """One ingredient of a mix."""

    source: Spec = what("", "data set: a name, {name, arguments}, run:RECIPE[#stage] or path/file.py:function")
    filters: list[Spec] = what(list, "filters in order; each keeps or drops an example and counts what it dropped")
    select: Spec = what("all", "selection: all, random, diverse, longest, s1 or path/file.py:function")
    size: int | None = what(None, "number of examples to select; null keeps all", least=1)


@dataclass
class Data:
    """Load, filter, select, mix and decontaminate training examples."""

    source: Spec = what("", "data set: a name, {name, arguments}, run:RECIPE[#stage] or path/file.py:function")
    mix: dict[str, Part] = what(dict, "several ingredients by name, instead of one source; each has its own size")
    filters: list[Spec] = what(list, "filters in order; each keeps or drops an example and counts what it dropped")
    select: Spec = what("all", "selection: all, random, diverse, longest, s1 or path/file.py:function")
    size: int | None = what(None, "number of examples to select; null keeps all", least=1)
    decontaminate: list[str] = what(list, "tasks whose questions must not occur in the selected examples")
    ngram_words: int = what(13, "length in words of the n-gram that counts as an overlap when decontaminating", least=1)
    tokenizer: str = what("words", "counts lengths: words (split at white space), or a model reference")
    edition: str = what("", "any text; another text makes another artifact from the same settings")


@dataclass
class Zero:
    """DeepSpeed ZeRO: how states are sharded."""

    stage: int = how(3, "0 replicates; 1 shards optimizer states, 2 also gradients, 3 also parameters")
    offload: Literal["auto", "none", "optimizer", "all"] = how(
        "auto", "what lives in host memory: optimizer states and gradients, or parameters too; auto decides by memory"
    )
    offload_ratio: float | Literal["auto"] = how(
        "auto",
        "share of the optimizer states in host memory where they are offloaded, 0 to 1; auto = as few as fit",
        least=0,
    )


@dataclass
class Train:
    """Supervised fine-tuning on examples: loss on thinking and answer only."""

    lr: float = what(1e-5, "peak learning rate", least=0)
    epochs: float = what(3, "passes over the data", least=0)
    batch_size: int = what(16, "examples per optimizer step, over all ranks", least=1)
    max_tokens: int = what(32768, "longest example in tokens; longer ones are treated as `overlong` says", least=1)
    overlong: Literal["drop", "cut"] = what("cut", "an example above max_tokens is dropped, or its end is cut off")
    schedule: Literal["cosine", "linear", "constant"] = what("cosine", "learning rate after the warm-up, to min_lr")
    min_lr: float = what(0.0, "learning rate at the last step")
    warmup_ratio: float = what(0.05, "share of all steps in which the rate rises linearly from 0", least=0)
    betas: list[float] = field(
        default_factory=_copied([0.9, 0.999]), metadata={"kind": "what", "doc": "AdamW betas", "late": False}
    )
    eps: float = what(1e-8, "AdamW epsilon")
    weight_decay: float = what(0.0, "AdamW weight decay", least=0)
    grad_clip: float = what(1.0, "largest global gradient norm")
    loss_average: Literal["sample", "token"] = what(
        "token", "every sample of a batch weighs the same (s1, Sky-T1), or every trained token does"
    )
    dtype: Literal["bf16", "fp32"] = what("bf16", "number format of forward and backward")
    state_dtype: Literal["fp32", "bf16"] = what(
        "fp32",
        "number format of master weights and optimizer states; bf16 halves their memory and loses small updates",
        late=True,
    )
    init: Literal["pretrained", "random"] = what("pretrained", "start from the model's weights, or draw them anew")
    edition: str = what("", "any text; another text makes another artifact from the same settings")
    zero: Zero = how(Zero, "DeepSpeed ZeRO")
    pack: bool = how(True, "examples are packed without padding into rows; false computes them `micro_batch` at a time")
    row_tokens: int | Literal["auto"] = how(
        "auto",
        "most tokens of one packed row (one forward pass of the ranks that share it); auto = as memory allows",
        least=1,
    )
    memory_share: float = how(
        0.92,
        "share of a GPU's memory that automatic settings may fill; lowered where a GPU was full after all",
        least=0,
    )
    micro_batch: int = how(1, "examples per rank in one forward pass, where they are not packed", least=1)
    sequence_parallel: int | Literal["auto"] = how(
        "auto", "ranks that share a row (Ulysses); auto = as few as fit and balance best", least=1
    )
    activation_checkpointing: Literal["auto", "none", "selective", "full", "offloaded"] = how(
        "auto",
        "recompute in the backward pass: nothing, cheap parts of every layer, whole layers, or whole layers from "
        "inputs in host memory; auto = as little as fits",
        older={True: "full", False: "none"},
    )
    loss_chunk: int = how(
        1024, "positions whose logits exist at once in the loss; 0 computes all at once, as Hugging Face does", least=0
    )
    attention: Literal["auto", "sdpa", "varlen", "flash"] = how("auto", "kernel of attention")
    save_every_steps: int | Literal["auto"] = how(
        "auto",
        "steps between checkpoints to resume from; 0 saves none, auto follows the time that saving takes",
        least=0,
    )
    keep_checkpoints: int = how(2, "newest checkpoints that are kept", least=1)
    log_every_steps: int = how(10, "steps between lines in metrics.jsonl", least=1)


@dataclass
class Thinking:
    """Budget forcing (s1, section 3.1): limits on thinking tokens, and suppressed ends of thinking."""

    max: int | Literal["auto"] | None = what(
        None,
        "cut thinking after so many tokens; auto = max_tokens - answer_tokens; null never cuts",
        least=0,
    )
    min: int = what(0, "suppress the end of thinking until so many tokens", least=0)
    waits: int = what(0, "number of ends of thinking to suppress", least=0)
    wait_text: str = what("Wait", "text appended at a suppressed end; empty appends nothing")


@dataclass
class Generate:
    """Complete the questions of every task: one artifact per task."""

    tasks: list[Spec] = what(list, "tasks by name; {name: math500, limit: 100} takes the first 100 questions")
    thinking: Thinking = what(Thinking, "budget forcing")
    max_tokens: int = what(32768, "most tokens of a completion, thinking and answer together", least=1)
    answer_tokens: int = what(2048, "tokens kept for the answer when thinking.max is auto", least=0)
    num_samples: int | Literal["auto"] = what(
        "auto", "completions per question; auto = the task's `repeats` at temperature > 0, else 1", least=1
    )
    temperature: float = what(0.0, "0 is greedy", least=0)
    top_p: float = what(1.0, "nucleus sampling: smallest set of tokens with this probability")
    engine: Literal["vllm", "transformers"] = what("vllm", "who generates")
    dtype: Literal["bf16", "fp32"] = what("bf16", "number format of weights and activations")
    context_tokens: int | None = what(None, "longest prompt + completion; null is the model's own limit")
    edition: str = what("", "any text; another text makes another artifact from the same settings")
    tensor_parallel: int | Literal["auto"] = how("auto", "GPUs that share one copy of the model; auto = all of the job")
    batch_size: int = how(256, "sequences that are begun together; chunks of work are counted in it", least=1)
    engine_batch: int | None = how(
        None, "most sequences in the engine at once; null = batch_size. Halved when the GPU is full", least=1
    )
    gpu_memory_fraction: float = how(0.9, "share of GPU memory that the engine may take")


@dataclass
class Grade:
    """Judge every completion with the task's grader."""

    grader: Spec = what("", "replaces the task's own grader; empty keeps it")
    timeout_s: float = what(10.0, "seconds that one answer may take before its verdict is grader_error", least=0)
    edition: str = what("", "any text; another text makes another artifact from the same settings")
    workers: int | Literal["auto"] = how(
        "auto", "processes that grade in parallel; auto = the cores that the job may use", least=1
    )
    sandbox: Literal["auto", "bubblewrap", "apptainer", "unsafe"] = how(
        "auto",
        "what isolates programs written by a model; auto takes what works here and refuses where nothing does; unsafe "
        "runs them as you, with your files, network and credentials",
    )


@dataclass
class Seeds:
    """Seeds by stage; each seed is a run. A seed enters only the keys of stages that draw."""

    data: list[int] = field(default_factory=_copied([0]), metadata={"kind": "what", "doc": "selection", "late": False})
    train: list[int] = field(
        default_factory=_copied([0]), metadata={"kind": "what", "doc": "order of examples, new weights", "late": False}
    )
    generate: list[int] = field(
        default_factory=_copied([0]), metadata={"kind": "what", "doc": "sampling, at temperature > 0", "late": False}
    )


@dataclass
class Resources:
    """What one job of a stage asks of the cluster."""

    gpus: int = how(0, "GPUs over all nodes; 0 runs on CPUs", least=0)
    gpu: str = how("", "GPU type as Slurm names it (h100); empty takes any")
    ranks: int | Literal["auto"] = how("auto", "processes; auto = one per GPU for train, else 1", least=1)
    nodes: int | Literal["auto"] = how("auto", "nodes; auto = as few as the profile's GPUs per node allow", least=1)
    cpus_per_rank: int = how(0, "CPU cores of each rank; 0 takes the profile's default", least=0)
    memory_gib: float = how(0, "memory of each node in GiB; 0 takes the profile's default", least=0)
    hours: float = how(0, "time limit of one job in hours; 0 takes the profile's default", least=0)


@dataclass
class Placement:
    """Resources by stage."""

    data: Resources = how(Resources, "resources of data jobs")
    train: Resources = how(Resources, "resources of train jobs")
    generate: Resources = how(Resources, "resources of generate jobs")
    grade: Resources = how(Resources, "resources of grade jobs")


@dataclass
class Recipe:
    """One experiment, declared. `hpc show RECIPE` prints it resolved."""

    about: str = how("", "one line: what this experiment is, and its source")
    model: str = what("", "org/name[@revision], a local folder, or run:RECIPE (the model that recipe trains)")
    format: str = what("think_answer", "text format of thinking and answer: a name in hpc/formats or a .yaml path")
    data: Data | None = what(None, "stage data; null when nothing is trained")
    train: Train | None = what(None, "stage train; null evaluates the model as it is")
    generate: Generate | None = what(None, "stage generate; null stops after training")
    grade: Grade = what(Grade, "stage grade")
    seeds: Seeds = what(Seeds, "seeds by stage; a plain list means train")
    resources: Placement = how(Placement, "resources by stage")
