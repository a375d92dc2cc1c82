"""The command as a newcomer meets it: exit codes, one JSON document, errors that say what to do next."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "deepspeed", "vllm", "wandb", "datasets", "pandas", "matplotlib", "numpy")


def hpc(*words, code=0, **variables):
    """Run the command in the current folder; returns (stdout, stderr)."""
    home = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": home, **variables}
    done = subprocess.run(
        [sys.executable, "-m", "hpc.cli", *words], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "hpc",
        "hpc.cli",
        "hpc.recipe.sweep",
        "hpc.plan.document",
        "hpc.plan.table",
        "hpc.cluster.submit",
        "hpc.cluster.status",
        "hpc.cluster.profile",
    ],
)
def test_login_node_modules_import_nothing_heavy(module):
    code = f"import {module}, sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert out.stdout.strip() == ""


def test_planning_a_sweep_imports_nothing_heavy(workspace):
    code = (
        f"import sys; sys.argv = ['hpc', 'plan', 'recipes/base.yaml', '--on', 'h100x8', '--json']\n"
        f"from hpc import cli\ntry: cli.main()\nexcept SystemExit: pass\n"
        f"print(*[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert out.stderr.strip() == "" and json.loads(out.stdout)["runs"]


@pytest.mark.parametrize("verb", ["show", "plan", "status"])
def test_json_is_one_document(workspace, verb):
    on = [] if verb == "show" else ["--on", "h100x8"]
    out, _ = hpc(verb, "recipes/base.yaml", "--json", *on, HPC_ROOT=str(workspace.path / "root"))
    assert isinstance(json.loads(out), dict)


def test_plan_document_has_the_promised_shape(workspace):
    plan = json.loads(hpc("plan", "recipes/base.yaml", "--json", "--on", "h100x8")[0])
    assert {"runs", "stages", "jobs", "totals"} <= set(plan)
    assert {"name", "signature", "stages"} <= set(plan["runs"][0])
    wanted = {
        "stage",
        "key",
        "recipe",
        "inputs",
        "state",
        "num_runs",
        "gpus",
        "nodes",
        "hours",
        "memory_gib_per_gpu",
        "usd",
    }
    assert all(wanted <= set(stage) for stage in plan["stages"])
    assert plan["stages"][1]["gpus"] == 16 and plan["stages"][1]["nodes"] == 2
    assert set(plan["runs"][0]["stages"]["generate"]) == {"quiz"}


def test_two_recipes_are_compared_key_by_key(workspace):
    workspace.write("recipes/child.yaml", "extends: base\ntrain: {epochs: 5}\n")
    out, _ = hpc("show", "recipes/base.yaml", "recipes/child.yaml", "--json")
    assert [row["key"] for row in json.loads(out)] == ["train.epochs"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["plan", "recipes/none.yaml"], ["there is no file recipes/none.yaml"]),
        (["plan", "bose"], ['there is no sweep or recipe called "bose"', 'did you mean "base"']),
        (["plan", "recipes/base.yaml", "train.lrr=1"], ['unknown key "train.lrr"', 'did you mean "lr"', "override"]),
        (["plan", "recipes/base.yaml", "train.lr=big"], ['"train.lr" must be a number', "peak learning rate"]),
        (["plan", "recipes/loop.yaml"], ["in a circle: loop -> loop"]),
        (
            ["submit", "recipes/base.yaml", "model=org/model", "resources.train.gpus=0", "--on", "local"],
            ["nothing is submitted", "org/model: not fetched", "next: hpc fetch recipes/base.yaml"],
        ),
        (["show", "recipes/base.yaml", "recipes/base.yaml", "recipes/base.yaml"], ["show compares two"]),
        (["plan", "recipes/base.yaml", "--on", "h100x80"], ["h100x80", "h100x8"]),
    ],
)
def test_mistake_is_answered_with_what_where_why_and_next(workspace, words, says):
    workspace.write("recipes/loop.yaml", "extends: base\nmodel: run:loop\n")
    if "--on" not in words and words[0] != "show":
        words = [*words, "--on", "h100x8"]
    _, error = hpc(*words, code=2)
    assert error.startswith("error: ") and "\n  next: " in error and "Traceback" not in error
    assert all(text in error for text in says), error


def test_without_slurm_a_slurm_profile_is_refused_with_the_local_one_named(workspace, tmp_path):
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "python").symlink_to(sys.executable)
    _, error = hpc(
        "submit",
        "recipes/base.yaml",
        "resources.train.gpus=0",
        "--on",
        "slurm",
        code=2,
        PATH=str(bare),
        HPC_ROOT=str(tmp_path / "root"),
    )
    assert "sbatch" in error and "local" in error and "next:" in error


def test_without_a_gpu_a_gpu_job_on_this_machine_is_refused(workspace, tmp_path):
    if list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a GPU")
    _, error = hpc("submit", "recipes/base.yaml", "--on", "local", code=2, HPC_ROOT=str(tmp_path / "root"))
    assert "GPU" in error and "resources.train.gpus=0" in error
