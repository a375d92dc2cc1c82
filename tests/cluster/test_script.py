"""The text of sbatch scripts. After a wanted change: `HPC_GOLDEN=write pytest tests/cluster/test_script.py`."""

import os
import subprocess
from pathlib import Path

import pytest

from hpc.cluster import script
from hpc.cluster.profile import find_profile
from hpc.cluster.submit import texts

GOLDEN = Path(__file__).parent / "golden"


def same(name, text):
    path = GOLDEN / name
    if os.environ.get("HPC_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("kind", script.KINDS)
def test_the_scripts_in_sbatch_are_what_the_function_writes(kind):
    shipped = Path(__file__).parents[2] / "sbatch" / f"{kind}.sbatch"
    assert shipped.read_text() == script.plain(kind, find_profile("slurm")), "python -m hpc.cluster.script"


def test_a_train_array_on_two_nodes(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(
        "kind: slurm\npartition: gpu\naccount: lab\nqos: high\ngpu: h100\ngpu_flag: gres\n"
        "memory_gib: 1800\ncpus_per_gpu: 12\nhours: 24\npython: /env/bin/python\n"
        "setup: [module load cuda/12.9]\n"
        "env: {HF_HOME: $SCRATCH/hf}\nsbatch: {constraint: hbm3, exclusive: true}\narray_throttle: 4\n"
    )
    profile = find_profile(str(path))
    resources = profile.resources("train", {"gpus": 16, "nodes": 2, "ranks": 16})
    logs = Path("/runs/logs/x/train-0")
    chosen = script.parameters(
        "train",
        {**resources, "exclude": ["h100-07"]},
        profile,
        job_name="s1.train-0.1a2b3c4d",
        logs=logs,
        indices=[0, 1, 2, 7],
        dependency="aftercorr:17",
        code=Path("/runs/code/0123456789abcdef"),
    )
    lines = script.body(
        profile.place("train"), profile, f"{logs}/", "/env/bin/python", "/runs/jobs/x/train-0.json", None
    )
    same("train.sbatch", script.sbatch_text(chosen, logs, lines))


def test_a_plain_grade_job():
    profile = find_profile("slurm", python="/env/bin/python")
    resources = profile.resources("grade", {"gpus": 0, "nodes": 1, "ranks": 1, "cpus_per_rank": 4, "hours": 0.25})
    logs = Path("/runs/logs/x/grade-0")
    chosen = script.parameters(
        "grade", resources, profile, job_name="s1.grade-0.1a2b3c4d", logs=logs, index=3, code=Path("/a b/code")
    )
    arguments = "'/runs/a b/grade-0.json' --index 3"
    lines = script.body(profile.place("grade"), profile, f"{logs}/", "/env/bin/python", arguments, 3)
    same("grade.sbatch", script.sbatch_text(chosen, logs, lines))


@pytest.mark.parametrize(
    "tool, wrapped",
    [
        ("pyxis", "--container-image=lab/hpc:1 --container-mounts=/scratch/me:/scratch/me,/models:/models"),
        ("apptainer", "apptainer exec --nv --bind /scratch/me:/scratch/me,/models:/models lab/hpc:1"),
    ],
)
def test_a_container_wraps_the_worker(tool, wrapped):
    profile = find_profile(
        "slurm", container="lab/hpc:1", container_with=tool, roots=["/scratch/me"], mounts=["/models:/models"]
    )
    lines = script.body(profile.place("train"), profile, "/logs/", "python", "/jobs/a.json", None)
    deaf = 'bash -c \'trap "" TERM USR2; exec "$@"\' -'
    ranks = f"{wrapped} {deaf}" if tool == "pyxis" else f"{deaf} {wrapped}"
    assert f"{ranks} python -P -u -m hpc.cluster.worker /jobs/a.json || outside $?" in lines
    assert subprocess.run(["bash", "-n"], input=lines, text=True).returncode == 0


def test_caches_umask_and_offline_jobs():
    profile = find_profile("slurm", cache="$SCRATCH/cache", umask="0007", env={"TRITON_CACHE_DIR": "/tmp/triton"})
    lines = script.setup("train", profile)
    assert 'export HF_HOME="$SCRATCH/cache/huggingface"' in lines and 'export HF_HUB_OFFLINE="1"' in lines
    assert 'export TRITON_CACHE_DIR="/tmp/triton"' in lines and "umask 0007" in lines


def test_a_short_job_is_warned_a_quarter_of_its_time_before_the_end():
    profile = find_profile("slurm", signal_lead_s=600)
    assert [script.lead_s(h, profile) for h in (1, 0.34, 1 / 3, 0.1)] == [600, 600, 300, 90]


def test_a_training_is_warned_as_early_as_its_save_and_a_step_are_forecast_to_take():
    profile = find_profile("slurm", signal_lead_s=120)
    assert [script.lead_s(h, profile, 623.2) for h in (24, 0.5, 0.2)] == [624, 624, 360]
    assert script.lead_s(24, profile, 60) == 120 and script.lead_s(24 * 90, profile, 1e6) == 65535
    forecasts = [{"lead_s": 300}, {"lead_s": 623}, {"lead_s": None}, {"error": {"what": "x"}}, None]
    stages = [{"stage": "train", "forecast": f} for f in forecasts]
    assert script.warned_s(stages) == 623
    assert script.warned_s([{"stage": "data"}, {"stage": "generate", "forecast": None}, *stages[2:]]) == 0


def test_the_warning_that_a_plan_forecasts_stands_in_the_script(toys, tmp_path):
    plan = toys().job("train-0", 0, ("a", [], {})).document()
    plan["stages"][0] |= {"stage": "train", "forecast": {"lead_s": 150}}  # of 360 s
    found = texts(plan, find_profile("slurm", roots=[str(tmp_path / "root")]))
    assert "--signal=USR2@150" in found[0]


@pytest.mark.parametrize(
    "value, seen", [("$SCRATCH/a b", "/s/a b"), ('say "x"; ${SCRATCH}', 'say "x"; /s'), ("$(id) `id` \\ 5$", None)]
)
def test_values_of_env_reach_the_job_as_they_are(value, seen):
    line = f'export X={script.quoted(value)}; printf %s "$X"'
    done = subprocess.run(["bash", "-c", line], env={"SCRATCH": "/s", "PATH": os.environ["PATH"]}, capture_output=True)
    assert done.stdout.decode() == (value if seen is None else seen)


def test_index_ranges():
    assert script.ranges([0]) == "0"
    assert script.ranges([5, 0, 1, 2]) == "0-2,5"
    assert script.ranges([1, 3, 5, 6]) == "1,3,5-6"


def test_plan_shows_the_texts_without_touching_anything(toys, tmp_path):
    plan = toys().job("train-0", 0, ("a", [], {})).job("train-0", 1, ("b", [], {}))
    plan.job("grade-0", 0, ("c", ["a"], {})).job("grade-0", 1, ("d", ["b"], {}))
    found = texts(plan.document(), find_profile("slurm", roots=[str(tmp_path / "root")]))
    assert "--array=0-1%256" in found[0] and "--dependency=aftercorr:ID_OF_train-0" in found[1]
    assert not (tmp_path / "root").exists()
