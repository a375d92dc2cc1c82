"""The model under DeepSpeed: configured from the recipe's settings, weights loaded or drawn, sharded over ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from hpc.plan import memory
from hpc.recipe.schema import Train
from hpc.train import mends, weights
from hpc.train.batches import Batches
from hpc.train.choices import Choices
from hpc.train.learner import Learner
from hpc.train.ranks import Team
from hpc.train.text import ModelReference
from hpc.train.ulysses import Sharers

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

LEAST_BUCKET = 1_000_000
"""Elements: smaller messages cost more in starts than in bytes."""
MOST_BUCKET = 500_000_000
"""Elements, DeepSpeed's default: more would only take memory."""


def build(
    settings: Train,
    batches: Batches,
    choices: Choices,
    model: ModelReference,
    form: PretrainedConfig,
    team: Team,
    *,
    seed: int,
    universal: bool = False,
) -> DeepSpeedEngine:
    """A DeepSpeed engine around the model, ready for its first step; the same weights whatever the number of ranks.

    Args:
        universal: the checkpoint to be loaded was converted for another number of ranks.
    """
    import deepspeed
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    mends.restore_linear()
    config = deepspeed_config(settings, batches, choices, form, device=team.device.type)
    if universal:
        config["checkpoint"] = {"load_universal": True}
    network = weights.network(model, form, settings, config, seed)
    network.config.use_cache = False
    checkpoint_activations(network, choices.checkpointing)
    learner = Learner(network, choices.loss_chunk).train()
    groups = _groups(network, settings)
    optimizer = None if _own_adam(choices, team.device.type) else _torch_adam(groups, settings, team.device.type)
    trainer, *_ = deepspeed.initialize(
        model=learner, optimizer=optimizer, model_parameters=groups if optimizer is None else None, config=config
    )
    mends.keep_norm(trainer)
    mends.save_all_states(trainer)
    return trainer


def deepspeed_config(
    settings: Train, batches: Batches, choices: Choices, form: PretrainedConfig, *, device: str
) -> dict[str, Any]:
    """DeepSpeed's configuration. Passes are counted by the loop, since their number differs from step to step.

    Without offload, and on CPUs, the optimizer is torch's AdamW (fused on GPUs: no compiler is needed on the nodes);
    DeepSpeed's CPUAdam, compiled at first use, serves only states that were offloaded from GPUs.
    """
    own_adam = _own_adam(choices, device)
    passes, world_size = batches.most_passes, batches.layout.world_size
    low = settings.state_dtype == "bf16"
    config: dict[str, Any] = {
        "train_batch_size": passes * world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": passes,
        "gradient_clipping": settings.grad_clip,
        "zero_force_ds_cpu_optimizer": own_adam,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": settings.dtype == "bf16"},
        "data_types": {"grad_accum_dtype": "bf16" if low else "fp32"},
        "zero_optimization": _zero(settings, choices, layer_params(form), device == "cuda"),
        "steps_per_print": 10**9,
        "timers": {"throughput": {"enabled": False}},  # it waits for the GPU at every pass
    }
    if low:
        config["bf16"] |= {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
    if own_adam:
        config["optimizer"] = {"type": "AdamW", "params": {**_adam(settings), "torch_adam": False}}
    return config


def checkpoint_activations(network: PreTrainedModel, kind: str) -> None:
    """Which activations of a layer live until the backward pass.

    none: all. selective: those of matrix products and attention; the rest is computed again. full: the layer's input
    alone. offloaded: that too goes to host memory.
    """
    if kind == "none":
        return
    settings: dict[str, Any] = {"use_reentrant": False}
    if kind == "selective":
        mends.hide_gathering()
        settings["context_fn"] = _keep_products
    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings, offload=kind == "offloaded")


def layer_params(form: PretrainedConfig) -> int:
    """Parameters of one decoder layer in matrix products (dense, gated MLP)."""
    width = getattr(form, "head_dim", None) or form.hidden_size // form.num_attention_heads
    queries, keys = form.num_attention_heads * width, form.num_key_value_heads * width
    return int(form.hidden_size * (2 * queries + 2 * keys + 3 * form.intermediate_size))


def sharers(team: Team, size: int) -> Sharers | None:
    """The ranks that share rows with this one; every rank must call it. Neighbours share: they sit in one node."""
    if size == 1:
        return None
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, team.world_size, size)]
    group, place = divmod(team.rank, size)
    return Sharers(groups[group], size, place)


def _zero(settings: Train, choices: Choices, layer: int, on_gpu: bool) -> dict[str, Any]:
    """Buckets follow the layers: one layer is fetched ahead and one is reduced behind."""
    bucket = min(max(layer, LEAST_BUCKET), MOST_BUCKET)
    # one layer at work and one ahead; DeepSpeed's default of 1e9 elements would hold 2 GB of small models' layers
    live = 2 * bucket
    zero: dict[str, Any] = {
        "stage": memory.zero_stage(settings),
        "overlap_comm": on_gpu,
        "contiguous_gradients": on_gpu,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "stage3_prefetch_bucket_size": bucket,
        "stage3_max_live_parameters": live,
        "stage3_max_reuse_distance": live,
        "stage3_param_persistence_threshold": max(bucket // 1000, 100_000),
        "sub_group_size": memory.SUB_GROUP,
        "stage3_gather_16bit_weights_on_model_save": True,
        # DeepSpeed's own linear adds the bias in place, into the very product that selective checkpointing has kept:
        # recomputed, the bias would be there twice, and nothing would say so. Where whole layers are recomputed, their
        # last product would be, too, which nobody needs
        "memory_efficient_linear": choices.checkpointing == "none",
    }
    if choices.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu, "ratio": choices.offload_ratio}
    if choices.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": on_gpu}
    return zero


def _own_adam(choices: Choices, device: str) -> bool:
    return device == "cuda" and choices.offload != "none"


def _adam(settings: Train) -> dict[str, Any]:
    first, second = settings.betas
    return {
        "lr": settings.lr,
        "betas": (first, second),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }


def _torch_adam(groups: list[dict[str, Any]], settings: Train, device: str) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, **_adam(settings), fused=device == "cuda")


def _groups(network: nn.Module, settings: Train) -> list[dict[str, Any]]:
    """Weight decay on matrices, not on norms and biases: as in the Hugging Face Trainer, which s1 and Sky-T1 used."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in network.parameters():
        shape = getattr(parameter, "ds_shape", parameter.shape)
        (matrices if len(shape) > 1 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _keep_products() -> Any:
    """The two contexts of torch's selective checkpointing: results of matrix products and attention are kept."""
    import torch.nn.attention.varlen  # its operation exists once it is imported
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    aten, flash = torch.ops.aten, torch.ops.flash_attn
    kept = {
        aten.mm.default,
        aten.addmm.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
    if hasattr(torch.ops.torch_attn, "_varlen_attn"):
        kept.add(torch.ops.torch_attn._varlen_attn.default)
    if hasattr(flash, "_flash_attn_varlen_forward"):
        kept.add(flash._flash_attn_varlen_forward.default)

    def policy(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operation in kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)
