"""Selections: sizes, laws and independence of order (s1, section 2.2)."""

import random as stdlib
from collections import Counter

import pytest

from hpc.data import select
from hpc.errors import StageError
from hpc.records import Example


def example(number, domain="a", length=10, source="numina", checks=()):
    return Example(
        id=f"{number:04d}",
        question=str(number),
        thinking="t",
        answer="a",
        source=source,
        domain=domain,
        lengths={"thinking": length},
        checks=list(checks),
    )


def ids(examples):
    return [e.id for e in examples]


POOL = [example(n, domain="ab"[n % 10 == 0], length=n) for n in range(200)]


@pytest.mark.parametrize("rule", ["all", "random", "longest", "diverse", "s1"])
def test_a_selection_does_not_depend_on_the_order_of_the_source(rule):
    choose = getattr(select, rule)()
    first = choose(POOL, 40, 0)
    for seed in range(3):
        shuffled = POOL.copy()
        stdlib.Random(seed).shuffle(shuffled)
        assert ids(choose(shuffled, 40, 0)) == ids(first)


@pytest.mark.parametrize("rule", ["all", "random", "longest", "diverse", "s1"])
@pytest.mark.parametrize("size", [0, 1, 40, 200, 500])
def test_a_selection_has_the_size_asked_for_or_everything_and_nothing_twice(rule, size):
    chosen = ids(getattr(select, rule)()(POOL, size, 0))
    assert len(chosen) == len(set(chosen)) == min(size, 200)


@pytest.mark.parametrize("rule", ["random", "diverse", "s1"])
def test_another_seed_draws_another_set(rule):
    choose = getattr(select, rule)()
    assert set(ids(choose(POOL, 40, 0))) != set(ids(choose(POOL, 40, 1)))


def test_random_gives_every_example_the_same_chance():
    counts = Counter(i for seed in range(400) for i in ids(select.random()(POOL, 50, seed)))
    assert min(counts.values()) > 60 and max(counts.values()) < 145  # mean 100, standard deviation 8.7


def test_a_larger_random_selection_contains_the_smaller_one():
    assert set(ids(select.random()(POOL, 20, 3))) < set(ids(select.random()(POOL, 60, 3)))


def test_longest_takes_the_longest_thinking():
    assert {e.lengths["thinking"] for e in select.longest()(POOL, 5, 0)} == {199, 198, 197, 196, 195}


def test_diverse_draws_a_rare_domain_as_often_as_a_common_one():
    chosen = Counter(e.domain for seed in range(50) for e in select.diverse()(POOL, 20, seed))
    assert 0.4 < chosen["b"] / 1000 < 0.6  # 10 % of the pool


def test_diverse_goes_on_with_the_other_domains_when_one_is_used_up():
    chosen = Counter(e.domain for e in select.diverse()(POOL, 100, 0))
    assert chosen == {"a": 80, "b": 20}


def test_s1_takes_rank_r_with_weight_two_to_the_minus_r():
    pool = [example(n, length=n) for n in range(30)]
    first = Counter(select.s1()(pool, 1, seed)[0].lengths["thinking"] for seed in range(2000))
    assert first[29] == pytest.approx(1000, abs=80)
    assert first[28] == pytest.approx(500, abs=70)
    assert first[27] == pytest.approx(250, abs=55)


def test_s1_preselects_checked_examples_of_a_source_above_a_length():
    pool = [example(n, length=n, source="MATH", checks=["right"] if n % 2 else []) for n in range(20)]
    chosen = select.s1(preselect={"math": 15})(pool, 3, 0)
    assert ids(chosen) == ["0015", "0017", "0019"]


def test_preselection_without_any_checked_example_is_an_error():
    pool = [example(n, source="MATH", checks=["quality"]) for n in range(3)]
    with pytest.raises(StageError) as caught:
        select.s1(preselect={"math": 0})(pool, 1, 0)
    assert "quality" in caught.value.why and "right" in caught.value.next
    assert len(select.s1(preselect={"math": 0}, need_check="")(pool, 1, 0)) == 1
