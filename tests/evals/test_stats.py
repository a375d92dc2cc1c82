"""Intervals: known values, and the intervals that s1's Table 2 prints."""

import subprocess
import sys

import pytest

from hpc.evals import stats

# wins and losses against s1K that the printed interval determines uniquely (n questions, wins, losses, lo, hi in %)
TABLE_2 = [
    ("AIME24 1K-random", 30, 0, 4, -26.7, -3.3),
    ("AIME24 1K-diverse", 30, 0, 7, -40.0, -10.0),
    ("AIME24 1K-longest", 30, 2, 7, -36.7, 0.0),
    ("AIME24 59K-full", 30, 4, 3, -13.3, 20.0),
    ("MATH500 1K-diverse", 500, 10, 19, -4.0, 0.2),
]


@pytest.mark.parametrize(("row", "n", "wins", "losses", "lo", "hi"), TABLE_2)
def test_paired_bootstrap_reproduces_table_2_of_s1(row, n, wins, losses, lo, hi):
    reference = [0] * wins + [1] * losses + [1] * (n - wins - losses)
    ours = [1] * wins + [0] * losses + [1] * (n - wins - losses)
    found = stats.paired(ours, reference)
    assert (round(100 * found.lo, 1), round(100 * found.hi, 1)) == (lo, hi)
    assert found.value == pytest.approx((wins - losses) / n)


def test_wilson_interval_of_sky_t1_on_aime24():
    found = stats.wilson(13, 30)
    assert (round(100 * found.lo, 1), round(100 * found.hi, 1)) == (27.4, 60.8)


def test_wilson_stays_inside_zero_and_one():
    assert stats.wilson(0, 30).lo == 0.0
    assert stats.wilson(30, 30).hi == 1.0
    assert 0 < stats.wilson(0, 30).hi < 0.2
    with pytest.raises(ValueError, match="no share"):
        stats.wilson(1, 0)


def test_bootstrap_depends_on_the_seed_and_on_nothing_else():
    values = [0.0, 1.0, 0.5, 1.0, 0.0]
    assert stats.bootstrap(values, seed=1) == stats.bootstrap(list(reversed(values)), seed=1)
    assert stats.bootstrap(values, seed=1) != stats.bootstrap([*values, 1.0], seed=1)


def test_paired_wants_the_same_questions():
    with pytest.raises(ValueError, match="same questions"):
        stats.paired([1, 0], [1])


def test_statistics_and_tasks_import_no_torch_numpy_or_pandas():
    code = (
        "import sys, hpc.evals.stats, hpc.evals.tasks, hpc.evals.lookup; "
        "print(sorted({'torch', 'numpy', 'pandas', 'sympy', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
