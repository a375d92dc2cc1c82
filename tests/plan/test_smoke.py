"""The short test of a sweep: each distinct stage once, cut to minutes, in a root of its own."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from hpc import files
from hpc.cluster.profile import Place, find_profile
from hpc.plan import document, smoke
from hpc.recipe import sweep

GRID = """
recipe: base
axes:
  data:
    short: {source: ../recipes/source.py:made}
    long: {source: {name: ../recipes/source.py:made, num: 99}, select: random, size: 50}
  train.lr: [1.0e-5, 2.0e-5]
  train.max_tokens: [1024, 2048]
  generate.temperature: [0, 0.5]
"""


@pytest.fixture
def real():
    return find_profile("h100x8", roots=["/nowhere"], debug=Place(partition="short", sbatch={"reservation": "r"}))


def planned(real, name):
    return smoke.plan(sweep.load(name), smoke.profile(real))


def kinds(plan):
    return sorted(s["stage"] for s in plan["stages"])


def test_each_distinct_stage_is_there_once_and_nothing_else(workspace, real):
    """Sixteen runs differ in data, memory (max_tokens) and in what changes neither: rate and temperature."""
    workspace.write("sweeps/grid.yaml", GRID)
    plan = planned(real, "sweeps/grid.yaml")
    assert kinds(plan) == ["data", "data", *["generate"] * 2, *["grade"] * 2, "train", "train"]
    assert {s["config"]["max_tokens"] for s in plan["stages"] if s["stage"] == "train"} == {1024, 2048}
    assert {k for j in plan["jobs"] for k in j["stages"]} == {s["key"] for s in plan["stages"]}
    assert plan["name"] == "grid-smoke"


def test_two_steps_on_the_longest_examples_and_four_questions(workspace, real):
    workspace.write("recipes/own.yaml", "extends: base\ntrain: {epochs: 5, batch_size: 8}\nseeds: {train: [3, 4]}\n")
    plan = planned(real, "recipes/own.yaml")
    stages = {s["stage"]: s for s in plan["stages"]}
    assert stages["data"]["config"]["select"] == {"name": "longest", "field": "thinking"}
    assert (stages["data"]["config"]["size"], stages["train"]["config"]["epochs"]) == (16, 1.0)
    assert stages["generate"]["what"]["task"]["limit"] == 4
    assert stages["train"]["inputs"]["model"] == {"ref": "org/model@abc"} and stages["train"]["seed"] == 3
    assert len(plan["stages"]) == 4


def test_a_limit_below_four_stays_and_a_format_without_thinking_takes_long_answers(workspace, real):
    workspace.write("recipes/flat.yaml", "about: no thinking\n")
    workspace.write(
        "recipes/own.yaml",
        """
        extends: base
        format: ./flat.yaml
        generate: {tasks: [{name: ./quiz.yaml, limit: 2}], thinking: {max: null}}
        """,
    )
    stages = {s["stage"]: s for s in planned(real, "recipes/own.yaml")["stages"]}
    assert stages["generate"]["what"]["task"]["limit"] == 2
    assert stages["data"]["config"]["select"]["field"] == "answer"


def test_recipes_that_others_build_on_are_cut_as_well(workspace, real):
    """A filter by grades of a few questions must not empty the data, and teacher's traces must fill two steps."""
    workspace.write("recipes/child.yaml", "extends: base\nmodel: run:base\n")
    plan = planned(real, "recipes/child.yaml")
    assert [s["config"]["size"] for s in plan["stages"] if s["stage"] == "data"] == [32]
    assert [s["config"]["epochs"] for s in plan["stages"] if s["stage"] == "train"] == [1.0, 1.0]
    graded = "{name: solved_by, grades: 'run:base#grade.quiz'}"
    workspace.write("recipes/picky.yaml", f"extends: base\ndata: {{source: './source.py:made', filters: [{graded}]}}\n")
    (data,) = [
        s for s in planned(real, "recipes/picky.yaml")["stages"] if s["stage"] == "data" and s["config"]["filters"]
    ]
    assert data["config"]["filters"] == [{"name": "unsolved_by", "grades": "run:base#grade.quiz", "strict": False}]
    workspace.write("recipes/taught.yaml", "extends: base\ndata: {source: 'run:base#grade.quiz'}\n")
    stages = planned(real, "recipes/taught.yaml")["stages"]
    limits = {s["recipe"]: s["what"]["task"]["limit"] for s in stages if s["stage"] == "generate"}
    assert limits["base"] == 32


def test_the_real_plan_keeps_its_keys_and_roots_are_apart(workspace, real):
    before = document.document(document.make(sweep.load("recipes/base.yaml"), [], 8))
    cut = planned(real, "recipes/base.yaml")
    after = document.document(document.make(sweep.load("recipes/base.yaml"), [], 8))
    assert before == after
    assert not {s["key"] for s in before["stages"]} & {s["key"] for s in cut["stages"]}
    assert smoke.profile(real).all_roots == [real.root / "smoke"]


def test_debug_lies_over_every_place(real):
    special = dataclasses.replace(real, stages={"train": Place(partition="big", hours=48, sbatch={"exclusive": True})})
    cut = smoke.profile(special)
    for kind in ("data", "train", "generate", "grade"):
        place = cut.place(kind)
        assert (place.partition, place.hours) == ("short", smoke.HOURS)
        assert place.sbatch["reservation"] == "r"
    assert cut.place("train").sbatch["exclusive"] is True and not cut.mend
    ten = dataclasses.replace(real, debug=Place(max_hours=0.1))
    assert smoke.profile(ten).place("train").hours == 0.1


def test_what_was_measured_stands_beside_what_was_planned(tmp_path):
    folder = tmp_path / "artifacts" / "train" / "k"
    files.write_json(folder / "DONE", {})
    files.write_json(folder / "usage.json", {"seconds": 12.5, "peak_host_gib": 3.0, "peak_gpu_gib": 71.25})
    files.write_jsonl(folder / "metrics.jsonl", [{"step": 1, "tokens_per_s": 10.0}, {"step": 2, "tokens_per_s": 900.0}])
    common = {"key": "k", "task": None, "recipe": "r"}
    stages = [
        {**common, "stage": "train", "hours": 0.5, "memory_gib_per_gpu": 74.0},
        {**common, "stage": "generate", "hours": None},
    ]
    jobs = [{"stages": ["k"], "resources": {"memory_gib": 64}}]
    train, generate = smoke.measured({"stages": stages, "jobs": jobs}, [tmp_path])
    assert (train["seconds"], train["tokens_per_s"], train["host_gib"], train["gpu_gib"]) == (12.5, 900.0, 3.0, 71.25)
    planned = [train[f"planned_{n}"] for n in ("seconds", "tokens_per_s", "host_gib", "gpu_gib")]
    assert planned == [1800.0, None, 64, 74.0]
    assert generate["seconds"] is None and generate["planned_seconds"] is None


def hpc(*words, **variables):
    command = [sys.executable, "-m", "hpc.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, timeout=300)


def test_a_data_recipe_is_smoked_for_real_through_the_command(workspace, monkeypatch):
    """data alone needs no torch: submit --smoke, wait, status --smoke, and the real root stays empty."""
    home = str(files.__file__).rsplit("/hpc/", 1)[0]
    rows = [{"question": f"q{i}", "thinking": "t " * i, "answer": "a", "reference": "a"} for i in range(1, 60)]
    files.write_jsonl(workspace.path / "rows.jsonl", rows)
    workspace.write(
        "recipes/only.yaml", "model: org/model@abc\nformat: ./format.yaml\ndata: {source: './rows.py:rows'}\n"
    )
    workspace.write(
        "recipes/rows.py",
        f"""
        from hpc import files
        from hpc.records import Example
        from pathlib import Path

        def rows():
            for row in files.read_jsonl(Path("{workspace.path}/rows.jsonl")):
                yield Example(id=row["question"], source="s", **row)
        """,
    )
    env = {"PYTHONPATH": home, "HPC_ROOT": str(workspace.path / "root")}
    sent = hpc("submit", "recipes/only.yaml", "--smoke", "--on", "local", **env)
    assert sent.returncode == 0, sent.stderr
    done = hpc("status", "recipes/only.yaml", "--smoke", "--wait", "--json", "--on", "local", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    state = json.loads(done.stdout)
    (row,) = state["measured"]
    assert state["totals"] == {"published": 1} and row["stage"] == "data" and row["seconds"] > 0
    kept = list(files.read_jsonl(workspace.path / "root/smoke/artifacts/data" / row["key"] / "examples.jsonl"))
    assert len(kept) == smoke.STEPS and {e["question"] for e in kept} == {"q59", "q58"}
    assert not (workspace.path / "root" / "artifacts").exists()
