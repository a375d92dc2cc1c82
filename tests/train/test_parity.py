"""Any layout trains as the textbook does: real DeepSpeed ranks on CPU against one torch process, document by document.

Losses, gradients (of every step, before clipping), their norms and the trained weights are compared with those of
tests/train/reference.py. Gradients are DeepSpeed's own, gathered between the last backward pass and the optimizer; how
far apart they are is relative to the norm of each parameter's gradient.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("deepspeed", reason="training extra not installed")

from hpc.train.batches import lay
from tests.train.launch import launch

SCRIPT = Path(__file__).with_name("parity.py")
CLOSE = 1e-5
SETTINGS: dict[str, Any] = {
    "lr": 3e-3,
    "batch_size": 10,
    "epochs": 2,
    "dtype": "fp32",
    "weight_decay": 0.1,
    "grad_clip": 0.5,  # below every norm: all steps are clipped
    "warmup_ratio": 0.3,
    "schedule": "cosine",
    "loss_average": "sample",
    "row_tokens": 131,  # several passes a step
    "loss_chunk": 16,
}
ZERO = [(0, "none"), *product((1, 2), ("none", "optimizer")), *product((3,), ("none", "optimizer", "all"))]
FACTORS: dict[str, Sequence[dict[str, Any]]] = {
    "model": [{"model": "qwen2"}, {"model": "llama"}],
    "rows": [{"pack": True}, {"pack": False}, {"pack": False, "micro_batch": 2}],
    "zero": [{"zero": {"stage": stage, "offload": offload}} for stage, offload in ZERO],
    "sharing": [{"sequence_parallel": 1}, {"sequence_parallel": 2}],
    "loss": [{"loss_chunk": 16}, {"loss_chunk": 0}],
    "kept": [{"activation_checkpointing": kind} for kind in ("none", "selective", "full")],
    "average": [{"loss_average": "sample"}, {"loss_average": "token"}],
    "weights": [{}, {"thin": True}],
}
FEW: dict[str, dict[str, Any]] = {
    "plain": {},
    "again": {},
    "offloaded": {"zero": {"stage": 3, "offload": "all"}},
    "full": {"activation_checkpointing": "full"},
    "thin": {"activation_checkpointing": "selective", "thin": True},
    "many_files": {"model": "qwen2_sharded"},
    "replicated": {"zero": {"stage": 0}, "pack": False, "micro_batch": 2},
    "gradients": {"zero": {"stage": 2, "offload": "optimizer"}, "model": "llama", "loss_average": "token"},
    "shared": {"sequence_parallel": 2},
    "shared_llama": {"sequence_parallel": 2, "model": "llama", "loss_chunk": 0, "zero": {"stage": 1}},
}

LOW: dict[str, dict[str, Any]] = {
    "bf16": {"dtype": "bf16"},
    "bf16_llama": {"dtype": "bf16", "model": "llama", "zero": {"stage": 1}},
}

OWN = ("own_adam", "thin", "partly")
"""Of parity.py, not of a recipe: CPUAdam, no weight too small to be cut, a part of the states left to torch."""

Run = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trains cases on some ranks, all in one process group, and says how far each is from the textbook."""
    from tests.train import reference

    root = tmp_path_factory.mktemp("parity")
    for kind in ("qwen2", "llama"):
        reference.write_model(root / kind, kind)
    reference.write_model(root / "qwen2_sharded", "qwen2", shards="20KB")
    assert len(list((root / "qwen2_sharded").glob("*.safetensors"))) > 2
    reference.write_model(root / "mild", "qwen2", initializer_range=0.02)

    def run(world_size: int, cases: dict[str, dict[str, Any]], **more: Any) -> dict[str, dict[str, Any]]:
        written = [
            {
                "name": name,
                "model": str(root / case.get("model", "qwen2")),
                **{name: case[name] for name in OWN if name in case},
                "settings": {**SETTINGS, **{k: v for k, v in case.items() if k not in ("model", *OWN)}},
            }
            for name, case in cases.items()
        ]
        (root / "cases.json").write_text(json.dumps(written))
        launch(SCRIPT, world_size, root / "cases.json", root / "found.json", **more)
        return {one["name"]: one for one in json.loads((root / "found.json").read_text())}

    return run


@pytest.fixture(scope="module")
def few(train: Run) -> dict[str, dict[str, Any]]:
    """The everyday cases, on two ranks."""
    return train(2, {name: {"epochs": 1, **case} for name, case in {**FEW, **LOW}.items()})


def far(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The cases that are not close to the textbook; the largest distances are printed (pytest -rP shows them)."""
    kinds = ("loss", "gradient", "norm", "weight")
    print(len(found), "cases, at most", {kind: f"{max(one[kind] for one in found.values()):.1e}" for kind in kinds})
    return {
        name: {kind: one[kind] for kind in kinds} for name, one in found.items() if max(one[k] for k in kinds) > CLOSE
    }


def cover(factors: dict[str, Sequence[dict[str, Any]]], strength: int) -> Iterator[dict[str, Any]]:
    """Few cases in which any `strength` factors meet in all combinations of their values, drawn greedily."""
    draw, names = random.Random(0), list(factors)
    left = {
        tuple(zip(some, picks, strict=True))
        for some in combinations(range(len(names)), strength)
        for picks in product(*(range(len(factors[names[n]])) for n in some))
    }
    while left:
        wanted = dict(min(left))
        tried = [[wanted.get(n, draw.randrange(len(factors[name]))) for n, name in enumerate(names)] for _ in range(60)]
        best = max(tried, key=lambda picks: sum(all(picks[n] == v for n, v in one) for one in left))
        left = {one for one in left if any(best[n] != value for n, value in one)}
        yield {key: value for n, name in enumerate(names) for key, value in factors[name][best[n]].items()}


def test_two_ranks_train_as_the_textbook_does_in_every_layout(few: dict[str, dict[str, Any]]) -> None:
    assert all(max(one["passes"]) > min(one["passes"]) for one in few.values())
    assert far({name: few[name] for name in FEW}) == {}


def test_positions_are_as_exact_in_bf16_as_in_fp32(few: dict[str, dict[str, Any]]) -> None:
    """ZeRO-3 and casts of a whole network would round the frequencies of rotary embeddings, and nobody would see it."""
    assert {name for name, one in few.items() if not one["same_frequencies"]} == set()


def test_repetition_kept_activations_and_the_cut_of_files_change_no_bit(few: dict[str, dict[str, Any]]) -> None:
    assert {few[name]["bits"] for name in ("again", "full", "thin", "many_files")} == {few["plain"]["bits"]}


def test_the_comparison_would_see_documents_that_see_each_other(tmp_path: Path) -> None:
    """The models of these tests have sharp attention: without the bounds of documents the loss is another one."""
    import torch
    from transformers import AutoModelForCausalLM

    from hpc.train import attention
    from hpc.train.learner import Learner
    from tests.train import reference

    attention.register()
    folder = reference.write_model(tmp_path, "qwen2")
    learner = Learner(AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention.NAME), 16)
    row = lay([(document, 0.01) for document in reference.documents()], 1, 0)
    found = []
    for edges in (row.edges, (0, row.edges[-1])):
        bounds = attention.Bounds(edges, "sdpa", torch.device("cpu"))
        found.append(float(learner(row.ids_BL, row.positions_BL, row.targets_N, row.weights_N, bounds)))
    assert abs(found[0] - found[1]) > 1000 * CLOSE


@pytest.mark.proof_ci
def test_four_ranks_in_two_pairs_train_as_the_textbook_does(train: Run) -> None:
    cases = {"packed": {}, "paired": {"sequence_parallel": 2}, "one_row": {"sequence_parallel": 4, "model": "llama"}}
    assert far(train(4, cases)) == {}


@pytest.mark.proof
def test_one_rank_trains_as_the_textbook_does_in_every_layout(train: Run) -> None:
    factors = {**FACTORS, "sharing": FACTORS["sharing"][:1]}
    found = train(1, {f"{n} {case}": case for n, case in enumerate(cover(factors, 2))}, timeout_s=3600)
    assert len(found) >= 24 and far(found) == {}


@pytest.mark.proof
def test_two_ranks_train_as_the_textbook_does_where_any_three_settings_meet(train: Run) -> None:
    found = train(2, {f"{n} {case}": case for n, case in enumerate(cover(FACTORS, 3))}, timeout_s=3600)
    assert len(found) >= 72 and far(found) == {}


@pytest.mark.proof
def test_four_ranks_train_as_the_textbook_does_where_any_two_settings_meet(train: Run) -> None:
    found = train(4, {f"{n} {case}": case for n, case in enumerate(cover(FACTORS, 2))}, timeout_s=3600)
    assert len(found) >= 24 and far(found) == {}


@pytest.mark.proof
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_offload_changes_no_bit_with_torchs_adamw(train: Run, dtype: str) -> None:
    """But the gradients' norm: DeepSpeed sums it in another order, and where it clips, all gradients follow.

    Stages 1 and 2 differ: one reduces gradients once a step, the other once a pass.
    """
    plain = {"dtype": dtype, "grad_clip": 1e9}
    found = train(
        2,
        {
            f"{stage} {offload}": {**plain, "zero": {"stage": stage, "offload": offload}}
            for stage, offload in ZERO
            if stage
        },
    )
    for same in (["1 none", "1 optimizer"], ["2 none", "2 optimizer"], ["3 none", "3 optimizer", "3 all"]):
        assert {found[name]["bits"] for name in same} == {found[same[0]]["bits"]}
        assert found[same[-1]]["norms"] == pytest.approx(found[same[0]]["norms"], rel=1e-6)  # fp32 sums in two orders


@pytest.mark.proof
def test_cpuadam_stays_near_torchs_adamw(train: Run) -> None:
    """At the papers' kind of rate and weights; the optimizer is compiled at its first use (minutes)."""
    own = {"own_adam": True, "zero": {"stage": 3, "offload": "optimizer"}}
    low = {"dtype": "bf16", "lr": 1e-4, "model": "mild"}
    cases = {
        "torch": {**low, "zero": {"stage": 3, "offload": "optimizer"}},
        "own": {**low, **own},
        "own_all": {**low, "own_adam": True, "zero": {"stage": 3, "offload": "all"}},
        "fp32": own,
        "fp32_partly": {**own, "partly": True},  # what is left on the GPU follows the schedule of rates, too
    }
    found = train(2, cases, timeout_s=1800)
    assert found["own"]["bits"] != found["torch"]["bits"]  # it is another optimizer
    for name in ("own", "own_all"):
        assert found[name]["losses"] == pytest.approx(found["torch"]["losses"], abs=1e-4)
    assert far({name: found[name] for name in ("fp32", "fp32_partly")}) == {}
