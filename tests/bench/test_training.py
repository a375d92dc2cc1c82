"""The benchmarks of training: they time the same work on both sides, and their code runs where there is no GPU."""

import json
import sys

import pytest

from bench import Absent, balance, gpu, lossmem, run, training
from hpc.plan import machine
from hpc.train import pack


def test_the_promised_balance_is_kept_where_rows_have_room():
    for claim in balance.TARGETS:
        found = balance.target(*claim)
        least = 65536 if claim[0] == "s1K-1.1" else 20480  # s1.1's longest example has 27,009 tokens
        assert found["kept_at_row_tokens"] == [n for n in balance.ROWS if n >= least], found


def test_ways_of_dealing_a_batch_keep_every_example_once():
    batch = [30, 5, 9, 2, 2, 8, 1]
    for passes in (balance.one_by_one(batch, 3), pack.singly(batch, 3, 1)):
        assert sorted(i for one in passes for row in one for i in row) == list(range(7))
        assert {len(one) for one in passes} == {3}
    assert balance.cut([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4]]
    assert balance.cut([1, 2, 3], 2, rest=True) == [[1, 2], [3]]
    equal = [[4, 4, 4, 4]]
    assert balance.possible(equal, 4) == balance.dealt([[4], [4], [4]], 3) == 1.0
    assert balance.possible([[4, 1]], 2) == pytest.approx(5 / 8, rel=1e-3)


def test_trl_and_the_trainer_are_given_their_own_code():
    tokens = (900, 500, 400, 300, 200, 100, 100)
    rows = balance.trl_rows(tokens, 1000)
    assert sorted(n for row in rows for n in row) == sorted(tokens) and max(map(sum, rows)) <= 1000
    assert sum(map(sum, balance.trl_rows(tokens, 600))) == sum(tokens) - 300, "what is longer than a row is cut"
    parts = balance._parts(list(tokens), 2, 2)
    assert [len(one) for one in parts] == [2, 2]
    assert sorted(n for one in parts for part in one for n in part) == sorted(tokens)


def test_without_a_gpu_its_benchmark_says_so_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "gpu_state", lambda: "")
    with pytest.raises(Absent, match="no GPU") as refused:
        gpu.measure()
    assert "--dry" in refused.value.next
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "names", lambda: ["gpu", "balance"])
    monkeypatch.setattr(balance, "measure", lambda: {"made": 1})
    monkeypatch.setattr(sys, "argv", ["run"])
    run.main()
    assert "gpu: left out: no GPU" in capsys.readouterr().out
    (written,) = tmp_path.glob("*-balance.json")
    assert json.loads(written.read_text())["made"] == 1
    monkeypatch.setattr(sys, "argv", ["run", "gpu"])
    with pytest.raises(SystemExit, match="no GPU"):
        run.main()


@pytest.mark.parametrize(("name", "least"), [("h100", 8), ("h200", 12)])
def test_enough_configurations_fit_a_hopper_gpu_as_they_are_asked_for(name, least):
    scale, fitting = gpu.Scale(machine.typical(name, 1)), 0
    for shape, row_tokens, loss_chunk, checkpointing in gpu.MEMORY:
        if gpu._told(scale, shape, row_tokens, loss_chunk, checkpointing) is None:
            continue
        found = gpu.predicted(scale, shape, row_tokens, loss_chunk, checkpointing)
        fitting += 1
        asked = (row_tokens, loss_chunk, checkpointing, "none", 1)
        chosen = (found.row_tokens, found.loss_chunk, found.activation_checkpointing, found.offload)
        assert (*chosen, found.sequence_parallel) == asked
    assert fitting >= least


@pytest.mark.proof_ci
def test_the_gpu_benchmark_runs_dry(monkeypatch):
    plain = gpu.ways
    monkeypatch.setattr(gpu, "ways", lambda scale: {n: plain(scale)[n] for n in ("ours", "trl_padded")})
    monkeypatch.setattr(gpu, "MEMORY", gpu.MEMORY[4:5])
    found = gpu.measure(gpu.dry(), ("qwen2.5-3b", "memory"))
    assert found["dry"] and found["versions"]["torch"]
    ours, theirs = (found["qwen2.5-3b"][name] for name in ("ours", "trl_padded"))
    assert ours["useful_tokens_per_s"][0] > 0 and ours["mfu"] is None and found["qwen2.5-3b"]["promise_kept"] is None
    assert theirs["same_batches_as_ours"] and theirs["most_loss_difference_to_ours"] < 1e-2
    (row,) = found["memory"]["configurations"]
    assert row["predicted_gb"] > 0 and row["failed"] is None and row["error"] is None
    json.dumps(found)


@pytest.mark.proof_ci
def test_the_same_work_is_timed_on_both_sides(monkeypatch):
    names = ("ours", "trl_padded_2_a_pass", "trl_padding_free_2_a_pass", "trl_packed_bfd")
    monkeypatch.setattr(training, "WAYS", {name: training.WAYS[name] for name in names})
    found = training.measure(samples=32, rounds=1)["ways"]
    for name in names[1:3]:
        assert found[name]["same_batches"] and found[name]["most_loss_difference"] < 1e-4, name
    assert not found["trl_packed_bfd"]["same_batches"]
    assert found["trl_packed_bfd"]["mean_loss"] == pytest.approx(found["ours"]["mean_loss"], abs=0.02)
    assert found["ours"]["ours_is_times_as_fast"]["median"] == 1.0
    assert all(row["useful_tokens_a_cpu_s"] > 0 for row in found.values())


@pytest.mark.proof_ci
def test_losses_are_equal_and_chunks_take_less_memory():
    ours, hf = (lossmem.once(way, 512, vocabulary=40_000) for way in ("ours_chunk_64", "hf"))
    for name in ("loss", "hidden_gradient", "weight_gradient"):
        assert ours[name] == pytest.approx(hf[name], rel=1e-5)
    logits_mib = 512 * 40_000 * 4 / 2**20
    assert ours["peak_mib"] < logits_mib < hf["peak_mib"]
