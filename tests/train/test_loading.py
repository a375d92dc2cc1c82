"""Weights are loaded exactly, whatever files hold them, and no rank of ZeRO-3 ever holds the model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("deepspeed", reason="training extra not installed")

from hpc.errors import StageError
from hpc.recipe.schema import Train
from hpc.train import weights
from hpc.train.text import ModelReference
from tests.train.launch import launch

SCRIPT = Path(__file__).with_name("loading.py")
FILE = 60
"""Megabytes of a file of weights, unless one tensor is larger."""
LARGE: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "vocab_size": 32000}


def loaded(model: Path, world_size: int, kind: str) -> list[dict[str, Any]]:
    """What each rank found."""
    out = model.parent / f"found-{world_size}-{kind}"
    launch(SCRIPT, world_size, model, out, kind)
    found = [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(world_size)]
    print(world_size, "ranks,", kind, [{name: round(one[name]) for name in one if name != "digest"} for one in found])
    return found


@pytest.mark.proof
@pytest.mark.parametrize("world_size", [2, 4])
def test_a_rank_of_zero_3_grows_by_its_share_and_one_tensor_while_it_loads(tmp_path: Path, world_size: int) -> None:
    from tests.train import reference

    model = tmp_path / "large"
    reference.write_model(model, "llama", shards=f"{FILE}MB", **LARGE)
    reference.write_model(tmp_path / "large-small", "llama")
    assert len(list(model.glob("*.safetensors"))) > 3
    ours, theirs = (loaded(model, world_size, kind) for kind in ("ours", "transformers"))
    assert {one["digest"] for one in ours} == {one["digest"] for one in theirs}
    for one in ours:  # a tensor is whole while its module is built; of one file what was read stays mapped
        assert one["grown"] < min(one["share"] + 2 * one["largest"] + FILE + 40, one["model"])
    assert max(one["grown"] for one in ours) < min(one["grown"] for one in theirs)


def test_weights_that_do_not_fit_the_configuration_are_an_error_that_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.train import reference

    model = ModelReference(str(reference.write_model(tmp_path, "llama")))
    name = "model.embed_tokens.weight"
    empty = SimpleNamespace(named_parameters=lambda: [(name, SimpleNamespace(ds_shape=[7, 48]))])
    monkeypatch.setattr(weights, "_empty", lambda *_: empty)
    with pytest.raises(StageError) as caught:
        weights._sharded(model, weights.shape(model), Train())
    assert (
        name in str(caught.value.where) and caught.value.why == "config.json asks for [7, 48], the file has [211, 48]"
    )
