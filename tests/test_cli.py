"""The command as a newcomer meets it: exit codes, one JSON document, errors that say what to do next."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc import cli
from hpc.cluster.profile import find_profile

HEAVY = ("torch", "transformers", "deepspeed", "vllm", "wandb", "datasets", "pandas", "matplotlib", "numpy", "sympy")


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
        "hpc.evals.checking",
        "hpc.evals.comparing",
        "hpc.evals.summary",
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


VERBS = "show plan submit status logs why cancel report fetch doctor gc grade stats"


def test_help_lists_every_verb_in_the_order_of_the_work():
    out, _ = hpc("--help")
    listed = [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.strip()]
    assert [word for word in listed if word in VERBS.split()] == VERBS.split()


@pytest.mark.parametrize("words", [["--help"], ["grade", "--help"], ["grade", "c.jsonl", "--task", "choice", "--json"]])
def test_help_and_text_graders_import_nothing_heavy(tmp_path, monkeypatch, words):
    (tmp_path / "c.jsonl").write_text('{"id": 1, "reference": "B", "completion": "Answer: B"}\n')
    monkeypatch.chdir(tmp_path)
    code = (
        f"import sys; sys.argv = ['hpc', *{words!r}]\n"
        f"from hpc import cli\ntry: cli.main()\nexcept SystemExit as ended: assert not ended.code\n"
        f"print('loaded', *[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert out.stderr.splitlines()[-1] == "loaded", out.stderr
    assert ('"verdict": "correct"' if "choice" in words else "Usage: hpc") in out.stdout


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
        (["plan", "base.yam"], ['did you mean "base"', "recipes"]),
        (["plan", "bse.yaml"], ["there is no file bse.yaml", 'did you mean "base"', "/recipes"]),
        (["plan", "recipes"], ["recipes is a folder", "base"]),
        (["logs", "recipes/base.yaml", "--key", "0"], ['there is no stage "0"']),
        (
            ["submit", "recipes/base.yaml", "model=org/model", "resources.train.gpus=0", "train.lr=2", "--on", "local"],
            ["next: hpc fetch recipes/base.yaml model=org/model resources.train.gpus=0 train.lr=2 --on local (where"],
        ),
        (["show", "recipes/base.yaml", "recipes/base.yaml", "recipes/base.yaml"], ["show compares two"]),
        (
            ["submit", "recipes/base.yaml", "model=Qwen/Qwen2.5-72B-Instruct", "train.zero.offload=none"],
            ["does not fit on 16 GPUs", "train.zero.offload", "--yes submits it all the same"],
        ),
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


@pytest.mark.parametrize("verb", ["status", "logs", "why", "cancel", "report"])
def test_a_root_that_is_no_folder_is_said_so(workspace, verb):
    (workspace.path / "file").touch()
    _, error = hpc(verb, "recipes/base.yaml", "--on", "local", code=2, HPC_ROOT=str(workspace.path / "file"))
    assert "Traceback" not in error and "cannot be read or written" in error
    assert f"where: {workspace.path}/file" in error and "next: set HPC_ROOT" in error


@pytest.mark.parametrize(
    "path, kind, root",
    [
        ("root/artifacts/train", PermissionError, True),
        ("root/reports/x", PermissionError, True),
        ("", PermissionError, True),  # the root itself cannot be made: its parent is named
        ("elsewhere/file", PermissionError, False),
        ("root/ledger/gone.json", FileNotFoundError, False),
    ],
)
def test_only_an_error_of_the_root_is_told_as_one(tmp_path, monkeypatch, capsys, path, kind, root):
    def app():
        raise kind(13, "Permission denied", str(tmp_path / path))

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["hpc", "report" if "reports" in path else "status", "x"])
    monkeypatch.setattr(cli.common, "profiles", [find_profile("local", roots=[str(tmp_path / "root")])])
    with pytest.raises(SystemExit if root else kind):
        cli.main()
    error = capsys.readouterr().err
    assert ("HPC_ROOT" in error) == root and ("--out DIR" in error) == ("reports" in path)


def test_the_next_command_names_the_same_plan(workspace, tmp_path):
    words = ["recipes/base.yaml", "resources.train.gpus=0", "train.lr=2e-5", "--on", "local"]
    for verb in (["status", "--wait"], ["why"], ["cancel"]):
        code = 1 if "--wait" in verb else 0
        out, error = hpc(*verb, *words, "--only", "base*", code=code, HPC_ROOT=str(tmp_path / "root"))
        assert f"next: hpc submit {' '.join(words)} --only 'base*'" in out + error, verb


def test_a_wait_for_some_runs_ends_well_though_the_others_were_never_submitted(workspace, tmp_path):
    workspace.write("sweeps/two.yaml", "recipe: base\naxes: {lr: {low: {train.lr: 1e-5}, high: {train.lr: 1e-4}}}\n")
    words = ["sweeps/two.yaml", "--on", "h100x8", "--only", "lr=low"]
    plan = json.loads(hpc("plan", *words[:3], "--json")[0])
    (low,) = (r for r in plan["runs"] if r["axes"]["lr"] == "low")
    keys = {k for v in low["stages"].values() for k in (v.values() if isinstance(v, dict) else [v])}
    for stage in (s for s in plan["stages"] if s["key"] in keys):
        folder = tmp_path / "root/artifacts" / stage["stage"] / stage["key"]
        folder.mkdir(parents=True)
        (folder / "DONE").write_text(json.dumps({"code": {}, "finished": ""}))
    out, _ = hpc("status", *words, "--wait", "--json", HPC_ROOT=str(tmp_path / "root"))
    assert [r["state"] for r in json.loads(out)["runs"]] == ["published"]
    _, error = hpc("status", *words[:3], "--wait", code=1, HPC_ROOT=str(tmp_path / "root"))
    assert "never submitted" in error


def test_a_cache_whose_variable_is_not_set_stops_a_command(workspace):
    (workspace.path / "mine.yaml").write_text("kind: slurm\ncache: $NOT_SET_AT_ALL/x\n")
    _, error = hpc("plan", "recipes/base.yaml", "--on", "./mine.yaml", code=2)
    assert "NOT_SET_AT_ALL" in error and not (workspace.path / "$NOT_SET_AT_ALL").exists()


def test_without_a_gpu_a_gpu_job_on_this_machine_is_refused(workspace, tmp_path):
    if list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a GPU")
    _, error = hpc("submit", "recipes/base.yaml", "--on", "local", code=2, HPC_ROOT=str(tmp_path / "root"))
    assert "GPU" in error and "resources.train.gpus=0" in error
