"""Hugging Face's Trainer and TRL, given our batches and settings, have our losses, rates and gradient norms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("deepspeed", reason="training extra not installed")
pytest.importorskip("trl", reason="dev extra not installed")

from tests.train.launch import launch

SCRIPT = Path(__file__).with_name("peers.py")


@pytest.mark.proof_ci
def test_peers_make_the_same_steps_of_the_same_batches(tmp_path: Path) -> None:
    launch(SCRIPT, 1, tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [len(by) for by in found.values()] == [5, 2, 5, 2]
    for by in found.values():
        ours = by["ours"]
        assert ours["rates"][0] == 0 and len(set(ours["losses"])) == len(ours["losses"]) >= 3
        for theirs in by.values():
            assert theirs["rates"] == pytest.approx(ours["rates"], abs=1e-12)
            assert theirs["losses"] == pytest.approx(ours["losses"], abs=1e-5)
            assert theirs["norms"] == pytest.approx(ours["norms"], abs=1e-5)
