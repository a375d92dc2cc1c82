"""Reports of made-up artifacts: the numbers are those computed by hand, and nothing missing is hidden."""

import csv
import io
import re
from pathlib import Path

import pandas
import pytest
from rich.console import Console

from analysis import collect, points, report
from hpc.errors import RecipeError
from hpc.recipe import sweep as sweep_recipe

HOME = Path(__file__).parents[2]

BUDGETS = {
    "b0": {"max": 0, "waits": 0},
    "b8": {"max": 8, "waits": 0},
    "auto": {"max": 99, "waits": 0},
    "waits_2": {"max": 99, "waits": 2},
}
PAIRED = {"kind": "paired", "title": "Table 2", "axis": "data", "reference": "s1"}


def table(built, name):
    (path,) = (built.parent / "tables").glob(f"[0-9][0-9]_{name}.csv")
    return list(csv.DictReader(path.open()))


def test_accuracy_and_interval_are_those_computed_by_hand(make_sweep, tmp_path):
    sweep = make_sweep()
    sweep.run(0, "1111100000", tokens=20)
    sweep.run(1, "11tn1e0000", tokens=30)
    built = report.build(sweep.plan, [sweep.root], tmp_path / "out")
    rows = table(built, "accuracy")
    assert [(r["data"], r["mini"], r["thinking tokens"]) for r in rows] == [
        ("s1", "50.0000", "24.5000"),
        ("random", "30.0000", "34.5000"),
    ]
    assert (rows[0]["mini lo"], rows[0]["mini hi"]) == ("23.6593", "76.3407")  # Wilson, 5 of 10
    health = table(built, "health_of_the_runs")[1]
    assert (health["truncated %"], health["no answer %"], health["grader error %"]) == ("10.0000",) * 3


def test_paired_table_reproduces_table_2_of_s1(make_sweep, tmp_path):
    sweep = make_sweep(data=("s1", "random", "diverse", "longest", "full"), tasks=("aime24",))
    reference = "1" * 15 + "0" * 15
    flips = {"random": (0, 4), "diverse": (0, 7), "longest": (2, 7), "full": (4, 3)}
    sweep.run(0, reference, task="aime24")
    for number, (wins, losses) in enumerate(flips.values(), 1):
        sweep.run(number, "0" * losses + "1" * (15 - losses) + "1" * wins + "0" * (15 - wins), task="aime24")
    sweep.plan["report"] = {"tables": [{**PAIRED, "beside": "s1_table2"}]}
    rows = {r["data"]: r for r in table(report.build(sweep.plan, [sweep.root], tmp_path / "out"), "table_2")}
    for label, (wins, losses) in flips.items():
        row = rows[label]
        interval = f"[{float(row['aime24 − s1 lo']):.1f}, {float(row['aime24 − s1 hi']):.1f}]"
        assert interval == row["aime24 difference (published)"]
        assert row["aime24 won / lost"] == f"{wins} / {losses}"
        assert f"{float(row['aime24']):.1f}" == row["aime24 (published)"]
    assert rows["s1"]["aime24 − s1"] == "reference"


def test_missing_results_are_listed_and_the_rest_is_reported(make_sweep, tmp_path):
    sweep = make_sweep(data=("s1", "random", "longest"))
    sweep.run(0, "1100000000")
    sweep.run(1, "1000000000")
    damaged = sweep.root / "artifacts" / "generate" / "random-auto-0-mini" / "samples.jsonl"
    damaged.write_text("")
    sweep.plan["report"] = {"tables": [PAIRED]}
    built = report.build(sweep.plan, [sweep.root], tmp_path / "out")
    missing = {r["run"]: r["reason"] for r in table(built, "missing_results")}
    assert "train trainlongest0 is not published" in missing["data-longest_budget-auto_s0"]
    assert "samples.jsonl" in missing["data-random_budget-auto_s0"]
    assert len(missing) == 2
    assert [r["mini"] for r in table(built, "table_2")] == ["20.0000", "", ""]
    page = built.read_text()
    assert "Partial report: 2 of 3 results are missing" in page


def test_a_report_of_nothing_names_everything_that_is_missing(make_sweep, tmp_path):
    sweep = make_sweep()
    built = report.build(sweep.plan, [sweep.root], tmp_path / "out")
    assert len(table(built, "missing_results")) == 2


def test_differences_wait_for_their_reference(make_sweep, tmp_path):
    sweep = make_sweep()
    sweep.run(1, "1000000000")
    sweep.plan["report"] = {"tables": [PAIRED]}
    rows = table(report.build(sweep.plan, [sweep.root], tmp_path / "out"), "table_2")
    assert rows[1]["mini"] == "10.0000"
    assert rows[1]["mini − s1"] == ""


def test_seeds_are_averaged_per_question_and_their_spread_is_shown(make_sweep, tmp_path):
    sweep = make_sweep(data=("s1",), seeds=(0, 1))
    sweep.run(0, "1111111111")
    sweep.run(1, "0000011111")
    (row,) = table(report.build(sweep.plan, [sweep.root], tmp_path / "out"), "accuracy")
    assert row["mini"] == "75.0000"
    assert row["mini over seeds"] == "50.0 to 100.0 (2 runs)"


def test_a_single_training_seed_is_marked(make_sweep, tmp_path):
    sweep = make_sweep()
    sweep.run(0, "1" * 10)
    sweep.run(1, "0" * 10)
    assert "One training seed per row" in report.build(sweep.plan, [sweep.root], tmp_path / "out").read_text()


def test_text_of_a_task_that_is_not_published_stays_in_its_artifact(make_sweep, tmp_path):
    sweep = make_sweep(tasks=("secret",))
    sweep.run(0, "1100000000", task="secret")
    sweep.run(1, "1000000000", task="secret")
    built = report.build(sweep.plan, [sweep.root], tmp_path / "out")
    for path in built.parent.rglob("*"):
        if path.suffix in (".html", ".csv", ".md", ".json"):
            assert "secret thought" not in path.read_text()
            assert "secret answer" not in path.read_text()
    assert "secret: its text is not published" in built.read_text()


def test_scaling_figure_draws_cuts_and_waits_apart_and_places_a_budget_of_zero(make_sweep, tmp_path):
    sweep = make_sweep(data=("s1",), budgets=BUDGETS)
    results = [("1000000000", 0), ("1110000000", 8), ("1111100000", 40), ("1111000000", 80)]
    for number, (right, tokens) in enumerate(results):
        sweep.run(number, right, tokens=tokens, thinking_finish="cut" if number < 2 else "end")
    entry = {"kind": "scaling", "title": "Figure 1", "axis": "budget", "where": {"data": "s1"}}
    sweep.plan["report"] = {"figures": [entry]}
    built = report.build(sweep.plan, [sweep.root], tmp_path / "out")
    rows = list(csv.DictReader((built.parent / "figures" / "01_figure_1.csv").open()))
    assert [(r["budget"], r["series"]) for r in rows] == [
        ("b0", "cut or free"),
        ("b8", "cut or free"),
        ("auto", "cut or free"),
        ("waits_2", "waits"),
    ]
    svg = (built.parent / "figures" / "01_figure_1.svg").read_text()
    assert svg.startswith("<svg")
    page = built.read_text()
    assert "<svg" in page
    assert "two interventions" in page
    assert not re.findall(r'(?:src|href)="(?!#)', page)


def test_published_points_are_drawn_only_beside_the_same_task(make_sweep):
    for task, drawn in (("aime24", True), ("mini", False)):
        sweep = make_sweep(data=("s1",), budgets=BUDGETS, tasks=(task,))
        for number in range(4):
            sweep.run(number, "1100", task=task, tokens=9 * number)
        sweep.plan["report"] = {"figures": [{"kind": "scaling", "axis": "budget", "beside": "s1_figure1"}]}
        assembled = report.assemble(sweep.plan, [sweep.root])
        ((_, figure),) = assembled.figures
        labels = figure.axes[0].get_legend_handles_labels()[1]
        assert ("published (s1 Figure 1)" in labels) is drawn
        assert any(table.published for table in assembled.appendix)


def test_equal_samples_give_equal_bytes(make_sweep, tmp_path):
    sweep = make_sweep(budgets=BUDGETS)
    for number in range(8):
        sweep.run(number, f"{number:010b}", tokens=5 * number)
    first = report.build(sweep.plan, [sweep.root], tmp_path / "a")
    second = report.build(sweep.plan, [sweep.root], tmp_path / "b")
    names = sorted(p.relative_to(first.parent) for p in first.parent.rglob("*") if p.is_file())
    assert any(n.suffix == ".svg" for n in names)
    for name in names:
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes(), name


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"tables": [{"kind": "pared"}]}, 'did you mean "paired"'),
        ({"tables": [{**PAIRED, "axis": "dat"}]}, 'did you mean "data"'),
        ({"tables": [{**PAIRED, "reference": "s2"}]}, "valid: random, s1"),
        ({"tables": [{"kind": "paired", "axis": "data"}]}, "needs an axis and a reference"),
        ({"tables": [{**PAIRED, "wher": {}}]}, 'did you mean "where"'),
        ({"beside": "s1_table22"}, "s1_table2"),
        ({"figures": [{"kind": "scaling", "where": {"data": "nobody"}}]}, "nobody"),
    ],
)
def test_a_mistake_in_the_declaration_is_named(make_sweep, tmp_path, declared, says):
    sweep = make_sweep()
    sweep.run(0, "1" * 10)
    sweep.plan["report"] = declared
    with pytest.raises(RecipeError) as caught:
        report.build(sweep.plan, [sweep.root], tmp_path / "out")
    assert says in str(caught.value)


def test_the_terminal_shows_the_same_numbers(make_sweep, tmp_path):
    sweep = make_sweep()
    sweep.run(0, "1111100000")
    sweep.run(1, "1110000000")
    sweep.plan["notes"] = ["a note of the plan"]
    built = report.build(sweep.plan, [sweep.root], tmp_path / "out")
    console = Console(record=True, width=160, file=io.StringIO())
    report.render_terminal(built.parent, console)
    text = console.export_text()
    assert "50.0 [23.7, 76.3]" in text
    assert "30.0 [10.8, 60.3]" in text
    assert "a note of the plan" in text


def test_an_axis_that_does_not_apply_is_no_difference(make_sweep, tmp_path):
    sweep = make_sweep(budgets=BUDGETS)
    for run in sweep.plan["runs"][4:]:
        del run["axes"]["budget"]  # as with `when: {data: [s1]}`
    del sweep.plan["runs"][5:]
    for number, right in enumerate(["1000000000", "1100000000", "1110000000", "1111000000", "1111100000"]):
        sweep.run(number, right)
    sweep.plan["report"] = {"tables": [{**PAIRED, "where": {"budget": "auto"}}, {**PAIRED, "title": "all"}]}
    built = report.build(sweep.plan, [sweep.root], tmp_path / "out")
    rows = [(r["data"], r["mini − s1"]) for r in table(built, "table_2")]
    assert rows == [("s1", "reference"), ("random", "20.0000")]
    assert "budget" not in table(built, "table_2")[0]
    assert table(built, "all")[-1]["mini − s1"] == ""
    assert "several s1 rows match" in built.read_text()


def test_seeds_that_are_missing_are_counted_in_the_row_and_in_a_note(make_sweep, tmp_path):
    sweep = make_sweep(seeds=(0, 1, 2))
    for number in range(5):
        sweep.run(number, "1111100000")
    sweep.plan["report"] = {"tables": [{"kind": "accuracy"}, PAIRED], "figures": [{"kind": "scaling"}]}
    built = report.build(sweep.plan, [sweep.root], tmp_path / "out")
    for name in ("accuracy", "table_2"):
        spreads = [r["mini over seeds"] for r in table(built, name)]
        assert spreads == ["50.0 to 50.0 (3 runs)", "50.0 to 50.0 (only 2 of 3 runs)"]
    assert built.read_text().count("random, auto: 2 of 3 runs of mini") == 3


def test_models_as_released_have_no_training_seed(make_sweep, tmp_path):
    sweep = make_sweep()
    for number, run in enumerate(sweep.plan["runs"]):
        del run["stages"]["train"]
        sweep.plan["stages"].append({"stage": "train", "key": None, "recipe": "", "what": {}, "seed": 0})
        run["stages"]["train"] = f"train{run['axes']['data']}0"
        sweep.run(number, "1" * 10)
        del run["stages"]["train"]
    sweep.plan["stages"] = [s for s in sweep.plan["stages"] if s["key"]]
    assert "One training seed" not in report.build(sweep.plan, [sweep.root], tmp_path / "out").read_text()


def test_the_figure_of_a_sweep_without_report_has_the_axis_that_sets_thinking(make_sweep):
    sweep = make_sweep(budgets=BUDGETS)
    for number, run in enumerate(sweep.plan["runs"]):
        run["settings"] |= {"generate": {"thinking": BUDGETS[run["axes"]["budget"]]}}
        sweep.run(number, "1100", tokens=9 * number)
    ((_, figure),) = report.assemble(sweep.plan, [sweep.root]).figures
    assert figure.axes[0].get_legend_handles_labels()[1] == ["s1", "s1 + waits", "random", "random + waits"]


@pytest.mark.parametrize("path", sorted((HOME / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_reports_of_shipped_sweeps_name_axes_and_labels_that_exist(path, monkeypatch, tmp_path):
    monkeypatch.chdir(HOME)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    loaded = sweep_recipe.load(str(path.relative_to(HOME)))
    runs = [{"name": run.name, "axes": run.axes, "stages": {}} for run in loaded.runs]
    axes = list(dict.fromkeys(axis for run in runs for axis in run["axes"]))
    results = collect.Results(loaded.name, loaded.about, axes, pandas.DataFrame({"run": []}), None, runs=runs)
    declared = report.check(loaded.report)
    specs = loaded.runs[0].recipe.generate.tasks
    tasks = {spec if isinstance(spec, str) else spec["name"] for spec in specs}
    assert declared["tables"]
    for entry in [*declared["tables"], *declared["figures"]]:
        assert len(points.points(results, entry)) > 1
        for table in report._published(entry):
            labels = {run["axes"].get(entry["axis"], "") for run in runs}
            comparable = tasks.intersection(table.columns) and entry["kind"] != "scaling"  # mini's task is in no paper
            assert not comparable or any(map(table.of, labels))
