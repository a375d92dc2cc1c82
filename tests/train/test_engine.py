"""What DeepSpeed is told, which models are refused, and which slice of a weight each rank reads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training extra not installed")
transformers = pytest.importorskip("transformers", reason="training extra not installed")

from hpc.errors import StageError  # noqa: E402
from hpc.recipe.schema import Train, Zero  # noqa: E402
from hpc.train import engine, learner, weights  # noqa: E402
from hpc.train.batches import Batches, Layout  # noqa: E402
from hpc.train.choices import Choices  # noqa: E402
from hpc.train.ranks import join  # noqa: E402
from hpc.train.text import ModelReference, Rendered  # noqa: E402

FORM = transformers.Qwen2Config(hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2)


def config(device: str = "cpu", settings: Train | None = None, **changes: Any) -> dict[str, Any]:
    rows = [Rendered(str(n), [1, 2, 3], 1) for n in range(40)]
    layout = Layout(world_size=2, row_tokens=12)
    batches = Batches(rows, batch_size=16, epochs=1, seed=0, loss_average="token", layout=layout)
    fields: dict[str, Any] = {
        "offload": "none",
        "offload_ratio": 1.0,
        "sequence_parallel": 1,
        "row_tokens": 12,
        "checkpointing": "none",
        "loss_chunk": 8,
        "kernel": "sdpa",
        "reasons": (),
        **changes,
    }
    return engine.deepspeed_config(settings or Train(), batches, Choices(**fields), FORM, device=device)


def test_deepspeed_expects_as_many_passes_as_the_longest_step_has() -> None:
    made = config()  # 16 documents of 3 tokens, 4 to a row, 2 ranks: 2 passes
    assert (made["train_micro_batch_size_per_gpu"], made["gradient_accumulation_steps"]) == (1, 2)
    assert made["train_batch_size"] == 4


@pytest.mark.parametrize(
    ("device", "offload", "torch_adam"),
    [("cpu", "none", True), ("cpu", "all", True), ("cuda", "none", True), ("cuda", "optimizer", False)],
)
def test_deepspeeds_own_adam_serves_only_states_offloaded_from_gpus(
    device: str, offload: str, torch_adam: bool
) -> None:
    made = config(device, offload=offload, offload_ratio=0.3)
    assert ("optimizer" not in made) is torch_adam
    assert made["zero_force_ds_cpu_optimizer"] is not torch_adam
    assert ("offload_param" in made["zero_optimization"]) == (offload == "all")
    assert offload == "none" or made["zero_optimization"]["offload_optimizer"]["ratio"] == 0.3


def test_buckets_are_one_layer_of_the_model() -> None:
    big = transformers.Qwen2Config(
        hidden_size=5120, intermediate_size=27648, num_attention_heads=40, num_key_value_heads=8
    )
    assert engine.layer_params(big) == 5120 * (2 * 5120 + 2 * 1024) + 3 * 5120 * 27648  # Qwen2.5-32B
    assert config()["zero_optimization"]["reduce_bucket_size"] == engine.LEAST_BUCKET


def test_low_precision_states_are_asked_of_deepspeed() -> None:
    made = config(settings=Train(state_dtype="bf16"))
    assert made["bf16"] == {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"use_sliding_window": True, "sliding_window": 64}, "64 tokens back"),
        ({"attention_dropout": 0.1}, "dropout"),
        ({"final_logit_softcapping": 30.0}, "loss_chunk=0"),
    ],
)
def test_a_model_that_these_modules_would_not_compute_as_meant_is_refused(changes: dict[str, Any], why: str) -> None:
    form = SimpleNamespace(model_type="other", **{"use_sliding_window": False, "sliding_window": None, **changes})
    with pytest.raises(StageError) as caught:
        learner.check(form, 100, 1024)  # type: ignore[arg-type]
    assert why in caught.value.why
    learner.check(FORM, 100, 1024)


class Stored:
    """A tensor in a safetensors file that counts how many numbers are read."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.read = tensor, 0

    def get_shape(self) -> list[int]:
        return list(self.tensor.shape)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        self.read += self.tensor[rows].numel()
        return self.tensor[rows]


@pytest.mark.parametrize("shape", [(7,), (10, 6), (5, 3, 4), (1, 9)])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ranks_read_a_weight_once_together_and_keep_the_slices_that_zero_expects(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], world_size: int
) -> None:
    whole = torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)
    share = -(-whole.numel() // world_size)
    stored, kept = Stored(whole), []
    for rank in range(world_size):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        parameter = SimpleNamespace(ds_tensor=torch.zeros(share), ds_shape=torch.Size(shape))
        weights._copy_slice(stored, parameter)
        kept.append(parameter.ds_tensor)
    assert torch.equal(torch.cat(kept)[: whole.numel()], whole.flatten())
    width = whole.numel() // shape[0]
    assert stored.read <= whole.numel() + 2 * width * world_size  # rows at the edges are read by two ranks


def test_folder_without_weights_is_an_error_that_names_the_way_out(tmp_path: Path) -> None:
    FORM.save_pretrained(tmp_path)
    with pytest.raises(StageError) as caught:
        weights.network(ModelReference(str(tmp_path)), FORM, Train(zero=Zero(stage=0)), {}, 0)
    assert "init=random" in caught.value.next
    with pytest.raises(StageError, match="cannot be loaded"):
        weights.shape(ModelReference(str(tmp_path / "nowhere")))


def test_several_ranks_without_an_address_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    with pytest.raises(StageError) as caught:
        join(0, 2)
    assert "MASTER_ADDR" in caught.value.why
