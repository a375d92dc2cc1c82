"""A killed training goes on as if nothing had happened, bit for bit; on other ranks too, as near as sums allow."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpc import files

pytest.importorskip("deepspeed", reason="training extra not installed")

from tests.train.launch import launch
from tests.train.test_stage import RANK, Bench, weights

SETTINGS: dict[str, Any] = {
    "weight_decay": 0.3,
    "epochs": 2,
    "save_every_steps": 3,
    "row_tokens": 90,
    "loss_average": "sample",
}
NUM_STEPS = 16
LAYOUTS: dict[str, dict[str, Any]] = {
    "packed": {},
    "shared": {"sequence_parallel": 2},
    "gradients": {"zero": {"stage": 2}, "dtype": "bf16"},
    "offloaded": {"zero": {"stage": 3, "offload": "all"}, "dtype": "bf16", "activation_checkpointing": "selective"},
    "states": {"zero": {"stage": 1, "offload": "optimizer"}, "pack": False},
    "low": {"dtype": "bf16", "state_dtype": "bf16", "sequence_parallel": 2},
    "replicated": {"zero": {"stage": 0}},
    "states_bf16": {"zero": {"stage": 1}, "dtype": "bf16"},
}
CURVE = ("step", "loss", "lr", "grad_norm", "tokens")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A root with 45 examples, a tiny Qwen2 and its tokenizer: 8 steps an epoch."""
    made = Bench(tmp_path)
    made.write_model()
    made.write_examples()
    return made


def curve(attempt: Path) -> list[list[float]]:
    """What a training was, step by step, as far as it is not about time."""
    return [[row[name] for name in CURVE] for row in files.read_jsonl(attempt / "out" / "metrics.jsonl")]


def complete(attempt: Path) -> int:
    """The step of an attempt's last complete checkpoint; 0 if there is none."""
    return max((int(p.parent.name.removeprefix("step_")) for p in attempt.glob("checkpoints/*/COMPLETE")), default=0)


def blow(trial: int) -> dict[str, Any]:
    """When and whom a kill hits: any step but the first, any pass of it, either rank; or rank 0 while it saves."""
    draw = random.Random(trial)
    if draw.random() < 0.25:
        return {"signal": "SIGKILL", "moment": "saving", "rank": 0, "at_step": 3 * draw.randrange(1, 6) - 1}
    where = {"at_step": draw.randrange(1, NUM_STEPS), "at_pass": draw.randrange(3), "rank": draw.randrange(2)}
    return {"signal": "SIGKILL", **where}


@pytest.mark.parametrize(
    "trials", [pytest.param(3, marks=pytest.mark.proof_ci), pytest.param(20, marks=pytest.mark.proof)]
)
def test_training_killed_at_any_moment_has_the_curve_of_the_undisturbed_one(bench: Bench, trials: int) -> None:
    """A launch ends one trial's training and starts the next one's: start-up is most of its time."""
    names = [list(LAYOUTS)[trial % len(LAYOUTS)] for trial in range(trials)]
    launch(RANK, 2, *(job(bench, f"plain_{name}", LAYOUTS[name]) for name in dict.fromkeys(names)))
    started: list[Path] = []
    for trial, name in enumerate([*names, None]):
        if name is not None:
            started.append(job(bench, f"trial_{trial}", {**LAYOUTS[name], **blow(trial)}))
        said = launch(RANK, 2, *started, expect=-9 if name is not None else 0)
        if trial:
            check(bench, trial - 1, names[trial - 1], said)
        started = [job(bench, f"trial_{trial}", LAYOUTS[name])] if name is not None else []


def check(bench: Bench, trial: int, layout: str, said: str) -> None:
    """A trial's second attempt went on from the first one's last checkpoint and became the undisturbed training."""
    plain, killed, resumed = bench.attempt(f"plain_{layout}"), *(bench.attempt(f"trial_{trial}", n) for n in (1, 2))
    begun, case = complete(killed), f"trial {trial}: {layout}, {blow(trial)}"
    assert (f"resumed after step {begun} from {killed}" in said) == (begun > 0), case
    assert not (killed / "outcome.json").exists() and len(curve(killed)) < NUM_STEPS, case
    assert curve(resumed) == curve(plain), case
    assert weights(resumed) == weights(plain), case


ASKED = ("forget", "partly", "signal", "at_step", "at_pass", "moment", "rank", "most_bytes", "at_save")
"""What a job asks of rank.py, beside a recipe's settings."""


def job(bench: Bench, key: str, asked: dict[str, Any]) -> Path:
    """A job file."""
    own = {name: asked[name] for name in asked if name in ASKED}
    return bench.job(key, signal=own, **{**SETTINGS, **{name: asked[name] for name in asked if name not in ASKED}})


@pytest.fixture
def halted(bench: Bench) -> Callable[..., None]:
    """Runs trainings on two ranks, each once undisturbed and once asked to stop after step 7."""

    def run(sources: dict[str, dict[str, Any]]) -> None:
        ask = {"signal": "SIGUSR2", "at_step": 6}
        plain = [job(bench, f"plain_{name}", settings) for name, settings in sources.items()]
        halted = [job(bench, f"halted_{name}", {**settings, **ask}) for name, settings in sources.items()]
        launch(RANK, 2, *plain, *halted)

    return run


def go_on(
    bench: Bench, world_size: int, source: str, others: dict[str, dict[str, Any]], folder: str = "universal"
) -> dict[str, float]:
    """Go on from where `source` was halted on other ranks or with other settings: how far losses and norms are off."""
    jobs = []
    for name, settings in others.items():
        copied = bench.root / "work" / "train" / name
        shutil.copytree(bench.attempt(f"halted_{source}").parent, copied)
        jobs.append(job(bench, name, settings))
    said = launch(RANK, world_size, *jobs)
    plain, off = curve(bench.attempt(f"plain_{source}")), {}
    for name in others:
        assert f"resumed after step 7 from {bench.attempt(name, 2 if folder == 'universal' else 1)}/{folder}" in said
        assert not (bench.attempt(name, 2) / "universal").exists()
        mine = curve(bench.attempt(name, 2))
        assert [row[:1] + row[2:3] + row[4:] for row in mine] == [row[:1] + row[2:3] + row[4:] for row in plain]
        off[name] = max(abs(a[n] - b[n]) for a, b in zip(mine, plain, strict=True) for n in (1, 3))
    return off


@pytest.mark.proof_ci
def test_training_goes_on_with_another_offload_without_a_conversion(bench: Bench, halted: Callable[..., None]) -> None:
    offloaded = {"zero": {"stage": 3, "offload": "optimizer"}}
    halted({"none": {}, "some": offloaded})
    far = {
        **go_on(bench, 2, "none", {"on": offloaded}, "checkpoints"),
        **go_on(bench, 2, "some", {"off": {}}, "checkpoints"),
    }
    assert {name: off for name, off in far.items() if off > 1e-5} == {}


@pytest.mark.proof_ci
def test_a_rank_that_cannot_write_costs_the_checkpoint_on_all_and_not_the_training(bench: Bench) -> None:
    """The second of five saves meets a full disk on one rank (a limit of the size of files), half way into its file."""
    full = {"most_bytes": 20_000, "at_save": 2, "rank": 1}
    asked = {"signal": "SIGUSR2", "at_step": 4, "moment": "batch"}
    jobs = [job(bench, "plain", {}), job(bench, "full", full)]
    stopped = [job(bench, "stopped", {**full, **asked})]
    said = launch(RANK, 2, *jobs, *stopped)
    assert "NO CHECKPOINT after step 6: rank 1: " in said and "cannot be written" in said
    assert curve(bench.attempt("full")) == curve(bench.attempt("plain"))
    assert weights(bench.attempt("full")) == weights(bench.attempt("plain"))
    assert sorted(p.name for p in bench.attempt("full").glob("checkpoints/step_*")) == ["step_12", "step_15"]
    outcome = files.read_json(bench.attempt("stopped") / "outcome.json")["interrupted"]
    assert "stopped after step 5 of 16; NO CHECKPOINT was saved" in outcome


@pytest.mark.proof_ci
def test_a_warning_while_a_training_loads_ends_it_before_its_first_step(bench: Bench) -> None:
    asked = {"signal": "SIGUSR2", "at_step": 0, "moment": "loading", "rank": 1}
    launch(RANK, 2, job(bench, "early", asked))
    outcome = files.read_json(bench.attempt("early") / "outcome.json")["interrupted"]
    assert "stopped before step 1 of 16: nothing new to save" in outcome and complete(bench.attempt("early")) == 0


@pytest.mark.proof_ci
def test_training_goes_on_on_one_rank_where_two_left_off_and_has_its_moments(
    bench: Bench, halted: Callable[..., None]
) -> None:
    halted({"z3": {}})
    off = go_on(bench, 1, "z3", {"on_one": {}, "without_moments": {"forget": True}})
    assert off["on_one"] < 1e-5 and off["without_moments"] > 1e-2


@pytest.mark.proof
def test_training_goes_on_on_any_ranks_with_any_offload_and_sharing(bench: Bench, halted: Callable[..., None]) -> None:
    """A root with characters that are patterns to DeepSpeed's converter, and weight decay for matrices alone."""
    offloaded, shared = {"zero": {"stage": 3, "offload": "all"}}, {"sequence_parallel": 2}
    halted({"z3": {}, "z3_all": offloaded, "z2": {"zero": {"stage": 2}}, "z1": {"zero": {"stage": 1}}})
    far = {
        **go_on(bench, 4, "z3", {"z3 on 4": {}, "z3 on 4 (shared)": shared, "z3 on 4 + offload": offloaded}),
        **go_on(bench, 2, "z3", {"z3 + offload": offloaded}, "checkpoints"),
        **go_on(bench, 2, "z3_all", {"z3 - offload": {}}, "checkpoints"),
        **go_on(bench, 4, "z2", {"z2 on 4": {"zero": {"stage": 2}}, "z2 on 4 to z1": {"zero": {"stage": 1}}}),
        **go_on(bench, 1, "z1", {"z1 on 1": {"zero": {"stage": 1}}, "z1 on 1 to z2": {"zero": {"stage": 2}}}),
    }
    assert {name: off for name, off in far.items() if off > 1e-5} == {}


@pytest.mark.proof
def test_stages_that_cannot_be_converted_are_an_error_and_stage_0_needs_no_conversion(
    bench: Bench, halted: Callable[..., None]
) -> None:
    halted({"z3": {}, "z0": {"zero": {"stage": 0}}})
    for name, source in (("z3_to_2", "z3"), ("z0_on_1", "z0")):
        shutil.copytree(bench.attempt(f"halted_{source}").parent, bench.root / "work" / "train" / name)
    said = launch(RANK, 2, job(bench, "z3_to_2", {"zero": {"stage": 2}}), expect=1)
    assert "stage 3 of ZeRO saved it, this job has stage 2" in said
    launch(RANK, 1, job(bench, "z0_on_1", {"zero": {"stage": 0}}))
    plain, mine = curve(bench.attempt("plain_z0")), curve(bench.attempt("z0_on_1", 2))
    assert [row[1] for row in mine] == pytest.approx([row[1] for row in plain], abs=1e-5)


@pytest.mark.proof
@pytest.mark.parametrize("stage", [0, 3])
def test_a_training_that_comes_apart_ends_and_keeps_the_checkpoint_before_it(bench: Bench, stage: int) -> None:
    asked = {"lr": 1e30, "grad_clip": 1e30, "save_every_steps": 1, "zero": {"stage": stage}}
    said = launch(RANK, 2, job(bench, "apart", asked), expect=1)
    assert "came apart in step" in said and "nan" in said.split("came apart")[1]
    assert not (bench.attempt("apart") / "outcome.json").exists() and complete(bench.attempt("apart")) >= 1


@pytest.mark.proof
def test_a_partial_offload_keeps_the_moments_that_are_left_on_the_gpu(
    bench: Bench, halted: Callable[..., None]
) -> None:
    """DeepSpeed's checkpoints lack them. Its CPUAdam is compiled at the first use, and is not exact in the last bit.

    States of either Adam, and of both, are loaded by the other without a conversion.
    """
    settings = {"zero": {"stage": 3, "offload": "optimizer"}, "partly": True}
    halted({"half": settings, "none": {}})
    crossed = {
        **go_on(bench, 2, "half", {"half to none": {}, "lost": {"forget": True}}, "checkpoints"),
        **go_on(bench, 2, "none", {"none to half": settings}, "checkpoints"),
    }
    assert max(crossed["half to none"], crossed["none to half"]) < 1e-4 and crossed["lost"] > 1e-2
    again = go_on(bench, 2, "half", {"half on 2": settings}, "checkpoints")
    other = go_on(bench, 1, "half", {"half on 1": settings, "forgotten": {**settings, "forget": True}})
    assert max(again["half on 2"], other["half on 1"]) < 1e-4 and other["forgotten"] > 1e-2
