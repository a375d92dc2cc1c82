"""The fitted constants: committed as a refit finds them, by the rows that they may see alone."""

import pytest

from bench import fit
from hpc.plan import speed


@pytest.fixture(scope="module")
def refitted():
    return fit.fit(), fit.left_out()


def test_the_committed_constants_are_those_of_a_refit(refitted):
    constants, errors = refitted
    text = fit.text(speed.Constants(**{**vars(constants), "error": round(fit.pooled(errors), 4)}))
    assert fit.CONSTANTS.read_text() == text, "run python -m bench.fit"


def test_a_source_that_was_left_out_is_told_within_a_fifth(refitted):
    _, errors = refitted
    assert set(errors) == {"torchtitan", "mosaic", "trl", "prime-rl"}
    assert all(fit._rms(found) < 0.2 for found in errors.values()) and fit.pooled(errors) < 0.15
    assert speed.fitted().error == pytest.approx(fit.pooled(errors), abs=1e-4)


def test_rows_that_are_not_fitted_say_why_and_no_seed_is_among_the_rows():
    rows = fit.rows()
    assert all(row.fitted or "not fitted" in row.note for row in rows)
    assert sum(row.fitted for row in rows) >= 18
    assert not any("qwen2.5-32b" in row.label for row in rows), "s1 and Sky-T1 are held out"
