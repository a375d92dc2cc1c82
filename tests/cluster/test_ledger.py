"""The ledger: facts are written once, whoever comes first."""

import json
import platform
from concurrent.futures import ThreadPoolExecutor

from hpc.cluster.ledger import Intent, Ledger, Piece, alive, create, this_process


def test_of_many_deciders_one_wins_and_all_see_it(tmp_path):
    ledger = Ledger(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: ledger.decide("S", "train-0", {"job_id": str(i)}), range(32)))
    assert len({f["job_id"] for f in found}) == 1
    assert ledger.decision("S", "train-0")["job_id"] == found[0]["job_id"]
    assert not list(ledger.folder.glob(".*"))


def test_a_fact_is_never_changed(tmp_path):
    assert create(tmp_path / "a.json", 1) and not create(tmp_path / "a.json", 2)
    assert json.loads((tmp_path / "a.json").read_text()) == 1


def test_an_intent_comes_back_as_it_was(tmp_path):
    piece = Piece("train-0", "train", "x.train-0.1", "/j.json", {3: {"stages": ["k"], "needs": ["n"]}})
    Ledger(tmp_path).intend(Intent("S", "x", "slurm", "slurm", [piece]))
    found = Ledger(tmp_path).intents
    assert found[0].pieces == [piece] and alive(found[0].submitter)


def test_an_intent_of_an_older_version_has_no_path(tmp_path):
    Ledger(tmp_path).intend(Intent("S", "x", "slurm", "slurm", [], path="/a/x.yaml"))
    path = tmp_path / "ledger" / "S.json"
    row = json.loads(path.read_text())
    assert row.pop("path") == "/a/x.yaml"
    path.write_text(json.dumps(row))
    assert Ledger(tmp_path).intents[0].path == ""


def test_decisions_and_half_written_files_are_not_taken_for_intents(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.decide("S", "train-0", {"job_id": "1"})
    ledger.withdraw([("S", "train-0", 0)], "cancelled")
    (tmp_path / "ledger" / ".T.json.123").write_text("{")
    assert Ledger(tmp_path).intents == []
    assert Ledger(tmp_path).withdrawn == {("S", "train-0", 0): "cancelled"}


def test_a_reused_process_id_is_not_the_same_process():
    me = this_process()
    assert alive(me)
    assert not alive({**me, "start": "1"})
    assert not alive({**me, "host": "another-" + platform.node()})
