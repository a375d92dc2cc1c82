"""Profiles: look-up, inheritance by kind of stage, resources, and errors that a newcomer can act on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc.cluster.profile import check_cache, default_profile, find_profile
from hpc.errors import ClusterError


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_an_unknown_profile_lists_those_that_are_there():
    with pytest.raises(ClusterError) as caught:
        find_profile("slrum")
    assert 'did you mean "slurm"?' in caught.value.why and "h100x8" in caught.value.why


def test_an_unknown_key_names_the_nearest(tmp_path):
    with pytest.raises(ClusterError) as caught:
        find_profile(write(tmp_path, "kind: slurm\npartion: gpu\n"))
    assert 'did you mean "partition"?' in caught.value.why and "mine.yaml" in caught.value.where


def test_a_wrong_type_names_key_and_type(tmp_path):
    with pytest.raises(ClusterError, match="must be a number"):
        find_profile(write(tmp_path, "stages: {train: {hours: [1]}}\n"))


def test_a_kind_of_stage_overrides_the_rest(tmp_path):
    profile = find_profile(
        write(
            tmp_path,
            "partition: gpu\nsetup: [a]\nsbatch: {constraint: x}\nstages:\n  grade: "
            "{partition: cpu, setup: [b], sbatch: {nice: 5}, python: /v/python}\n",
        )
    )
    grade, train = profile.place("grade"), profile.place("train")
    assert (grade.partition, grade.setup, grade.sbatch) == ("cpu", ["a", "b"], {"constraint": "x", "nice": 5})
    assert (train.partition, train.setup, train.sbatch) == ("gpu", ["a"], {"constraint": "x"})
    assert (grade.python, train.python) == ("/v/python", sys.executable)


def test_gpus_are_spread_over_nodes_and_cores_follow_them():
    profile = find_profile("h100x16")
    found = profile.resources("train", {"gpus": 16, "gpu": "", "nodes": 2, "ranks": 16, "cpus_per_rank": 0})
    assert (found["gpus_per_node"], found["ranks_per_node"], found["cpus_per_rank"], found["gpu"]) == (8, 8, 12, "h100")


def test_more_gpus_than_a_node_has_are_refused_with_a_way_out():
    with pytest.raises(ClusterError, match="16 GPU") as caught:
        find_profile("h100x8").resources("train", {"gpus": 16, "nodes": 1, "ranks": 16})
    assert "8 GPU" in caught.value.why and "--on" in caught.value.next


@pytest.mark.parametrize("shape", [(9, 2, 2), (16, 2, 3), (0, 2, 1)])
def test_gpus_and_ranks_must_divide_evenly_by_nodes(shape):
    gpus, nodes, ranks = shape
    with pytest.raises(ClusterError, match="evenly") as caught:
        find_profile("h100x16").resources("train", {"gpus": gpus, "nodes": nodes, "ranks": ranks})
    assert f"{gpus} GPU(s), {ranks} rank(s) and {nodes} node(s)" in caught.value.why


@pytest.mark.parametrize("kind", ["data", "generate", "grade"])
def test_only_training_takes_more_than_one_node(kind):
    with pytest.raises(ClusterError, match="cannot use 2 nodes") as caught:
        find_profile("h100x16").resources(kind, {"gpus": 16, "nodes": 2, "ranks": 2})
    assert "fits one node (8)" in caught.value.next


@pytest.mark.parametrize(
    "text, word",
    [
        ("stages: {grad: {hours: 1}}", 'did you mean "grade"?'),
        ("max_array_size: 0", "MaxArraySize"),
        ("hours: -3", "hours is -3"),
        ("hours: 0", "more than 0"),
        ("gpus_per_node: -1", "0 or more"),
        ("stages: {grade: {cpus_per_rank: 0}}", "correct stages.grade.cpus_per_rank in"),
        ("debug: {memory_gib: -1}", "debug.memory_gib is -1"),
        ("partion: gpu", "correct partion in"),
        ("stages: {train: {hours: [1]}}", "correct stages.train.hours in"),
        ("env: {HF_TOKEN: hf_abc}", "HF_TOKEN: $HF_TOKEN"),
    ],
)
def test_values_that_cannot_be_used_are_named(tmp_path, text, word):
    with pytest.raises(ClusterError) as caught:
        find_profile(write(tmp_path, text))
    assert word in str(caught.value) and "hf_abc" not in str(caught.value)
    assert "--on" not in caught.value.next


def test_zero_is_a_number_where_it_has_a_meaning(tmp_path):
    assert find_profile(write(tmp_path, "memory_gib: 0\ngpus_per_node: 0\nconfirm_gpu_hours: 0\n")).memory_gib == 0


def test_secrets_are_passed_on_by_name(tmp_path):
    text = "env: {WANDB_API_KEY: $WANDB_API_KEY, TOKENIZERS_PARALLELISM: 'false', HF_TOKEN_PATH: /home/me/t}"
    assert find_profile(write(tmp_path, text)).env["WANDB_API_KEY"] == "$WANDB_API_KEY"


@pytest.mark.parametrize("root", ["$NOT_SET_AT_ALL/runs", "/scratch/${NOT_SET_AT_ALL}"])
def test_a_root_with_an_unset_variable_names_it(root):
    with pytest.raises(ClusterError, match="NOT_SET_AT_ALL"):
        _ = find_profile("local", roots=[root]).root


def test_a_cache_with_an_unset_variable_names_it():
    check_cache(find_profile("local", cache="$HOME/cache"))
    with pytest.raises(ClusterError, match="NOT_SET_AT_ALL") as caught:
        check_cache(find_profile("local", cache="$NOT_SET_AT_ALL/cache"))
    assert "cache" in caught.value.where


def test_the_root_is_the_profile_or_the_environment_or_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HPC_ROOT", raising=False)
    assert find_profile("local").root == tmp_path / "runs"
    monkeypatch.setenv("HPC_ROOT", "/scratch/x")
    assert find_profile("local").root == Path("/scratch/x")
    shared = find_profile("local", roots=["$HPC_ROOT/mine", "/lab"]).all_roots
    assert shared == [Path("/scratch/x/mine"), Path("/lab")]


def test_local_is_the_default_where_no_slurm_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert default_profile() == "local"
    for name in ("sbatch", "squeue"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert default_profile() == "slurm"


def test_the_login_side_imports_nothing_heavy():
    code = (
        "import sys\nfrom hpc.cluster import cover, ledger, local, pieces, profile, queue, script, status, submit\n"
        "heavy = {'torch', 'transformers', 'deepspeed', 'vllm', 'wandb', 'datasets', 'pandas', 'submitit'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert found.stdout.strip() == "[]"
