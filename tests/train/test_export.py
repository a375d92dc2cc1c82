"""The export has the bytes of transformers' own, and holds one file of weights at a time."""

from __future__ import annotations

import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("deepspeed", reason="training extra not installed")

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from hpc.train import export
from hpc.train.ranks import Team

SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FORMS = {
    "tied": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "untied": LlamaConfig(**SMALL, tie_word_embeddings=False),
}


class Alone(Team):
    """The only rank."""

    def wait(self) -> None:
        return None


ALONE = Alone(0, 1, torch.device("cpu"))
TOKENIZER: Any = SimpleNamespace(save_pretrained=lambda folder: None)


def trainer_of(form: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    return SimpleNamespace(module=SimpleNamespace(network=AutoModelForCausalLM.from_config(form)))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("size", [20_000, 10**9])
@pytest.mark.parametrize("loaded", [False, True])
def test_every_file_of_an_export_is_as_transformers_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: PretrainedConfig, size: int, loaded: bool
) -> None:
    monkeypatch.setattr(export, "SHARD_BYTES", size)
    trainer = trainer_of(form)
    if loaded:  # from_pretrained leaves in a network how its files named the weights
        trainer.module.network.save_pretrained(tmp_path / "base")
        trainer.module.network = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    export.save(trainer, TOKENIZER, tmp_path / "ours", ALONE, "fp32")
    trainer.module.network.save_pretrained(tmp_path / "theirs", max_shard_size=size)
    assert content(tmp_path / "ours") == content(tmp_path / "theirs")
    assert len(content(tmp_path / "ours")) == 3 if size == 10**9 else len(content(tmp_path / "ours")) > 5


def test_an_export_in_bf16_is_the_rounded_fp32(tmp_path: Path) -> None:
    trainer = trainer_of(FORMS["untied"])
    export.save(trainer, TOKENIZER, tmp_path / "ours", ALONE, "bf16")
    trainer.module.network.to(torch.bfloat16).save_pretrained(tmp_path / "theirs")
    assert (tmp_path / "ours" / "model.safetensors").read_bytes() == (
        tmp_path / "theirs" / "model.safetensors"
    ).read_bytes()


def test_an_export_holds_one_file_of_weights_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, held, most, plain = 100_000, [0], [0], export._gathered

    def counted(*asked: Any) -> torch.Tensor | None:
        found = plain(*asked)
        assert found is not None
        held[0] += found.nbytes
        most[0] = max(most[0], held[0])
        weakref.finalize(found, lambda number: held.__setitem__(0, held[0] - number), found.nbytes)
        return found

    monkeypatch.setattr(export, "SHARD_BYTES", size)
    monkeypatch.setattr(export, "_gathered", counted)
    export.save(trainer_of(FORMS["untied"]), TOKENIZER, tmp_path, ALONE, "fp32")
    whole = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert most[0] <= size < whole / 1.5 and held[0] == 0
