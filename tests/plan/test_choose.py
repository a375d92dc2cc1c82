"""A part of a plan: which runs, what they need, which jobs are left."""

import pytest

from hpc.cluster.profile import find_profile
from hpc.cluster.status import status, wait
from hpc.cluster.submit import submit
from hpc.errors import PlanError
from hpc.plan import choose, document
from hpc.recipe import sweep

SWEEP = """
recipe: base
axes:
  data: {short: {source: ../recipes/source.py:made}, long: {source: {name: ../recipes/source.py:made, num: 9}}}
  train.lr: [1.0e-5, 2.0e-5]
  generate.thinking.waits: [0, 2]
"""


@pytest.fixture
def plan(workspace):
    """Eight runs on two data stages and four trainings."""
    workspace.write("sweeps/grid.yaml", SWEEP)
    return document.document(document.make(sweep.load("sweeps/grid.yaml"), [], 8))


def names(found):
    return [run["name"] for run in found["runs"]]


def test_a_name_a_glob_an_axis_and_their_conjunction(plan):
    first = plan["runs"][0]["name"]
    assert names(choose.choose(plan, [first])) == [first]
    assert len(names(choose.choose(plan, ["data-short*"]))) == 4
    assert len(names(choose.choose(plan, ["data=long"]))) == 4
    assert names(choose.choose(plan, ["data=long", first])) == [first, *names(choose.choose(plan, ["data=long"]))]
    (one,) = names(choose.choose(plan, ["data=long,lr=2e-05,waits=2"]))
    assert one == "data-long_lr-2e-05_waits-2_s0"


def test_only_what_the_runs_need_is_left_and_jobs_keep_their_places(plan):
    found = choose.choose(plan, ["data=long,lr=2e-05"])
    kinds = sorted(s["stage"] for s in found["stages"])
    assert kinds == ["data", "generate", "generate", "grade", "grade", "train"]
    keys = {s["key"] for s in found["stages"]}
    assert {k for j in found["jobs"] for k in j["stages"]} == keys
    assert {k for a in found["arrays"] for j in a["jobs"] for k in j["stages"]} == keys
    whole = {tuple(j["stages"]): (j["array"], j["index"]) for j in plan["jobs"]}
    assert all(whole[tuple(j["stages"])] == (j["array"], j["index"]) for j in found["jobs"] if j["kind"] == "train")
    (train,) = [j for j in found["jobs"] if j["kind"] == "train"]
    assert (train["array"], train["index"]) != ("train-0", 0)
    assert (found["totals"]["runs"], found["totals"]["to_make"]) == (2, 6)
    assert len(plan["runs"]) == 8 and plan["totals"]["runs"] == 8  # the plan itself is as it was


def test_a_state_selects_the_runs_that_have_a_stage_in_it(plan):
    run = plan["runs"][5]
    states = {s["key"]: "published" for s in plan["stages"]} | {run["stages"]["grade"]["quiz"]: "failed"}
    assert choose.needs_states(plan, ["data=long,failed"]) and not choose.needs_states(plan, ["data=long"])
    assert names(choose.choose(plan, ["failed"], states)) == [run["name"]]
    assert choose.again(choose.choose(plan, ["failed"], states), states) == {run["stages"]["grade"]["quiz"]}
    with pytest.raises(PlanError, match="nothing to do again"):
        choose.again(choose.choose(plan, [plan["runs"][0]["name"]]), states)


@pytest.mark.parametrize("selector", ["data=shrt", "nobody", "held", "data=long,waits=7", ""])
def test_a_selector_that_selects_nothing_lists_what_there_is(plan, selector):
    with pytest.raises(PlanError, match="selects no run") as caught:
        choose.choose(plan, [selector], {})
    assert "data-short_lr-1e-05_waits-0_s0" in caught.value.why and "data: short, long" in caught.value.why


def test_what_the_other_runs_need_is_known(plan):
    chosen = choose.choose(plan, ["data=long,lr=2e-05,waits=2"])
    own = {s["key"] for s in chosen["stages"]} - choose.others(plan, chosen)
    assert sorted(s["stage"] for s in plan["stages"] if s["key"] in own) == ["generate", "grade"]
    assert choose.others(plan, plan) == set() and "held" not in choose.STATES


def test_what_a_chosen_plan_submits_is_all_that_it_needs(toys, tmp_path, attempts_of):
    """Through the real local runner: one of two branches, with the base that both share."""
    here = find_profile("local", roots=[str(tmp_path / "root")], max_parallel=2)
    plan = toys().job("a", 0, ("base", [], {}))
    plan.job("b", 0, ("left", ["base"], {})).job("b", 1, ("right", ["base"], {}))
    whole = plan.document()
    whole["runs"] = [
        {**whole["runs"][0], "name": n, "axes": {"side": n}, "stages": {"toy": {n: plan.key(n)}}}
        for n in ("left", "right")
    ]
    chosen = choose.choose(whole, ["side=right"])
    assert submit(chosen, here).jobs == 2
    wait(chosen, here, poll_s=0.1, timeout_s=30)
    assert attempts_of(plan, here.root) == {"base": (1, 1), "left": (0, 0), "right": (1, 1)}
    assert {r["name"]: r["state"] for r in status(whole, here)["runs"]} == {"left": "new", "right": "published"}
