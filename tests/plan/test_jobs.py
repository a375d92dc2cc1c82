"""Jobs and arrays: who runs with whom, and who waits for whom."""

from hpc.plan import jobs
from hpc.recipe.schema import Resources


def job(kind, *parents):
    return jobs.Job(kind, [kind], {"gpus": 0}, list(parents))


def shapes(made):
    return [(a.name, len(a.jobs), [(p["type"], p["array"]) for p in a.parents]) for a in jobs.arrays(made)]


def test_jobs_without_parents_are_one_array():
    assert shapes([job("data"), job("data"), job("data")]) == [("data-0", 3, [])]


def test_child_takes_its_parents_index():
    made = [job("data"), job("data"), job("data"), job("train", 2), job("train", 0)]
    assert shapes(made)[1] == ("train-0", 2, [("aftercorr", "data-0")])
    assert [(made[3].index), made[4].index] == [2, 0]


def test_children_of_one_parent_wait_for_it_together():
    made = [job("data"), job("train", 0), job("train", 0)]
    assert shapes(made)[1] == ("train-0", 2, [("afterok", "data-0")])


def test_second_child_of_a_parent_goes_into_a_second_array():
    made = [job("data"), job("data"), job("train", 0), job("train", 0), job("train", 1)]
    assert shapes(made)[1:] == [("train-0", 2, [("aftercorr", "data-0")]), ("train-1", 1, [("aftercorr", "data-0")])]


def test_further_parents_are_waited_for_by_afterok():
    made = [job("train"), job("data"), job("data"), job("train", 0, 1), job("train", 0, 2)]
    assert shapes(made)[2] == ("train-1", 2, [("aftercorr", "data-0"), ("afterok", "train-0")])


def test_child_of_a_published_parent_waits_for_nothing():
    made = [job("data"), job("train", 0), job("train")]
    assert [(n, w) for _, n, w in shapes(made)[1:]] == [(1, []), (1, [("afterok", "data-0")])]


def test_job_that_waits_for_two_of_one_array_has_an_array_of_its_own():
    made = [job("data"), job("data"), job("data"), job("train", 0, 1), job("train", 1, 2)]
    arrays = jobs.arrays(made)
    assert [a.parents for a in arrays[1:]] == [
        [{"type": "afterok", "array": "data-0", "indices": [0, 1]}],
        [{"type": "afterok", "array": "data-0", "indices": [1, 2]}],
    ]


def test_resources_of_other_shapes_are_other_arrays():
    made = [job("data"), job("data")]
    made[1].resources = {"gpus": 8}
    assert [a[0] for a in shapes(made)] == ["data-0", "data-1"]


def test_auto_resources_become_whole_numbers():
    assert jobs.shape(Resources(gpus=16, gpu="h100"), "train", 8) | {"gpu": ""} == {
        "gpus": 16,
        "gpu": "",
        "ranks": 16,
        "nodes": 2,
        "cpus_per_rank": 0,
        "memory_gib": 0,
        "hours": 0,
    }
    assert jobs.shape(Resources(gpus=8), "generate", 8)["ranks"] == 1
    assert jobs.shape(Resources(ranks=2, nodes=2), "train", 8)["nodes"] == 2
