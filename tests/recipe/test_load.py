"""Loading recipes: inheritance, overrides, types, and errors that a newcomer can act on."""

import pytest

from hpc.errors import RecipeError
from hpc.recipe import load, schema, show, sweep, typed


def built(name, *overrides):
    return sweep.load(f"recipes/{name}.yaml", overrides).runs[0].recipe


def test_child_overrides_its_parent_and_keeps_the_rest(workspace):
    workspace.write("recipes/child.yaml", "extends: base\ntrain: {epochs: 5}\n")
    recipe = built("child")
    assert (recipe.train.epochs, recipe.train.lr, recipe.model) == (5, 1e-4, "org/model@abc")


def test_number_without_a_dot_in_its_exponent_is_a_number(workspace):
    assert built("base", "train.lr=3e-5").train.lr == 3e-5


def test_mapping_with_a_name_replaces_instead_of_merging(workspace):
    workspace.write("recipes/one.yaml", "extends: base\ndata: {source: {name: './source.py:made', num: 7}}\n")
    workspace.write("recipes/two.yaml", "extends: one\ndata: {source: {name: './source.py:made', seed: 1}}\n")
    assert set(built("two").data.source) == {"name", "seed"}


def test_section_set_to_null_is_gone(workspace):
    workspace.write("recipes/eval.yaml", "extends: base\ntrain: null\ndata: null\n")
    recipe = built("eval")
    assert recipe.train is None and recipe.data is None


def test_plain_list_of_seeds_means_train(workspace):
    workspace.write("recipes/seeded.yaml", "extends: base\nseeds: [3, 4]\n")
    assert built("seeded").seeds == schema.Seeds(data=[0], train=[3, 4], generate=[0])


def test_override_reaches_what_is_interpolated_from_it(workspace):
    workspace.write("recipes/linked.yaml", "extends: base\ntrain: {lr: 0.5, min_lr: '${train.lr}'}\n")
    assert built("linked", "train.lr=0.25").train.min_lr == 0.25


def test_interpolation_is_resolved(workspace):
    workspace.write("recipes/linked.yaml", "extends: base\ntrain: {lr: 0.5, min_lr: '${train.lr}'}\n")
    assert built("linked").train.min_lr == 0.5


def test_origin_names_the_file_or_override_that_set_a_value(workspace):
    workspace.write("recipes/child.yaml", "extends: base\ntrain: {epochs: 5}\n")
    made = sweep.load("recipes/child.yaml", ["train.eps=1e-6"])
    origin = {r.key: r.origin for r in show.rows(made.runs[0].recipe, show.origins(made, made.runs[0]))}
    assert origin["train.epochs"].endswith("child.yaml") and origin["train.lr"].endswith("base.yaml")
    assert origin["train.eps"] == "override train.eps=1e-6" and origin["train.betas"] == "default"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.lrr=1", ['unknown key "train.lrr"', 'did you mean "lr"']),
        ("train.lr=fast", ['"train.lr" must be a number', "peak learning rate"]),
        ("train.batch_size=1.5", ['"train.batch_size" must be a whole number']),
        ("train.schedule=cosin", ["'cosine' or 'linear' or 'constant'"]),
        ("generate.thinking.max=lots", ['"generate.thinking.max" must be']),
        ("train=3", ['"train" must be a mapping']),
        ("train.lr", ['"train.lr" is not an override']),
        ("train.batch_size=0", ['"train.batch_size" must be at least 1']),
        ("train.lr=.nan", ['"train.lr" must be a number']),
        ("resources.train.gpus=-1", ["at least 0"]),
        ("seeds.train=[0, 0]", ["holds a seed twice"]),
    ],
)
def test_bad_override_says_what_where_and_what_next(workspace, override, words):
    with pytest.raises(RecipeError) as caught:
        built("base", override)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "next:" in message


def test_unknown_recipe_lists_the_nearest_name(workspace):
    with pytest.raises(RecipeError, match='did you mean "base"'):
        load.load("bas")


def test_missing_file_says_so(workspace):
    with pytest.raises(RecipeError, match=r"there is no file recipes/none\.yaml"):
        load.load("recipes/none.yaml")


def test_broken_yaml_names_the_file_and_line(workspace):
    workspace.write("recipes/broken.yaml", "model: [1, 2\ntrain: {")
    with pytest.raises(RecipeError, match="not valid YAML") as caught:
        load.load("broken")
    assert "line" in caught.value.why


def test_recipes_that_extend_each_other_are_refused(workspace):
    workspace.write("recipes/a.yaml", "extends: b\n")
    workspace.write("recipes/b.yaml", "extends: a\n")
    with pytest.raises(RecipeError, match="in a circle: a -> b -> a"):
        load.load("a")


def test_training_without_data_is_refused(workspace):
    workspace.write("recipes/empty.yaml", "extends: base\ndata: null\n")
    with pytest.raises(RecipeError, match='"train" needs "data"'):
        built("empty")


def test_every_field_has_a_meaning_and_is_what_or_how():
    def check(section):
        for field in section.__dataclass_fields__.values():
            assert field.metadata["doc"] and field.metadata["kind"] in ("what", "how"), field.name
            if isinstance(field.default_factory, type) and hasattr(field.default_factory, "__dataclass_fields__"):
                check(field.default_factory)

    for section in (schema.Recipe, schema.Data, schema.Part, schema.Train, schema.Generate, schema.Grade):
        check(section)


def test_late_field_at_its_default_is_left_out_of_the_key():
    from dataclasses import dataclass

    @dataclass
    class Section:
        old: int = schema.what(1, "old")
        new: int = schema.what(2, "new", late=True)
        way: int = schema.how(3, "way")

    assert typed.plain(Section(), "what") == {"old": 1}
    assert typed.plain(Section(new=5), "what") == {"old": 1, "new": 5}
    assert typed.plain(Section(), "how") == {"way": 3}
