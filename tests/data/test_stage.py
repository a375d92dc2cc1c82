"""The data stage end to end: manifest, decontamination, mixes, difficulty through an input artifact."""

from pathlib import Path

import pytest

from hpc import files
from hpc.artifact import Work
from hpc.data import overlap, stage
from hpc.errors import StageError
from hpc.recipe.schema import Data, Part

SMALL = {"name": "mini", "per_step": [20, 20, 20], "kinds": {"plain": 0.5, "check": 0.5}, "missing": 0.2}


def make(tmp_path: Path, config: Data, seed: int = 0, inputs=None) -> tuple[Path, dict]:
    attempt = tmp_path / "work" / str(len(list(tmp_path.glob("work/*"))) + 1)
    (attempt / "out").mkdir(parents=True)
    work = Work("data", "k", config, {}, inputs or {}, seed, attempt)
    counts = stage.run(work)
    assert counts["examples"] == len(list(files.read_jsonl(work.out / "examples.jsonl")))
    return work.out, files.read_json(work.out / "manifest.json")


def test_the_manifest_says_what_every_filter_dropped_and_why(tmp_path):
    _, manifest = make(tmp_path, Data(source=SMALL, filters=["quality", {"name": "length", "least": 9}]))
    quality, length = manifest["filters"]
    assert manifest["parts"]["source"]["loaded"] == 60
    assert quality["dropped"]["no thinking"] + quality["kept"] == 60
    assert length["dropped"]["too short"] + length["kept"] == quality["kept"]
    assert manifest["examples"] == length["kept"] and manifest["lengths"]["thinking"]["min"] >= 9


@pytest.mark.parametrize(("size", "flag"), [(59, False), (60, True), (100, True), (None, False)])
def test_a_size_that_does_not_bind_is_marked(tmp_path, size, flag):
    _, manifest = make(tmp_path, Data(source=SMALL, select="random", size=size))
    assert manifest["select"]["size_not_binding"] is flag
    assert manifest["examples"] == min(size or 60, 60)


def test_equal_settings_give_equal_bytes_and_another_seed_does_not(tmp_path):
    config = Data(source=SMALL, select="random", size=20)
    sums = [files.sha256_file(make(tmp_path, config, seed)[0] / "examples.jsonl") for seed in (0, 0, 1)]
    assert sums[0] == sums[1] != sums[2]


def test_unsolved_questions_come_from_a_grade_artifact(tmp_path):
    plain, _ = make(tmp_path, Data(source=SMALL))
    ids = [row["id"] for row in files.read_jsonl(plain / "examples.jsonl")]
    grades = tmp_path / "grades"
    rows = [{"id": i, "sample": 0, "verdict": "correct" if n < 45 else "wrong"} for n, i in enumerate(ids)]
    files.write_jsonl(grades / "grades.jsonl", rows)
    hard = Data(source=SMALL, filters=[{"name": "unsolved_by", "grades": "run:base#grade.t"}])
    _, manifest = make(tmp_path, hard, inputs={"run:base#grade.t": grades})
    assert manifest["filters"][0]["dropped"] == {"solved": 45} and manifest["examples"] == 15


def test_a_mix_keeps_the_size_of_each_part(tmp_path):
    other = {**SMALL, "per_step": [0, 0, 0, 30]}
    config = Data(
        mix={
            "short": Part(source=SMALL, select="random", size=10),
            "long": Part(source=other, select="longest", size=5),
        }
    )
    _, manifest = make(tmp_path, config)
    assert manifest["examples"] == 15
    assert {name: p["select"]["selected"] for name, p in manifest["parts"].items()} == {"short": 10, "long": 5}


def test_nothing_left_is_an_error_that_tells_the_story(tmp_path):
    with pytest.raises(StageError) as caught:
        make(tmp_path, Data(source=SMALL, filters=[{"name": "length", "least": 999}]))
    assert "60 loaded" in caught.value.why and "0 kept" in caught.value.why


def test_questions_of_a_task_are_removed_before_the_selection(tmp_path):
    pytest.importorskip("hpc.evals.tasks")
    leaky = {"name": "mini", "part": "test", "per_step": [0, 0, 40, 40], "seed": 3}
    clean = {"name": "mini", "per_step": [0, 0, 0, 60], "seed": 9}
    mix = {"leak": Part(source=leaky), "clean": Part(source=clean)}
    _, manifest = make(tmp_path, Data(mix=mix, decontaminate=["mini"], select="random", size=50))
    (report,) = manifest["decontaminate"]["tasks"]
    assert report["dropped"]["same question"] == len(report["ids"]) == 80
    assert manifest["examples"] == 50 and manifest["domains"]


def test_a_long_common_run_of_words_is_an_overlap_and_a_short_one_is_not():
    test = "Let x be a real number such that the sum of x and seven equals twelve. Find x."
    near = "Suppose we let x be a real number such that the sum of x and seven equals ten, say."
    far = "Let x be a real number such that nothing else agrees with the other question here at all today."
    check = overlap.Overlap([test], 13)
    assert check(near) == "same words"
    assert check(far) is None
    assert check(test.upper().replace(" ", "\n")) == "same question"


def test_operators_matter_when_short_questions_are_compared():
    check = overlap.Overlap(["mod 100: 4 + 7"], 13)
    assert check("mod 100: 4 - 7") is None
    assert check("mod 100:  4 +7") == "same question"
