"""Forecasts in the plan: what `hpc plan` says of time, memory and money, and that it says it on a login node."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc.cluster.profile import find_profile
from hpc.plan import document, forecast, outlook
from hpc.recipe import schema, sweep

HOME = Path(__file__).parents[2]
KEPT_BY_THE_LOOP = "hpc/train/checkpoint.py"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.chdir(HOME)
    monkeypatch.delenv("HPC_PATH", raising=False)
    monkeypatch.delenv("HPC_DATA_DIR", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)


def plan(name, on, *overrides):
    profile = find_profile(on, roots=["/nowhere"])
    loaded = sweep.load(str(HOME / name), list(overrides))
    return document.document(document.make(loaded, [], profile.node_gpus or 8, profile=profile))


def train(made):
    return next(s for s in made["stages"] if s["stage"] == "train")


@pytest.fixture(scope="module")
def s1():
    return plan("recipes/s1_32b_paper.yaml", "h100x16")


@pytest.fixture(scope="module")
def sky():
    return plan("recipes/sky_t1_32b.yaml", "h100x8")


def test_sky_t1_is_predicted_to_take_a_quarter_of_what_it_took(sky):
    told = train(sky)["forecast"]
    assert told["train_hours"]["mid"] <= 5.0 and told["train_hours"]["low"] < told["train_hours"]["high"] < 7
    assert told["published"]["hours"] == 19 and told["layout"]["offload"] == "optimizer"


def test_s1_is_predicted_to_take_less_than_it_took(s1):
    told = train(s1)["forecast"]
    assert told["steps"] == 315 and told["layout"]["offload"] == "none"
    assert told["train_hours"]["high"] * 60 < 26 and told["published"]["hours"] * 60 == pytest.approx(26, abs=0.01)


def test_every_number_is_an_interval_and_they_agree(s1):
    stage = train(s1)
    told = stage["forecast"]
    for name in ("memory_gb_per_gpu", "memory_gb_per_host", "step_s", "epoch_s", "train_hours", "hours", "gpu_hours",
                 "usd", "tokens_per_s", "mfu", "save_s", "start_and_export_s"):  # fmt: skip
        assert told[name]["low"] < told[name]["mid"] < told[name]["high"], name
    assert told["predicted"] is True
    assert told["gpu_hours"]["mid"] == pytest.approx(16 * told["hours"]["mid"], rel=1e-3)
    assert told["usd"]["mid"] == pytest.approx(2.99 * told["gpu_hours"]["mid"], rel=1e-2)
    assert told["train_hours"]["mid"] * 3600 == pytest.approx(315 * told["step_s"]["mid"], rel=1e-3)
    assert told["epoch_s"]["mid"] == pytest.approx(63 * told["step_s"]["mid"], rel=1e-3)
    assert stage["hours"] == told["hours"]["mid"] and stage["usd"] == told["usd"]["mid"]
    assert s1["totals"]["gpu_hours"] == {k: round(v, 2) for k, v in told["gpu_hours"].items()}
    assert told["checkpoint_gb"] == pytest.approx(393, abs=1), "12 bytes a parameter"
    assert told["preemption"]["warned_s"]["mid"] > 2 * told["save_s"]["mid"]
    assert any("lengths (published)" in r for r in told["reasons"]) and any("MFU" in r for r in told["reasons"])


def test_the_authors_own_settings_can_be_asked_for():
    theirs = ["train.pack=false", "train.loss_chunk=0", "train.activation_checkpointing=true", "train.micro_batch=1"]
    s1 = train(plan("recipes/s1_32b_paper.yaml", "h100x16", *theirs))["forecast"]
    sky = train(plan("recipes/sky_t1_32b.yaml", "h100x8", *theirs, "train.zero.offload=all"))["forecast"]
    assert s1["train_hours"]["low"] * 60 < 26 < s1["train_hours"]["high"] * 60
    assert s1["layout"]["activation_checkpointing"] == "full" and s1["layout"]["sequence_parallel"] == 1
    assert sky["layout"]["offload"] == "all" and sky["balance"] > 0.8, "examples are dealt by length here"


def test_what_does_not_fit_is_said_with_a_way_out():
    made = plan("recipes/s1_32b_paper.yaml", "h100x8", "resources.train.gpus=4", "train.zero.offload=none")
    told = train(made)["forecast"]
    assert "does not fit on 4 GPUs" in told["error"]["what"] and "resources.train.gpus=" in told["error"]["next"]
    assert train(made)["hours"] is None and made["totals"]["gpu_hours"] is None
    assert any("DOES NOT FIT" in line for line in outlook.lines(made))


def test_what_would_fail_is_in_the_notes_and_can_be_refused(s1):
    made = plan("recipes/sky_t1_32b.yaml", "h100x8", "train.zero.offload=none")
    assert sum("would fail: qwen2.5-32b does not fit on 8 GPUs" in note for note in made["notes"]) == 1
    error = forecast.refused(made)
    assert "does not fit" in error.what and "train.zero.offload" in error.next and "sky_t1_32b" in error.where
    assert forecast.refused(s1) is None and not any("would fail" in note for note in s1["notes"])
    assert forecast.refused({**made, "jobs": []}) is None, "what is published does not run again"


def test_a_job_with_too_little_host_memory_is_told_what_to_ask_for():
    asked = ["train.zero.offload=all", "resources.train.memory_gib=100"]
    told = train(plan("recipes/sky_t1_32b.yaml", "h100x8", *asked))["forecast"]
    assert "of host memory it needs" in told["error"]["what"] and "resources.train.memory_gib=" in told["error"]["next"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "gemma2"}, "model_type gemma2"),
        ({"model_type": "mistral", "sliding_window": 4096}, "tokens back"),
    ],
)
def test_a_model_that_training_refuses_has_no_forecast_but_a_reason(tmp_path, config, words):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    made = plan("recipes/s1_7b.yaml", "h100x8", f"model={tmp_path / 'model'}")
    assert words in train(made)["forecast"]["error"]["why"] and words in str(forecast.refused(made))
    assert any("CANNOT BE TRAINED" in line for line in outlook.lines(made))
    shorter = plan("recipes/s1_7b.yaml", "h100x8", f"model={tmp_path / 'model'}", "train.max_tokens=4000")
    assert (forecast.refused(shorter) is None) == ("sliding_window" in config)


@pytest.mark.parametrize("config", [None, {"model_type": "qwen2", "hidden_size": "x"}, []])
def test_a_model_whose_shape_is_not_known_is_named(tmp_path, config):
    (tmp_path / "model").mkdir()
    model = tmp_path / "model" if config is not None else "someone/else"
    (tmp_path / "model/config.json").write_text(json.dumps({"num_attention_heads": 1, **config} if config else config))
    made = plan("recipes/s1_7b.yaml", "h100x8", f"model={model}")
    assert train(made)["forecast"] is None and forecast.refused(made) is None
    assert any(f"has no forecast: the shape of {model} is not known" in note for note in made["notes"])


def test_data_that_would_all_be_dropped_are_no_training():
    made = plan("recipes/s1_7b.yaml", "h100x8", "train.max_tokens=100", "train.overlong=drop")
    assert "no example is left" in str(forecast.refused(made))
    cut = train(plan("recipes/s1_7b.yaml", "h100x8", "train.max_tokens=100"))["forecast"]
    assert "1,000 cut at 100" in cut["overlong"] and any("1,000 cut at 100" in r for r in cut["reasons"])
    dropped = train(plan("recipes/s1_7b.yaml", "h100x8", "train.max_tokens=6000", "train.overlong=drop"))["forecast"]
    number = int(dropped["overlong"].split(" dropped at 6,000")[0])
    assert number + dropped["lengths"]["rows"] == 1000


def test_checkpoints_are_counted_from_the_first_that_the_loop_saves(s1):
    """18 minutes with one every hour: the loop saves one after 5 minutes, not knowing yet how long that takes."""
    told = train(s1)["forecast"]
    saved = told["hours"]["mid"] * 3600 - told["train_hours"]["mid"] * 3600 - told["start_and_export_s"]["mid"]
    assert told["save_every_s"] == 3600 and saved == pytest.approx(told["save_s"]["mid"], abs=1)
    again = told["start_and_export_s"]["mid"] + told["save_s"]["mid"]
    assert told["preemption"]["unwarned_s"]["mid"] == pytest.approx(again + 1800 * told["train_hours"]["mid"], abs=1)
    short = train(plan("recipes/s1_7b.yaml", "h100x8", "train.epochs=1"))["forecast"]
    more = (short["hours"]["mid"] - short["train_hours"]["mid"]) * 3600
    assert short["train_hours"]["mid"] * 3600 < 300 and more == pytest.approx(short["start_and_export_s"]["mid"], abs=1)


def test_the_warning_that_a_save_needs_is_a_number(sky):
    told = train(sky)["forecast"]
    assert told["lead_s"] == math.ceil(1.5 * told["save_s"]["high"] + told["step_s"]["high"])
    assert any(f"with a warning {told['lead_s']} s before" in line for line in outlook.lines(sky))


def test_rates_do_not_hold_the_error_of_the_lengths():
    """Twice as many tokens take twice as long, at the same rate."""
    source = "data.source={name: records, hub: some/thing, thinking: t}"
    sure = train(plan("recipes/s1_7b.yaml", "h100x8"))["forecast"]
    assumed = train(plan("recipes/s1_7b.yaml", "h100x8", source))["forecast"]
    wide = {n: [t[n]["high"] / t[n]["low"] for t in (sure, assumed)] for n in ("step_s", "tokens_per_s", "mfu")}
    assert wide["step_s"][1] > 1.5 * wide["step_s"][0]
    for name in ("tokens_per_s", "mfu"):
        assert wide[name][1] == pytest.approx(wide[name][0], rel=0.1)


def test_what_is_assumed_of_the_hardware_is_called_so(s1):
    (line,) = [r for r in train(s1)["forecast"]["reasons"] if r.startswith("hardware:")]
    assert "989 TFLOP/s; assumed: link 350 GB/s, node 40 GB/s" in line


def test_nothing_is_predicted_on_cpus_or_without_a_profile():
    assert train(plan("recipes/mini.yaml", "local"))["forecast"] is None
    without = document.document(document.make(sweep.load("recipes/s1_32b.yaml")))
    assert train(without)["forecast"] is None and without["totals"]["usd"] is None


def test_settings_that_move_no_time_share_a_forecast(s1):
    other = plan("recipes/s1_32b_paper.yaml", "h100x16", "train.lr=2e-5", "train.weight_decay=0.1")
    assert train(other)["forecast"] == train(s1)["forecast"] and train(other)["key"] != train(s1)["key"]


def test_lines_are_for_people(s1, sky):
    text = "\n".join(outlook.lines(s1)) + "\n".join(outlook.lines(sky))
    for words in ("predicted", "GPU-hours", "USD", "GB per GPU", "a preemption costs", "s1-32B took 26.0 min",
                  "Sky-T1-32B-Preview took 19.0 h", "90 % intervals"):  # fmt: skip
        assert words in text


def test_checkpoints_are_spaced_as_the_loop_does():
    loop = {
        name: value
        for line in (HOME / KEPT_BY_THE_LOOP).read_text().splitlines()
        if line.startswith(("SHARE = ", "LEAST_S, MOST_S = "))
        for name, value in zip(
            line.split(" = ")[0].split(", "), map(float, line.split(" = ")[1].split(", ")), strict=True
        )
    }
    assert loop == {"SHARE": forecast.SAVE_SHARE, "LEAST_S": forecast.SAVE_LEAST_S, "MOST_S": forecast.SAVE_MOST_S}
    auto, fixed = schema.Train(), schema.Train(save_every_steps=20)
    assert forecast.save_interval_s(auto, 3.0, 20.0) == 1000 and forecast.save_interval_s(auto, 3.0, 1.0) == 300
    assert forecast.save_interval_s(fixed, 3.0, 20.0) == 60
    assert forecast.save_interval_s(schema.Train(save_every_steps=0), 3.0, 20.0) is None


def test_a_plan_of_a_thousand_runs_stays_about_a_second(tmp_path):
    (tmp_path / "grid.yaml").write_text(
        "recipe: s1_32b\naxes:\n  train.lr: [1.0e-6, 3.0e-6, 1.0e-5, 3.0e-5, 1.0e-4]\n  train.epochs: [1, 2, 3, 4, 5]\n"
        "  train.warmup_ratio: [0.0, 0.05]\n  generate.thinking.max: [250, 500, 1000, 2000, 4000]\n"
        "  generate.thinking.waits: [0, 1, 2, 4]\n"
    )
    forecast._made.cache_clear()
    began = time.process_time()
    made = plan(str(tmp_path / "grid.yaml"), "h100x16")
    assert time.process_time() - began < 3 and len(made["runs"]) == 1000
    assert sum(bool(s.get("forecast")) for s in made["stages"]) == 50


def test_planning_with_forecasts_imports_nothing_heavy():
    code = (
        "import sys\nfrom hpc.cluster.profile import find_profile\nfrom hpc.plan import document\n"
        "from hpc.recipe import sweep\nprofile = find_profile('h100x16')\n"
        "made = document.document(document.make(sweep.load('recipes/s1_32b.yaml'), [], 8, profile=profile))\n"
        "assert any(s['forecast'] for s in made['stages'])\n"
        "print([n for n in ('torch', 'numpy', 'transformers', 'pandas', 'deepspeed') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
