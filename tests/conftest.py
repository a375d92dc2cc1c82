"""Marks, skips and plans that several folders of tests share."""

import hashlib
import os
import shutil
import signal
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

TOYS = Path(__file__).parent / "toys"

# Tests that run in the background inherit an ignored Ctrl-C, and so would the commands that they send one to.
signal.signal(signal.SIGINT, signal.default_int_handler)


def why_no_slurm():
    """Why a real Slurm cannot be brought up here; empty if it can."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [n for n in ("slurmctld", "slurmd", "munged", "sbatch", "squeue") if not shutil.which(n, path=path)]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return "" if os.geteuid() == 0 else "a private Slurm needs root"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Two lanes (pytest -n 2): one cluster at a time, and one set of ranks or one engine."""
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "slurm" if "slurm" in nodeid.partition("::")[0] else "here"

    return Lanes(config, log)


def pytest_collection_modifyitems(config, items):
    reason = why_no_slurm()
    for item in items:
        if reason and item.get_closest_marker("slurm"):
            item.add_marker(pytest.mark.skip(reason=reason))


def key_of(name):
    return hashlib.sha256(name.encode()).hexdigest()[:16]


class ToyPlan:
    """Builds a plan of toy stages in the shape that hpc.plan makes."""

    def __init__(self, name="toys"):
        self.name, self.stages, self.jobs = name, {}, {}

    def job(self, array, index, *stages, ranks=1, nodes=1, gpus=0, kind="toy"):
        """Each of `stages` is (name, [names of inputs], {settings})."""
        for name, inputs, config in stages:
            key = key_of(self.name + name)
            self.stages[name] = {
                "stage": kind,
                "key": key,
                "recipe": self.name,
                "task": None,
                "config": {"name": name, **config},
                "what": {"name": name},
                "seed": 0,
                "state": "new",
                "inputs": {n: {"stage": self.stages[n]["stage"], "key": self.stages[n]["key"]} for n in inputs},
            }
        resources = {
            "gpus": gpus,
            "gpu": "",
            "nodes": nodes,
            "ranks": ranks,
            "cpus_per_rank": 1,
            "memory_gib": 0,
            "hours": 0.1,
        }
        self.jobs.setdefault(array, []).append(
            {
                "kind": kind,
                "stages": [self.stages[s[0]]["key"] for s in stages],
                "resources": resources,
                "array": array,
                "index": index,
            }
        )
        return self

    def key(self, name):
        return self.stages[name]["key"]

    def document(self):
        arrays = [
            {"name": a, "kind": jobs[0]["kind"], "resources": jobs[0]["resources"], "jobs": jobs, "parents": []}
            for a, jobs in self.jobs.items()
        ]
        run = {
            "name": "toy_s0",
            "signature": "0" * 8,
            "axes": {},
            "settings": {},
            "stages": {"toy": {n: s["key"] for n, s in self.stages.items()}},
        }
        return {
            "name": self.name,
            "runs": [run],
            "stages": list(self.stages.values()),
            "jobs": [j for jobs in self.jobs.values() for j in jobs],
            "arrays": arrays,
            "totals": {},
        }


@pytest.fixture
def toys(monkeypatch):
    """ToyPlan, with the toy stage importable in every process that the test starts."""
    folders = [str(TOYS), str(TOYS.parent.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))
    monkeypatch.delenv("HPC_ROOT", raising=False)
    return ToyPlan


@pytest.fixture
def attempts_of():
    """How often each stage of a plan was started, and how often it is published, by name: {"a": (1, 1)}."""

    def count(plan, root):
        result = {}
        for name, stage in plan.stages.items():
            work = root / "work" / stage["stage"] / stage["key"]
            tried = len(list(work.iterdir())) if work.is_dir() else 0
            result[name] = (tried, int((root / "artifacts" / stage["stage"] / stage["key"] / "DONE").exists()))
        return result

    return count


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A working folder with one small recipe `base`, a source, a task and a format of its own."""
    for folder in ("recipes", "sweeps"):
        (tmp_path / folder).mkdir()
    write = lambda name, text: (tmp_path / name).write_text(textwrap.dedent(text))  # noqa: E731
    write("recipes/source.py", "def made(*, num=3, seed=0):\n    yield from ()\n")
    write("recipes/format.yaml", "thinking_start: '<think>'\nthinking_end: '</think>'\n")
    write("recipes/quiz.yaml", "source: './source.py:made'\nprompt: '{question}'\ngrader: exact\n")
    write(
        "recipes/base.yaml",
        """
        model: org/model@abc
        format: ./format.yaml
        data: {source: './source.py:made'}
        train: {lr: 1e-4}
        generate: {tasks: [./quiz.yaml], max_tokens: 64, answer_tokens: 8, thinking: {max: auto}}
        resources: {train: {gpus: 16, gpu: h100}}
        """,
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HPC_DATA_DIR", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return SimpleNamespace(path=tmp_path, write=write)
