"""`hpc why` on failure logs of other people's jobs: tests/cluster/logs/CASE, written down before the classifier.

    pytest -s tests/cluster/test_corpus.py        prints what was found in each case

Every case has expected.yaml (cause, source, Slurm's words, a line that proves it), logs, and perhaps failures.json.
"""

import json
from pathlib import Path

import pytest
import yaml

from hpc.cluster.failures import evidence
from hpc.cluster.failures.causes import Evidence, classify
from hpc.cluster.failures.cures import CAUSES

LOGS = Path(__file__).parent / "logs"
SHARE = 22 / 24


def case(folder):
    expected = yaml.safe_load((folder / "expected.yaml").read_text())
    rows = json.loads((folder / "failures.json").read_text()) if (folder / "failures.json").exists() else []
    logs = [evidence.tail(p) for p in sorted(folder.glob("*.log"))]
    words = Evidence(logs, rows, expected.get("slurm") or "", expected.get("steps") or [], expected.get("code"))
    return expected, classify(words)


def cases():
    return sorted(p.parent for p in LOGS.glob("*/expected.yaml"))


def test_the_root_cause_is_right_in_22_of_24():
    found = {folder.name: case(folder) for folder in cases()}
    wrong = {
        name: f"{verdict.cause}, not {expected['cause']}"
        for name, (expected, verdict) in found.items()
        if verdict.cause != expected["cause"]
    }
    print(f"\n{len(found) - len(wrong)} of {len(found)} right; wrong: {wrong or 'none'}")
    assert found and len(found) - len(wrong) >= SHARE * len(found), wrong


@pytest.mark.parametrize("folder", cases(), ids=lambda f: f.name)
def test_a_right_verdict_is_proven_by_the_line_that_says_so(folder):
    expected, verdict = case(folder)
    assert expected["cause"] in CAUSES and verdict.next
    if verdict.cause == expected["cause"]:
        lines = [p.text for p in verdict.proof]
        assert any(expected["line"] in line for line in lines), lines
        for proof in (p for p in verdict.proof if Path(p.path).is_absolute()):
            assert Path(proof.path).read_text(errors="replace").split("\n")[proof.line - 1] == proof.text
