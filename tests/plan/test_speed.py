"""The time model: what makes a step longer must do so, and published runs lie in its intervals."""

from dataclasses import replace

import pytest

from hpc.cluster.profile import Profile
from hpc.plan import forecast, machine, shapes, speed
from hpc.plan.memory import Setup
from hpc.train import pack

MODEL = shapes.shape("qwen2.5-32b")
EIGHT = machine.typical("h100", 8)
ROW = speed.Work(1, 16384, 4 * 4096**2, 1.0, 8 * 16384, 16384)


PLAIN = Setup(8, 16384)


def seconds(setup=PLAIN, work=ROW, place=EIGHT, **changes):
    return speed.step(MODEL, setup, work, place, **changes).seconds


def test_more_work_takes_longer():
    assert seconds(Setup(8, 16384, checkpointing="full")) > seconds(Setup(8, 16384, checkpointing="selective"))
    assert seconds(work=replace(ROW, squares=16384**2)) > seconds(), "attention is by document"
    assert seconds(work=replace(ROW, passes=8)) > seconds(), "every pass gathers and launches"
    assert seconds(kernel="fa3") < seconds() < seconds(kernel="triton")
    assert seconds(compiled=True) < seconds() < seconds(overlap=False)


def test_offload_costs_what_hosts_move():
    free, some, everything = (
        speed.step(MODEL, Setup(8, 16384, offload=o, ratio=r), ROW, EIGHT).parts
        for o, r in (("none", 0.0), ("optimizer", 0.2), ("all", 1.0))
    )
    assert free["optimizer"] < some["optimizer"] < everything["optimizer"]
    assert everything["optimizer"] == pytest.approx(MODEL.params * speed.CPU_ADAM_TRAFFIC / 340e9, rel=0.1)
    slow = speed.step(MODEL, Setup(8, 16384, offload="all", ratio=1.0), ROW, replace(EIGHT, cores_per_gpu=1))
    assert slow.parts["optimizer"] > 3 * everything["optimizer"], "OMP_NUM_THREADS=1"


def test_gathers_hide_behind_enough_tokens_alone():
    slow = replace(EIGHT, link_gb_s=12.5)
    needed = speed.break_even_tokens(MODEL, Setup(8, 0), EIGHT)
    assert 500 < needed < 2000 and speed.break_even_tokens(MODEL, Setup(8, 0), slow) == pytest.approx(28 * needed)
    short = replace(ROW, tokens=256, squares=256**2, batch_tokens=8 * 256)
    parts = speed.step(MODEL, Setup(8, 256), short, slow).parts
    assert parts["gathers"] > 0.9 * 3 * 2 * MODEL.params * (7 / 8) / 12.5e9 - sum(parts.values()) / 10


def test_a_profile_says_what_it_knows_and_the_rest_is_named_as_assumed():
    told = machine.of(Profile(gpu="h100", gpu_memory_gib=80, node_link_gb_s=11, usd_per_gpu_hour=2), gpus=16, nodes=2)
    assert (told.gpus_per_node, told.node_gb_s, told.usd_per_gpu_hour) == (8, 11, 2)
    assert told.gpu_memory_bytes == 79.6 * 2**30, "80 on the sheet"
    assert any("link 350 GB/s" in words for words in told.assumed)
    assert not any("node" in words for words in told.assumed)
    assert "taken for h100" in machine.of(Profile(gpu="w9"), gpus=8).name
    assert machine.of(Profile(gpu="h100"), gpus=8, gpu="a100").tflops == 312
    seen = machine.seen("NVIDIA A100-SXM4-40GB", gpus=4, gpus_per_node=4, gpu_memory_bytes=42e9, host_memory_bytes=1e12)
    assert (seen.name, seen.tflops, seen.gpu_memory_bytes) == ("a100_40", 312, 42e9)


def test_two_nodes_are_as_fast_as_their_network():
    assert machine.typical("h100", 16).gather_gb_s == 320
    assert replace(machine.typical("h100", 16), node_gb_s=12.5 / 8).gather_gb_s == 12.5


def test_balance_is_that_of_the_packing_that_trains():
    cost = pack.cost_of(MODEL.matmul_params, MODEL.layers, MODEL.queries)
    tokens = tuple(1000 + 37 * n % 9000 for n in range(960))
    packed = speed.work(tokens, 96, Setup(8, 32768), cost)
    dealt = speed.work(tokens, 96, Setup(8, 0), cost, order="length")
    anyhow = speed.work(tokens, 96, Setup(8, 0), cost, order="random")
    assert packed.balance > 0.98 > dealt.balance > anyhow.balance
    assert anyhow.passes == dealt.passes == 12 and packed.passes < 4
    assert packed.batch_tokens == pytest.approx(96 * sum(tokens) / 960)
    assert packed.tokens * 8 == pytest.approx(packed.batch_tokens, rel=0.02)


def test_intervals_hold_what_s1_and_sky_t1_measured_under_their_own_settings():
    for run, widest in (("s1-32B", 0.25), ("Sky-T1-32B-Preview", 0.40)):
        measured, told = forecast.published(run)
        assert told["low"] <= measured <= told["high"], run
        assert told["high"] / told["mid"] - 1 < widest, "an interval that holds everything says nothing"


def test_an_interval_adds_errors_in_squares():
    step = speed.Step({"matrix products": 3.0, "gathers": 1.0}, ROW, 0.4)
    low, high = speed.interval(step, 0.0, replace(speed.fitted(), error=0.0))
    assert (low, high) == pytest.approx((3.5, 5.0)), "what is assumed may take half as long, or twice"
    low, high = speed.interval(step, 0.1, replace(speed.fitted(), error=0.1))
    assert 3.1 < low < 3.3 and 5.1 < high < 5.4
