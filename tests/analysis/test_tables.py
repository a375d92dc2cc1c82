"""One table, four renderings; and the published numbers are complete and have sources."""

import csv

import pytest

from analysis import published, tables
from analysis.tables import Estimate, Table

SHOWN = Table(
    "A & B",
    [
        {"data": "s1 <x>", "accuracy": Estimate(50.0, 23.66, 76.34), "n": 30},
        {"data": "random|2", "accuracy": None, "n": 7},
    ],
    ["a note"],
)


def test_markdown_has_aligned_columns_and_escapes_bars():
    lines = tables.markdown(SHOWN).split("\n")
    assert lines[2:5] == ["| data | accuracy | n |", "| --- | ---: | ---: |", "| s1 <x> | 50.0 [23.7, 76.3] | 30 |"]
    assert r"random\|2" in lines[5]


def test_csv_spreads_an_estimate_over_three_columns_with_full_numbers():
    rows = list(csv.DictReader(tables.to_csv(SHOWN).splitlines()))
    assert list(rows[0]) == ["data", "accuracy", "accuracy lo", "accuracy hi", "n"]
    assert list(rows[0].values()) == ["s1 <x>", "50.0000", "23.6600", "76.3400", "30"]
    assert rows[1]["accuracy"] == ""


def test_html_escapes_text_and_marks_published_numbers():
    page = tables.to_html(SHOWN)
    assert "s1 &lt;x&gt;" in page
    assert "A &amp; B" in page
    assert "published" not in page
    assert "published, not ours" in tables.to_html(published.load("s1_table2").table())


def test_signed_numbers_and_zero():
    assert str(Estimate(-0.04, -3.0, 2.04, signed=True)) == "0.0 [-3.0, +2.0]"


@pytest.mark.parametrize("path", sorted(published.HOME.glob("*.csv")), ids=lambda p: p.stem)
def test_every_published_row_has_its_source(path):
    rows = published.load(path.stem).rows
    assert rows
    assert all(row["source"] and None not in row for row in rows)


def test_published_sums_agree_with_the_papers():
    questions = [int(r["n_questions"]) for r in published.load("s1_table6").rows]
    assert sum(questions[:-1]) == questions[-1] == 1000
    pool = [int(r["n_samples"]) for r in published.load("s1_table7").rows]
    assert sum(pool[:-1]) == pool[-1] == 59029


def test_scaling_of_table_3_is_the_mean_slope_per_doubling_of_tokens():
    from itertools import combinations
    from math import log2

    rows = [r for r in published.load("s1_table12").rows if r["part"] == "no intervention"]
    points = [(log2(float(r["thinking_tokens"])), 100 * round(float(r["aime24"]) * 0.3) / 30) for r in rows]
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(sorted(points), 2)]
    printed = next(r for r in published.load("s1_table3").rows if r["method"] == "TCC")
    assert round(sum(slopes) / len(slopes)) == int(printed["scaling"])
