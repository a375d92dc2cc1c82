"""Axes -> runs: grid, zip, variants, conditions, seeds."""

import pytest

from hpc.errors import RecipeError
from hpc.recipe import sweep


def runs(workspace, text, *overrides):
    workspace.write("sweeps/study.yaml", text)
    return sweep.load("study", overrides).runs


def test_grid_is_the_product_of_its_lists(workspace):
    made = runs(workspace, "recipe: base\naxes: {train.lr: [1, 2], train.epochs: [3, 4, 5]}\n")
    assert [(r.recipe.train.lr, r.recipe.train.epochs) for r in made] == [
        (1, 3),
        (1, 4),
        (1, 5),
        (2, 3),
        (2, 4),
        (2, 5),
    ]
    assert made[0].name == "lr-1_epochs-3_s0"


def test_zip_couples_its_columns(workspace):
    text = "recipe: base\naxes: {size: {zip: {model: [o/a, o/b], train.lr: [1e-5, 2e-5]}}}\n"
    assert [(r.recipe.model, r.recipe.train.lr) for r in runs(workspace, text)] == [("o/a", 1e-5), ("o/b", 2e-5)]


def test_zip_of_unequal_columns_is_refused(workspace):
    with pytest.raises(RecipeError, match="lists of one length"):
        runs(workspace, "recipe: base\naxes: {size: {zip: {model: [o/a], train.lr: [1, 2]}}}\n")


def test_variants_merge_into_the_section_they_are_named_after(workspace):
    made = runs(workspace, "recipe: base\naxes: {train: {long: {epochs: 9}, short: {epochs: 1, lr: 7}}}\n")
    assert [(r.axes["train"], r.recipe.train.epochs, r.recipe.train.lr) for r in made] == [
        ("long", 9, 1e-4),
        ("short", 1, 7),
    ]


def test_free_axis_merges_dotted_keys(workspace):
    made = runs(workspace, "recipe: base\naxes: {budget: {cut: {generate.thinking.max: 8}, free: {}}}\n")
    assert [r.recipe.generate.thinking.max for r in made] == [8, "auto"]


def test_free_axis_whose_option_names_no_key_is_refused(workspace):
    with pytest.raises(RecipeError, match='"budget" is not a recipe key'):
        runs(workspace, "recipe: base\naxes: {budget: {cut: 8}}\n")


def test_axis_applies_only_where_its_condition_holds(workspace):
    text = """
    recipe: base
    axes:
      train: {a: {epochs: 1}, b: {epochs: 2}}
      budget: {when: {train: [a]}, values: {x: {generate.thinking.max: 8}, y: {generate.thinking.max: 9}}}
    """
    assert [r.name for r in runs(workspace, text)] == ["train-a_budget-x_s0", "train-a_budget-y_s0", "train-b_s0"]


def test_option_with_a_condition_is_left_out_elsewhere(workspace):
    text = """
    recipe: base
    axes:
      train: {a: {epochs: 1}, b: {epochs: 2}}
      budget: {x: {generate.thinking.max: 8}, y: {when: {train: b}, generate.thinking.max: 9}}
    """
    assert [r.name for r in runs(workspace, text)] == [
        "train-a_budget-x_s0",
        "train-b_budget-x_s0",
        "train-b_budget-y_s0",
    ]


def test_condition_on_an_unknown_label_is_refused(workspace):
    text = "recipe: base\naxes: {train: {a: {}}, budget: {when: {train: [z]}, values: {x: {}}}}\n"
    with pytest.raises(RecipeError, match="unknown label"):
        runs(workspace, text)


def test_every_seed_is_a_run(workspace):
    made = runs(workspace, "recipe: base\nseeds: {train: [0, 1], generate: [5, 6]}\n")
    assert [r.name for r in made] == ["base_s0_g5", "base_s0_g6", "base_s1_g5", "base_s1_g6"]
    assert made[2].seeds == {"data": 0, "train": 1, "generate": 5}


def test_sweep_keys_beside_the_recipe_hold_for_every_run(workspace):
    made = runs(workspace, "recipe: base\ntrain: {epochs: 8}\naxes: {train.lr: [1, 2]}\n")
    assert [r.recipe.train.epochs for r in made] == [8, 8]


def test_recipe_of_a_sweep_can_be_overridden_and_be_an_axis(workspace):
    workspace.write("recipes/other.yaml", "extends: base\nmodel: o/other\n")
    text = "recipe: base\naxes: {train.lr: [1]}\n"
    assert runs(workspace, text, "recipe=other")[0].recipe.model == "o/other"
    made = runs(workspace, "recipe: base\naxes: {recipe: [base, other]}\n")
    assert [r.recipe.model for r in made] == ["org/model@abc", "o/other"]


def test_override_holds_for_every_run(workspace):
    made = runs(workspace, "recipe: base\naxes: {train.lr: [1, 2]}\n", "train.epochs=4", "seeds=[7]")
    assert [(r.recipe.train.epochs, r.seeds["train"]) for r in made] == [(4, 7), (4, 7)]


def test_bad_value_in_an_axis_names_the_point(workspace):
    with pytest.raises(RecipeError, match="must be a number") as caught:
        runs(workspace, "recipe: base\naxes: {train.lr: [1, fast]}\n")
    assert "train.lr=fast" in caught.value.where


def test_options_with_one_label_are_refused(workspace):
    with pytest.raises(RecipeError, match="two options labelled"):
        runs(workspace, "recipe: base\naxes: {model: [o/a, p/a]}\n")


def test_condition_on_an_axis_that_is_not_applied_is_false(workspace):
    text = """
    recipe: base
    axes:
      train: {r: {epochs: 1}, l: {epochs: 2}}
      b: {when: {train: [l]}, values: {short: {generate.max_tokens: 32}, long: {}}}
      w: {when: {b: [long]}, values: {w1: {generate.thinking.waits: 1}, w2: {generate.thinking.waits: 2}}}
    """
    names = ["train-r_s0", "train-l_b-short_s0", "train-l_b-long_w-w1_s0", "train-l_b-long_w-w2_s0"]
    assert [r.name for r in runs(workspace, text)] == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recipe: base\naxe: {}\n", 'did you mean "axes"'),
        ("axes: {train.lr: [1]}\n", "a sweep needs the recipe"),
        ("recipe: base\naxes: [1, 2]\n", "`axes` must map names to values"),
        ("recipe: base\naxes: {size: {zip: {train.lr: 3}}}\n", "lists of one length"),
        ("recipe: base\nseeds: 3\n", '"seeds" must be a mapping'),
    ],
)
def test_malformed_sweep_is_refused_with_what_is_wrong(workspace, text, words):
    with pytest.raises(RecipeError) as caught:
        runs(workspace, text)
    assert words in str(caught.value)
