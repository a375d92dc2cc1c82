"""The choice of a layout: what fits and is fast, as asked where asked, and a way out where nothing fits."""

import time
from dataclasses import replace

import pytest

from hpc.errors import PlanError
from hpc.plan import fits, layouts, lengths, machine, memory, shapes
from hpc.recipe.schema import Train, Zero

MODEL = shapes.shape("qwen2.5-32b")
S1 = lengths.drawn("simplescaling/s1K").tokens
SKY = lengths.drawn("NovaSky-AI/Sky-T1_data_17k").tokens


def choose(gpus=16, tokens=S1, model=MODEL, zero=None, place=None, **settings):
    asked = Train(zero=Zero(**(zero or {})), **{"batch_size": 16, "epochs": 5, **settings})
    return layouts.choose(model, asked, tokens, place or machine.typical("h100", gpus))


def test_sixteen_gpus_need_no_offload_at_32k_and_eight_need_a_little():
    sixteen, eight = choose(16), choose(8)
    assert sixteen.offload == "none" and sixteen.work.balance > 0.97
    assert eight.offload == "optimizer" and 0 < eight.offload_ratio <= 0.5
    assert eight.memory.host["optimizer"] > 0 and "without it" in " ".join(eight.reasons)


def test_what_is_chosen_fits_and_holds_the_longest_example():
    for gpus, tokens in ((16, S1), (8, S1), (8, SKY)):
        found = choose(gpus, tokens, max_tokens=16384, batch_size=96)
        assert found.memory.gpu_bytes <= Train().memory_share * 79.18 * 2**30
        assert found.row_tokens >= max(min(n, 16384) for n in tokens)
        assert memory.predict(MODEL, found.setup).gpu_bytes == found.memory.gpu_bytes


def test_a_layout_that_puts_nothing_on_the_host_is_warned_of_its_memory_and_not_refused():
    small = replace(machine.typical("h100", 4), host_memory_bytes=16 * 2**30)
    found = choose(tokens=[1000], model=shapes.shape("qwen2.5-0.5b"), place=small, max_tokens=4096)
    assert found.offload == "none" and any("memory_gib=26" in reason for reason in found.reasons)
    with pytest.raises(PlanError, match="does not fit"):
        choose(tokens=[1000], model=shapes.shape("qwen2.5-0.5b"), place=small, zero={"offload": "optimizer"})


def test_the_chosen_layout_is_as_fast_as_any_that_one_may_ask_for():
    best = choose(8).step_s
    for kept in ("none", "selective", "full"):
        for ranks in (1, 2, 4, 8):
            for ratio in (0.1, 0.5, 1.0):
                try:
                    asked = choose(8, activation_checkpointing=kept, sequence_parallel=ranks,
                                   zero={"offload": "optimizer", "offload_ratio": ratio})  # fmt: skip
                except PlanError:
                    continue
                assert best <= asked.step_s * (1 + layouts.CLOSE + 2 * layouts.GAIN)


def test_what_the_settings_say_is_followed():
    found = choose(
        8,
        sequence_parallel=4,
        activation_checkpointing="full",
        row_tokens=20000,
        loss_chunk=512,
        zero={"offload": "optimizer", "offload_ratio": 0.5},
    )
    assert (found.sequence_parallel, found.activation_checkpointing, found.row_tokens) == (4, "full", 20000)
    assert (found.offload, found.offload_ratio, found.loss_chunk) == ("optimizer", 0.5, 512)


def test_unpacked_examples_leave_ranks_waiting():
    alone, packed = choose(16, pack=False), choose(16)
    assert alone.sequence_parallel == 1 and alone.work.balance < 0.75 < packed.work.balance
    assert packed.step_s < 0.85 * alone.step_s


def test_bf16_states_make_offload_needless():
    assert choose(8).offload == "optimizer" and choose(8, state_dtype="bf16").offload == "none"


def test_small_models_take_the_plain_way():
    found = choose(8, model=shapes.shape("qwen2.5-1.5b"))
    assert (found.offload, found.activation_checkpointing) == ("none", "none")


def test_heads_say_which_ranks_may_share_a_row():
    sharing = {name: [n for n in (1, 2, 4, 8) if fits.shareable(shapes.shape(name), n)] for name in
               ("qwen2.5-32b", "qwen2.5-7b", "llama-3.1-8b", "smollm2-135m")}  # fmt: skip
    assert sharing == {"qwen2.5-32b": [1, 2, 4, 8], "qwen2.5-7b": [1, 2, 4], "llama-3.1-8b": [1, 2, 4, 8],
                       "smollm2-135m": [1]}  # fmt: skip
    with pytest.raises(PlanError, match="8 ranks cannot share a row") as caught:
        choose(8, model=shapes.shape("qwen2.5-7b"), sequence_parallel=8)
    assert "1, 2, 4 or auto" in caught.value.next


def test_where_nothing_fits_the_smallest_changes_are_named_and_each_fits():
    long = tuple([32768] * 64)
    with pytest.raises(PlanError, match="does not fit on 8 GPUs") as caught:
        choose(8, long, zero={"offload": "none"}, activation_checkpointing="full", sequence_parallel=1)
    words = caught.value.next
    assert "GB" in caught.value.why and "weights" in caught.value.why
    for setting in ("zero.offload_ratio=", "resources.train.gpus=", "zero.offload=all"):
        assert setting in words
    ratio = float(words.split("offload_ratio=")[1].split()[0])
    gpus = int(words.split("train.gpus=")[1].split()[0])
    same = {"activation_checkpointing": "full", "sequence_parallel": 1}
    assert choose(8, long, zero={"offload": "optimizer", "offload_ratio": ratio}, **same)
    assert choose(gpus, long, zero={"offload": "none"}, **same)
    if ratio > 0.05:
        with pytest.raises(PlanError):
            choose(8, long, zero={"offload": "optimizer", "offload_ratio": ratio - 0.05}, **same)


def test_longest_examples_and_the_loss_are_levers_too():
    tight = {"loss_chunk": 0, "activation_checkpointing": "full", "sequence_parallel": 1, "zero": {"offload": "none"}}
    with pytest.raises(PlanError) as caught:
        choose(16, tuple([24000] * 64), **tight)
    assert "train.loss_chunk=1024" in caught.value.next and "train.sequence_parallel=" in caught.value.next
    most = int(caught.value.next.split("train.max_tokens=")[1].split()[0])
    assert 12_000 <= most < 22_000, "s1.1 had to cut at 20,000 on 16 H100 with this loss"
    assert choose(16, tuple([32768] * 64), max_tokens=most, **tight)
    with pytest.raises(PlanError):
        choose(16, tuple([32768] * 64), max_tokens=most + 1000, **tight)


def test_a_host_too_small_for_what_is_offloaded_does_not_count_as_fitting():
    small = replace(machine.typical("h100", 8), host_memory_bytes=150e9)
    with pytest.raises(PlanError, match="does not fit"):
        choose(8, place=small, zero={"offload": "all"})
    assert choose(8, place=small, state_dtype="bf16").offload == "none"


def refusal(gpus, **settings):
    with pytest.raises(PlanError) as caught:
        choose(gpus, **settings)
    return caught.value


def test_what_the_host_lacks_is_named_with_the_memory_to_ask_for():
    given = replace(machine.typical("h100", 8), host_memory_bytes=150 * 2**30, node_memory_bytes=1800 * 2**30)
    error = refusal(8, place=given, zero={"offload": "all"})
    assert "of host memory it needs" in error.what and "145 GB may be used" in error.what
    gib = int(error.next.split("resources.train.memory_gib=")[1].split()[0])
    assert choose(8, place=replace(given, host_memory_bytes=gib * 2**30), zero={"offload": "all"})
    refusal(8, place=replace(given, host_memory_bytes=(gib - 2) * 2**30), zero={"offload": "all"})
    small = replace(given, node_memory_bytes=256 * 2**30)
    assert "memory_gib" not in refusal(8, place=small, zero={"offload": "all"}).next, "no node has it"


def test_rows_that_were_asked_for_too_long_are_said_to_be_and_may_be_left_to_the_plan():
    error = refusal(8, row_tokens=2_000_000)
    need, limit = (float(error.what.split(before)[1].split(" GB")[0]) for before in ("needs ", "of each, "))
    assert "at 2,000,000 tokens a row" in error.what and need > limit
    assert "train.row_tokens=auto" in error.next and "max_tokens" not in error.next


def test_shorter_examples_are_offered_only_where_they_help():
    model = shapes.shape("qwen2.5-14b")
    error = refusal(8, model=model, row_tokens=60000, activation_checkpointing="none")
    assert "max_tokens" not in error.next and "train.activation_checkpointing=auto" in error.next


def test_what_an_offer_takes_is_told_of_the_changed_settings():
    error = refusal(8, pack=False, micro_batch=16, activation_checkpointing="none")
    offers = [float(word.split(" GB")[0]) for word in error.next.split("(")[1:] if " GB" in word]
    assert offers and max(offers) < 80 and "pack=true (" in error.next


def test_more_gpus_fill_a_node_before_there_is_a_second():
    one = replace(machine.typical("h100", 1), node_gpus=8)
    error = refusal(1, place=one, model=shapes.shape("qwen2.5-14b"), zero={"offload": "none"})
    gpus = int(error.next.split("resources.train.gpus=")[1].split()[0])
    assert gpus <= 8 and one.scaled(gpus).nodes == 1 and one.scaled(gpus).gpus_per_node == gpus
    assert one.scaled(16).nodes == 2


def test_stage_0_in_bf16_is_planned_as_stage_1_that_runs():
    found = choose(8, model=shapes.shape("qwen2.5-7b"), zero={"stage": 0})
    assert (found.offload, found.setup.zero_stage) == ("none", 1)
    with pytest.raises(PlanError, match="offloaded where they are sharded"):
        choose(8, model=shapes.shape("qwen2.5-7b"), dtype="fp32", zero={"stage": 0, "offload": "optimizer"})


def test_a_ratio_above_one_is_refused():
    with pytest.raises(PlanError, match="offload_ratio is 30") as caught:
        choose(8, zero={"offload": "optimizer", "offload_ratio": 30.0})
    assert "0 to 1" in caught.value.why


def test_hundreds_of_candidates_are_weighed_in_a_blink():
    choose(8, SKY, batch_size=96)
    began = time.process_time()
    found = choose(8, SKY, batch_size=96, max_tokens=16383)
    assert time.process_time() - began < 0.5 and int(found.reasons[0].split("of ")[1].split()[0]) > 100
