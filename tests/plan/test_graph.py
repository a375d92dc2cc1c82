"""Keys: what changes them, what does not; references between recipes."""

import pytest

from hpc.errors import PlanError, RecipeError
from hpc.plan import document
from hpc.recipe import sweep


def keys(name="base", *overrides):
    plan = document.make(sweep.load(f"recipes/{name}.yaml", overrides))
    return document.document(plan)["runs"][0]["stages"]


def changed(*overrides):
    """Stages whose key differs from the recipe without overrides."""
    before, after = keys(), keys("base", *overrides)
    return [stage for stage in before if before[stage] != after[stage]]


def test_how_fields_enter_no_key(workspace):
    assert changed("train.micro_batch=4", "train.zero.stage=1", "resources.train.gpus=8", "generate.batch_size=3") == []


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("data.size=2", ["data", "train", "generate", "grade"]),
        ("train.lr=1e-3", ["train", "generate", "grade"]),
        ("seeds=[1]", ["train", "generate", "grade"]),
        ("model=org/other@abc", ["train", "generate", "grade"]),
        ("generate.thinking.waits=1", ["generate", "grade"]),
        ("grade.timeout_s=3", ["grade"]),
        ("train.edition=again", ["train", "generate", "grade"]),
    ],
)
def test_what_fields_enter_the_keys_of_their_stage_and_those_after(workspace, override, stages):
    assert changed(override) == stages


def test_seed_enters_only_stages_that_draw(workspace):
    assert changed("seeds.generate=[1]") == [] and changed("seeds.data=[1]") == []
    warm = "generate.temperature=0.7"
    assert keys("base", warm)["generate"] != keys("base", warm, "seeds.generate=[1]")["generate"]
    drawn = "data.select=random"
    assert keys("base", drawn)["data"] != keys("base", drawn, "seeds.data=[1]")["data"]


def test_auto_budget_is_resolved_before_hashing(workspace):
    assert keys()["generate"] == keys("base", "generate.thinking.max=56")["generate"]


def test_format_enters_by_its_text_and_not_by_its_name(workspace):
    before = keys()
    (workspace.path / "recipes/format.yaml").rename(workspace.path / "recipes/same.yaml")
    workspace.write("recipes/base2.yaml", "extends: base\nformat: ./same.yaml\n")
    assert keys("base2") == before
    workspace.write("recipes/same.yaml", "thinking_start: '<reason>'\n")
    assert keys("base2")["train"] != before["train"]


def test_function_of_the_users_own_enters_by_its_digest(workspace):
    before = keys()
    workspace.write("recipes/source.py", "def made(*, num=4, seed=0):\n    yield from ()\n")
    assert keys()["data"] != before["data"]


def test_data_file_enters_by_its_content(workspace, monkeypatch):
    monkeypatch.setenv("HPC_DATA_DIR", str(workspace.path))
    source = "data.source={name: records, hub: org/set, file: rows.jsonl}"
    absent = keys("base", source)["data"]
    workspace.write("rows.jsonl", "{}\n")
    present = keys("base", source)["data"]
    workspace.write("rows.jsonl", "{}\n{}\n")
    assert len({absent, present, keys("base", source)["data"]}) == 3


def test_hub_model_enters_by_the_commit_that_was_fetched(workspace):
    unfetched = keys("base", "model=org/model")["train"]
    refs = workspace.path / "hf/hub/models--org--model/refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("abc")
    assert keys("base", "model=org/model")["train"] not in (unfetched,) and keys("base", "model=org/model") == keys()


def test_files_of_one_name_in_two_folders_are_two(workspace):
    for folder in ("d1", "d2"):
        (workspace.path / folder).mkdir()
        workspace.write(f"{folder}/rows.jsonl", folder)
    a, b = (f"{{source: {{name: records, file: {workspace.path}/{folder}/rows.jsonl}}}}" for folder in ("d1", "d2"))
    mix = f"data={{source: '', mix: {{a: {a}, b: {b}}}}}"
    before = keys("base", mix)["data"]
    workspace.write("d1/rows.jsonl", "changed")
    assert keys("base", mix)["data"] != before


def test_swapped_references_in_a_mix_are_another_data_set(workspace):
    workspace.write("recipes/other.yaml", "extends: base\ndata: {select: longest, size: 2}\n")
    a, b = "{source: 'run:base#data'}", "{source: 'run:other#data', size: 5}"

    def mixed(*parts):
        named = ", ".join(f"{name}: {part}" for name, part in zip("abc", parts, strict=False))
        return keys("base", f"data={{source: '', mix: {{{named}}}}}")["data"]

    assert len({mixed(a, b), mixed(b, a), mixed(a, a, b), mixed(a, b, b)}) == 4


def test_text_that_begins_with_a_slash_is_text(workspace):
    waits = ["generate.thinking.wait_text=/x/Wait", "generate.thinking.wait_text=/y/Wait"]
    assert keys("base", waits[0])["generate"] != keys("base", waits[1])["generate"]


def test_grader_of_the_users_own_changes_the_grades_alone(workspace):
    workspace.write("recipes/judge.py", "def judge(question, sample):\n    return None, 'wrong'\n")
    workspace.write(
        "recipes/quiz.yaml", "source: './source.py:made'\nprompt: '{question}'\ngrader: './judge.py:judge'\n"
    )
    before = keys()
    workspace.write("recipes/judge.py", "def judge(question, sample):\n    return None, 'no_answer'\n")
    after = keys()
    assert before["generate"] == after["generate"] and before["grade"] != after["grade"]


def test_decontamination_follows_what_the_task_asks(workspace):
    before = keys("base", "data.decontaminate=[./recipes/quiz.yaml]")["data"]
    workspace.write(
        "recipes/quiz.yaml", "source: {name: './source.py:made', num: 9}\nprompt: '{question}'\ngrader: exact\n"
    )
    assert keys("base", "data.decontaminate=[./recipes/quiz.yaml]")["data"] != before


def test_equal_stages_of_two_runs_are_one(workspace):
    workspace.write("sweeps/study.yaml", "recipe: base\naxes: {generate.thinking.max: [8, 9, 10]}\n")
    plan = document.document(document.make(sweep.load("study")))
    stages = [s["stage"] for s in plan["stages"]]
    assert (stages.count("train"), stages.count("generate")) == (1, 3)
    assert {s["state"] for s in plan["stages"] if s["stage"] == "train"} == {"shared"}
    assert [len(j["stages"]) for j in plan["jobs"] if j["kind"] == "generate"] == [3]


def test_renamed_recipe_keeps_the_keys_of_those_that_refer_to_it(workspace):
    workspace.write("recipes/next.yaml", "extends: base\nmodel: run:base\ndata: {source: 'run:base#data'}\n")
    before = keys("next")
    (workspace.path / "recipes/base.yaml").rename(workspace.path / "recipes/first.yaml")
    workspace.write("recipes/next.yaml", "extends: first\nmodel: run:first\ndata: {source: 'run:first#data'}\n")
    assert keys("next") == before


def test_reference_brings_the_other_recipes_stages_into_the_plan(workspace):
    workspace.write("recipes/next.yaml", "extends: base\nmodel: run:base\n")
    plan = document.document(document.make(sweep.load("recipes/next.yaml")))
    assert sorted(s["recipe"] for s in plan["stages"] if s["stage"] == "train") == ["base", "next"]
    assert not [s for s in plan["stages"] if s["recipe"] == "base" and s["stage"] in ("generate", "grade")], (
        "the base's own evaluation is nobody's input here"
    )


def test_recipes_that_refer_to_each_other_are_refused(workspace):
    workspace.write("recipes/a.yaml", "extends: base\nmodel: run:b\n")
    workspace.write("recipes/b.yaml", "extends: base\nmodel: run:a\n")
    with pytest.raises(PlanError, match="in a circle: b -> a -> b") as caught:
        keys("a")
    assert "break the circle" in caught.value.next


def test_reference_to_a_missing_recipe_or_stage_says_what_there_is(workspace):
    workspace.write("recipes/a.yaml", "extends: base\nmodel: run:bose\n")
    with pytest.raises(RecipeError, match='did you mean "base"'):
        keys("a")
    workspace.write("recipes/a.yaml", "extends: base\nmodel: 'run:base#tran'\n")
    with pytest.raises(PlanError, match="leads to nothing") as caught:
        keys("a")
    assert "generate.quiz" in caught.value.why


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.source=s2k", 'there is no source "s2k"'),
        ("data.select=randon", 'did you mean "random"'),
        ("data.source={name: './recipes/source.py:made', nun: 3}", 'has no argument "nun"'),
        ("generate.tasks=[aime42]", 'there is no task "aime42"'),
        ("format=thinkanswer", 'did you mean "think_answer"'),
        ("model=qwen", "neither a folder nor org/name"),
        ("model=./nowhere", "there is no model in"),
        ("generate.tasks=[./recipes/quiz.yaml, {name: ./recipes/quiz.yaml, limit: 1}]", "is listed twice"),
        ("data.source={name: records, file: nope.jsonl}", "there is no data file nope.jsonl"),
        ("generate.answer_tokens=64", "leaves nothing to think with"),
        ("format=plain", "the format has no thinking part"),
    ],
)
def test_unknown_name_is_an_error_with_the_nearest(workspace, override, words):
    with pytest.raises((RecipeError, PlanError)) as caught:
        keys("base", override)
    assert words in str(caught.value)


def test_axis_that_changes_nothing_is_reported(workspace):
    workspace.write("sweeps/study.yaml", "recipe: base\naxes: {train.micro_batch: [1, 2]}\n")
    plan = document.document(document.make(sweep.load("study")))
    assert any("equal keys" in n and "micro_batch-1_s0, micro_batch-2_s0" in n for n in plan["notes"])


def test_size_not_smaller_than_its_source_is_reported(workspace):
    source = "data.source={name: './recipes/source.py:made', num: 10}"
    plan = document.make(sweep.load("recipes/base.yaml", [source, "data.size=10", "data.select=random"]))
    assert any("size 10 is not smaller than its source (10 examples)" in n for n in plan.notes)
    assert not document.make(sweep.load("recipes/base.yaml", [source, "data.size=9"])).notes
