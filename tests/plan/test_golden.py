"""Keys of every shipped recipe and sweep, as they were released: a changed key is a rebuilt artifact for every user.

HPC_UPDATE_GOLDEN=1 pytest tests/plan/test_golden.py      after a change of meaning that is meant
"""

import json
import os
from pathlib import Path

import pytest

from hpc.plan import document
from hpc.recipe import sweep

HOME = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("golden.json")
SHIPPED = sorted(
    f"{f.parent.name}/{f.name}" for folder in ("recipes", "sweeps") for f in (HOME / folder).glob("*.yaml")
)
LOCAL_MODEL = ("smol", "qwen2.5_")
"""smol needs a model folder that a person has to make first; qwen2.5_* are bases to extend, not experiments."""


def keys(name, monkeypatch, tmp_path):
    monkeypatch.chdir(HOME)
    monkeypatch.delenv("HPC_DATA_DIR", raising=False)
    monkeypatch.delenv("HPC_PATH", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    plan = document.make(sweep.load(name))
    return {run: found.document() for run, found in plan.keys.items()}


@pytest.mark.parametrize("name", [n for n in SHIPPED if not Path(n).stem.startswith(LOCAL_MODEL)])
def test_shipped_recipe_keeps_its_keys(name, monkeypatch, tmp_path):
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    made = keys(name, monkeypatch, tmp_path)
    if os.environ.get("HPC_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps({**golden, name: made}, indent=1, sort_keys=True) + "\n")
    else:
        assert made == golden[name], (
            "keys moved: if the meaning changed, update the golden file and say so in CHANGELOG"
        )


def test_budget_sweep_trains_once_and_loads_each_model_once(monkeypatch, tmp_path):
    monkeypatch.chdir(HOME)
    plan = document.document(document.make(sweep.load("sweeps/s1_budget.yaml")))
    kinds = [s["stage"] for s in plan["stages"]]
    assert kinds.count("train") == 1 and len(plan["runs"]) >= 12
    assert [j["kind"] for j in plan["jobs"]].count("generate") == 1
