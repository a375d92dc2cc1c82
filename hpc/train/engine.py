"""The model under DeepSpeed: configured from the recipe's settings, weights loaded or drawn, sharded over ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from hpc.errors import StageError
from hpc.recipe.schema import Train
from hpc.train.batches import Batches
from hpc.train.ranks import Team
from hpc.train.text import ModelReference

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

Offload = Literal["none", "optimizer", "all"]

STATE_BYTES = {"none": 18, "optimizer": 4}
"""Bytes per parameter on the GPUs, all ranks together. bf16 weights 2, fp32 gradients 4, master, mean and variance 12;
with the optimizer in host memory weights 2 and gradients on their way 2."""

MODEL_SHARE = 0.6
"""Share of GPU memory that model states may take; the rest is for activations and buffers."""


def build(settings: Train, batches: Batches, model: ModelReference, team: Team, *, seed: int) -> DeepSpeedEngine:
    """A DeepSpeed engine around the model, ready for its first step; the same weights whatever the number of ranks."""
    import deepspeed
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    shape = transformers.AutoConfig.from_pretrained(model.name, revision=model.revision)
    offload = choose_offload(settings, shape, team)
    config = deepspeed_config(
        settings, batches, hidden=getattr(shape, "hidden_size", 0), offload=offload, device=team.device.type
    )
    network = _random(shape, settings, seed) if settings.init == "random" else _pretrained(model, settings, config)
    network.config.use_cache = False
    if settings.activation_checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    network.train()
    trainer, *_ = deepspeed.initialize(model=network, model_parameters=_groups(network, settings), config=config)
    return trainer


def deepspeed_config(
    settings: Train, batches: Batches, *, hidden: int, offload: Offload, device: str
) -> dict[str, Any]:
    """DeepSpeed's configuration. Bucket sizes follow the layers: `hidden` is the width of the model.

    On GPUs without offload and on CPUs the optimizer is torch's AdamW; DeepSpeed's CPUAdam (compiled at first use)
    serves only states that were offloaded from GPUs.
    """
    on_gpu = device == "cuda"
    own_adam = on_gpu and offload != "none"
    adam = {
        "lr": settings.lr,
        "betas": list(settings.betas),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
        "torch_adam": not own_adam,
    }
    return {
        "train_batch_size": batches.micro_batch * batches.micro_steps * batches.world_size,
        "train_micro_batch_size_per_gpu": batches.micro_batch,
        "gradient_accumulation_steps": batches.micro_steps,
        "gradient_clipping": settings.grad_clip,
        "optimizer": {"type": "AdamW", "params": adam},
        "zero_force_ds_cpu_optimizer": own_adam,
        "bf16": {"enabled": settings.dtype == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": _zero(settings, hidden, offload, on_gpu),
        "steps_per_print": 10**9,
    }


def choose_offload(settings: Train, shape: PretrainedConfig, team: Team) -> Offload:
    """What lives in host memory. `auto`: as little as lets the model's states fill at most 60 % of the GPUs' memory."""
    asked = settings.zero.offload
    if asked != "auto":
        return asked
    if team.device.type != "cuda":
        return "none"
    import torch

    memory = torch.cuda.get_device_properties(team.device).total_memory * team.world_size
    params = _count_parameters(shape)
    fits = [kind for kind, each in STATE_BYTES.items() if params * each <= MODEL_SHARE * memory]
    chosen: Any = fits[0] if fits else "all"
    team.say(
        f"train: offload {chosen}: {params / 1e9:.2f} G parameters x {STATE_BYTES['none']} B = "
        f"{params * STATE_BYTES['none'] / 2**30:.0f} GiB of states, {memory / 2**30:.0f} GiB on the GPUs"
    )
    return chosen


def _zero(settings: Train, hidden: int, offload: Offload, on_gpu: bool) -> dict[str, Any]:
    bucket = max(hidden * hidden, 1_000_000)
    zero: dict[str, Any] = {
        "stage": settings.zero.stage,
        "overlap_comm": on_gpu,
        "contiguous_gradients": on_gpu,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "stage3_prefetch_bucket_size": bucket * 9 // 10,
        "stage3_param_persistence_threshold": max(10 * hidden, 100_000),
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    if offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    if offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": on_gpu}
    return zero


def _random(shape: PretrainedConfig, settings: Train, seed: int) -> PreTrainedModel:
    """New weights, drawn whole in fp32 on every rank from the same seed; DeepSpeed shards them afterwards."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    network: PreTrainedModel = AutoModelForCausalLM.from_config(shape, dtype=torch.float32, attn_implementation="sdpa")
    return network.to(_dtype(settings))


def _pretrained(model: ModelReference, settings: Train, config: dict[str, Any]) -> PreTrainedModel:
    """The model's weights; under ZeRO-3 each tensor is sharded as soon as it is made."""
    from transformers import AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig

    keep = HfDeepSpeedConfig(config) if settings.zero.stage == 3 else None  # from_pretrained looks for a living one
    try:
        network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            model.name, revision=model.revision, dtype=_dtype(settings), attn_implementation="sdpa"
        )
    except OSError as error:
        raise StageError(
            "the model cannot be loaded",
            where=model.name,
            why=str(error).splitlines()[0],
            next="check the folder or the hub name; train.init=random starts from config.json alone",
        ) from error
    del keep
    return network


def _groups(network: nn.Module, settings: Train) -> list[dict[str, Any]]:
    """Weight decay on matrices, not on norms and biases: as in the Hugging Face Trainer, which s1 and Sky-T1 used."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in network.parameters():
        shape = getattr(parameter, "ds_shape", parameter.shape)
        (matrices if len(shape) > 1 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _count_parameters(shape: PretrainedConfig) -> int:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(shape).parameters())


def _dtype(settings: Train) -> Any:
    import torch

    return torch.bfloat16 if settings.dtype == "bf16" else torch.float32
