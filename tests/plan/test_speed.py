"""The time model: what makes a step longer must do so, and published runs lie in its intervals."""

from dataclasses import replace

import pytest

from hpc.cluster.profile import Place, Profile, find_profile
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
    assert told.gpu_memory_bytes == 79.18 * 2**30, "80 on the sheet"
    assert any("link 350 GB/s" in words for words in told.assumed)
    assert not any("node" in words for words in told.assumed)
    assert "taken for h100" in machine.of(Profile(gpu="w9"), gpus=8).name
    assert machine.of(Profile(gpu="h100"), gpus=8, gpu="a100").tflops == 312
    seen = machine.seen("NVIDIA A100-SXM4-40GB", gpus=4, gpus_per_node=4, gpu_memory_bytes=42e9, host_memory_bytes=1e12)
    assert (seen.name, seen.tflops, seen.gpu_memory_bytes) == ("a100_40", 312, 42e9)


def test_numbers_of_two_types_of_gpu_are_never_mixed():
    eight = find_profile("h100x8", roots=["/nowhere"])
    other = machine.of(eight, gpus=8, gpu="a100")
    assert (other.tflops, other.link_gb_s, other.hbm_gb_s) == (312, 230, 2039) and other.usd_per_gpu_hour is None
    assert "asked for; the profile's GPU is h100" in other.name and other.gpu_memory_bytes == 79.2 * 2**30
    cheap = machine.of(find_profile("a100x8", roots=["/nowhere"]), gpus=16, nodes=2, gpu="h100")
    assert (cheap.tflops, cheap.link_gb_s, cheap.hbm_gb_s) == (989, 350, 3350) and "asked for" in cheap.name
    own = machine.of(eight, gpus=8, gpu="H100")
    assert own == machine.of(eight, gpus=8) and own.usd_per_gpu_hour == 2.99


UNNAMED = {"delta": "a100_40", "perlmutter": "a100_40", "leonardo": "a100", "clariden": "gh200", "snellius": "h100"}


@pytest.mark.parametrize(("name", "row"), UNNAMED.items())
def test_a_profile_without_a_name_of_its_gpu_is_known_by_its_peak_and_memory(name, row):
    told = machine.of(find_profile(name, roots=["/nowhere"]), gpus=4)
    assert told.hbm_gb_s == machine._tables()["gpus"][row]["hbm_gb_s"] and f"taken for {row}" in told.name
    assert "taken" in told.name and told.gpu_memory_bytes > 39 * 2**30


def test_a_job_may_use_of_a_node_what_it_asks_for():
    profile = Profile(gpu="h100", gpus_per_node=8, node_memory_gib=1800, memory_gib=500)
    assert machine.of(profile, gpus=8).host_memory_bytes == 500 * 2**30, "--mem of the profile"
    assert machine.of(profile, gpus=8, memory_gib=1000).host_memory_bytes == 1000 * 2**30, "--mem of the recipe"
    assert machine.of(profile, gpus=8, memory_gib=3000).host_memory_bytes == 1800 * 2**30
    assert machine.of(replace(profile, memory_gib=0), gpus=8).host_memory_bytes == 1800 * 2**30
    train = replace(profile, stages={"train": Place(memory_gib=700)})
    assert machine.of(train, gpus=8).host_memory_bytes == 700 * 2**30
    nothing = Profile(gpu="h100", memory_gib=0)
    assert machine.of(nothing, gpus=8).host_memory_bytes == 0, "nobody says"
    assert machine.of(replace(profile, kind="local"), gpus=8).host_memory_bytes == 1800 * 2**30, "no --mem there"


def test_selective_checkpointing_exchanges_rows_again_as_full_does():
    parts = {
        kept: speed.step(MODEL, Setup(8, 16384, sharing=4, checkpointing=kept), ROW, EIGHT).parts["all-to-all"]
        for kept in ("none", "selective", "full")
    }
    assert parts["selective"] == parts["full"] == pytest.approx(1.5 * parts["none"])


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
