"""Where DeepSpeed 0.19.8 trains otherwise than it was told, and does not say so: here that is put right.

Each of these was found by a comparison in tests/train (test_parity.py, test_resume.py), which fails without it. Another
is in hpc/train/loop.py (the loss is cloned), another in hpc/train/engine.py (memory_efficient_linear).
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from deepspeed import DeepSpeedEngine

Hyperparameters = list[dict[str, Any]]


def restore_linear() -> None:
    """Undo what an engine before this one in the same process has left: ZeRO-3 replaces torch's linear for good."""
    import torch
    from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses as Replaced

    torch.nn.functional.linear = getattr(Replaced, "linear_bk", torch.nn.functional.linear)


def restore_frequencies(network: torch.nn.Module) -> None:
    """Make the frequencies of rotary embeddings anew, in fp32.

    While ZeRO-3 builds a network, constructors of tensors give the training's number format whatever they were asked
    for, and `network.to(bfloat16)` casts buffers too: in bf16 a position of 10,000 is then off by whole turns, in
    training alone (DeepSpeed issue 4932).
    """
    for module in network.modules():
        if hasattr(module, "original_inv_freq"):
            anew: Any = type(module)
            for name, made in anew(module.config).named_buffers(recurse=False):
                module._buffers[name] = made.to(getattr(module, name).device)


def hide_gathering() -> None:
    """Let selective checkpointing not see ZeRO-3 gather and release weights.

    It records every operation of a layer and wants the same ones when it computes the layer again, but then other
    weights may be at hand than in the forward pass.
    """
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator as Coordinator
    from torch.utils._python_dispatch import _disable_current_modes

    def hidden(plain: Any) -> Any:
        @wraps(plain)
        def call(*args: Any, **kwargs: Any) -> Any:
            with _disable_current_modes():
                return plain(*args, **kwargs)

        return call

    for name in ("fetch_sub_module", "release_sub_module"):
        plain = getattr(Coordinator, name)
        if not hasattr(plain, "hidden"):
            setattr(Coordinator, name, hidden(plain))
            getattr(Coordinator, name).hidden = True


def keep_norm(trainer: DeepSpeedEngine) -> None:
    """Without ZeRO and in fp32 DeepSpeed clips gradients and forgets their norm: clip here, and keep it."""
    import torch

    def clip() -> None:
        norm = torch.nn.utils.clip_grad_norm_(trainer.module.parameters(), trainer.gradient_clipping())
        trainer._global_grad_norm = float(norm)

    trainer.clip_fp32_gradients = clip


def set_lr(trainer: DeepSpeedEngine, lr: float) -> None:
    """Set the learning rate, also of the states that a partial offload leaves on the GPU, whose rate would not move."""
    for optimizer in _optimizers(trainer):
        for group in optimizer.param_groups:
            group["lr"] = lr


def save_all_states(trainer: DeepSpeedEngine) -> None:
    """Under partial offload a second optimizer steps what is left on the GPU; checkpoints have the first one's states.

    From now on the first has the second one's states, too. It never steps them.
    """
    inner, *second = _optimizers(trainer)
    for optimizer in second:
        for parameter in _left_on_gpu(trainer):
            inner.state[parameter] = optimizer.state[parameter]


def hyperparameters(trainer: DeepSpeedEngine) -> Hyperparameters:
    """Of every group of parameters, as the settings have them."""
    groups = _optimizers(trainer)[0].param_groups
    return [{name: value for name, value in group.items() if name != "params"} for group in groups]


def after_load(trainer: DeepSpeedEngine, own: Hyperparameters) -> None:
    """Put right what loading a checkpoint leaves.

    A universal checkpoint gives all groups the weight decay of the first under ZeRO-3, and all parts of the states one
    tensor as their step, which then counts once for each part. Under partial offload the second optimizer gets nothing
    but a parameter of the first one's, which both would step.

    Args:
        own: the hyperparameters from before the load.
    """
    inner, *second = _optimizers(trainer)
    for group, values in zip(inner.param_groups, own, strict=True):
        group.update(values)
    for optimizer in second:
        for group in optimizer.param_groups:
            group["params"] = []
        for parameter in _left_on_gpu(trainer):
            optimizer.state[parameter] = inner.state[parameter]
    for optimizer in (inner, *second):
        for parameter, state in optimizer.state.items():
            # states in host memory are still those of the file, which may be deleted before the first step reads them
            state.update({name: value.clone() for name, value in state.items() if _in_host_memory(value)})
            if "step" in state:
                state["step"] = _own_step(optimizer, parameter, float(state["step"]))


def _in_host_memory(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.device.type == "cpu"


def _own_step(optimizer: Any, parameter: torch.Tensor, step: float) -> torch.Tensor | int:
    """A step as this optimizer counts it: DeepSpeed's CPUAdam in a number, torch's in a tensor where it looks."""
    import torch

    if not isinstance(optimizer, torch.optim.AdamW):
        return int(step)
    return torch.tensor(step, device=parameter.device if optimizer.defaults.get("fused") else "cpu")


def _optimizers(trainer: DeepSpeedEngine) -> list[Any]:
    """The optimizer inside DeepSpeed's, and the second one of a partial offload."""
    outer = trainer.optimizer
    second = getattr(outer, "backup_optimizer", None)
    return [getattr(outer, "optimizer", outer), *([] if second is None else [second])]


def _left_on_gpu(trainer: DeepSpeedEngine) -> list[torch.Tensor]:
    """The master weights that a partial offload leaves on the GPU."""
    outer = trainer.optimizer
    return [outer.fp32_partitioned_groups_flat[n] for n, place in outer.subgroup_to_device.items() if place != "cpu"]
