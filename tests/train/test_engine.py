"""What DeepSpeed is told, and what moves to host memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training extra not installed")

from hpc.errors import StageError  # noqa: E402
from hpc.recipe.schema import Train, Zero  # noqa: E402
from hpc.train import engine  # noqa: E402
from hpc.train.batches import Batches  # noqa: E402
from hpc.train.ranks import Team, join  # noqa: E402
from hpc.train.text import ModelReference, Rendered  # noqa: E402


def config(**changes: Any) -> dict[str, Any]:
    rows = [Rendered(str(n), [1, 2, 3], 1) for n in range(40)]
    batches = Batches(rows, batch_size=16, epochs=1, seed=0, loss_average="token", world_size=2, micro_batch=4)
    arguments: dict[str, Any] = {"hidden": 128, "offload": "none", "device": "cpu", **changes}
    return engine.deepspeed_config(Train(), batches, **arguments)


def test_global_batch_is_ranks_times_passes_times_rows() -> None:
    made = config()
    assert made["train_batch_size"] == 16
    assert (made["train_micro_batch_size_per_gpu"], made["gradient_accumulation_steps"]) == (4, 2)


@pytest.mark.parametrize(
    ("device", "offload", "torch_adam"),
    [("cpu", "none", True), ("cpu", "all", True), ("cuda", "none", True), ("cuda", "optimizer", False)],
)
def test_deepspeeds_own_adam_serves_only_states_offloaded_from_gpus(
    device: str, offload: str, torch_adam: bool
) -> None:
    made = config(device=device, offload=offload)
    assert made["optimizer"]["params"]["torch_adam"] is torch_adam
    assert made["zero_force_ds_cpu_optimizer"] is not torch_adam
    assert ("offload_param" in made["zero_optimization"]) == (offload == "all")


@pytest.mark.parametrize(
    ("gpus", "billions", "offload"), [(16, 32.8, "none"), (8, 32.8, "optimizer"), (1, 32.8, "all")]
)
def test_auto_offload_takes_as_little_as_fits_80_gib_gpus(
    monkeypatch: pytest.MonkeyPatch, gpus: int, billions: float, offload: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    monkeypatch.setattr(engine, "_count_parameters", lambda _: round(billions * 1e9))
    team = Team(0, gpus, torch.device("cuda", 0))
    shape: Any = None
    assert engine.choose_offload(Train(), shape, team) == offload
    assert engine.choose_offload(Train(zero=Zero(offload="none")), shape, team) == "none"


def test_folder_without_weights_is_an_error_that_names_the_way_out(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="training extra not installed")
    transformers.Qwen2Config(num_hidden_layers=1, hidden_size=8, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(StageError) as caught:
        engine._pretrained(ModelReference(str(tmp_path)), Train(zero=Zero(stage=0)), {})
    assert "init=random" in caught.value.next


def test_several_ranks_without_an_address_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    with pytest.raises(StageError) as caught:
        join(0, 2)
    assert "MASTER_ADDR" in caught.value.why
