"""Lengths: counted where examples are at hand, else as published, and always said which."""

import json
import os
from pathlib import Path

import pytest

from hpc.plan import document, lengths
from hpc.recipe import sweep

REAL = Path(os.environ.get("HPC_DATA_DIR", "/nowhere"))
RECIPE = """\
model: Qwen/Qwen2.5-7B-Instruct
data: {source: s1k}
train: {epochs: 1}
"""


def data_stage(*overrides):
    graph = document.make(sweep.load("recipes/base.yaml", list(overrides))).graph
    return next(s for s in graph.stages.values() if s.stage == "data")


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HPC_DATA_DIR", raising=False)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/base.yaml").write_text(RECIPE)
    return tmp_path


def test_s1k_has_the_tokens_that_the_paper_counts():
    found = lengths.drawn("simplescaling/s1K")
    thinking = sum(found.tokens) - 900 * len(found.tokens)
    assert found.rows == len(found.tokens) == 1000 and found.kind == "published"
    assert thinking == pytest.approx(4_692_600, rel=0.01), "table 6: 4,692.6K thinking tokens"
    assert 8_500 < max(found.tokens) < 9_200, "the longest example has 9,109 tokens"


def test_r1_traces_are_twice_as_long_and_sky_t1_is_cut_at_16384():
    assert sum(lengths.drawn("simplescaling/s1K-1.1").tokens) / 1000 - 900 == pytest.approx(9300, rel=0.02)
    sky = lengths.drawn("NovaSky-AI/Sky-T1_data_17k")
    assert max(sky.tokens) == 16384 and 4600 < sky.mean < 5100 and sky.rows == 15586


def test_the_column_decides_between_the_traces_of_one_repository():
    gemini = lengths.planned(data_stage("data.source=s1k_1_1_gemini"))
    r1 = lengths.planned(data_stage("data.source=s1k_1_1"))
    assert gemini.mean == lengths.drawn("simplescaling/s1K").mean and r1.mean > 1.5 * gemini.mean


def test_selection_and_size_are_followed():
    part = ["data.source=s1_59k", "data.size=1000"]
    longest = lengths.planned(data_stage(*part, "data.select=longest"))
    anyone = lengths.planned(data_stage(*part, "data.select=random"))
    assert longest.rows == anyone.rows == 1000 and longest.mean > 1.8 * anyone.mean


def test_unknown_examples_are_assumed_and_say_so(workspace):
    found = lengths.planned(data_stage("data.source={name: records, hub: some/thing, thinking: t}"))
    assert found.kind == "assumed" and found.rows is None and found.spread >= 0.5 and "nothing is known" in found.how


def test_a_local_file_is_counted(workspace):
    rows = [{"q": "why?", "t": "x" * 2600 * n, "a": "so"} for n in (1, 2, 3)]
    (workspace / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    source = "data.source={name: records, file: rows.jsonl, question: q, thinking: t, answer: a}"
    found = lengths.planned(data_stage(source))
    assert found.kind == "estimated" and found.rows == 3
    assert [round(n / 1000) for n in found.tokens] == [1, 2, 3]


def test_a_published_artifact_goes_before_everything(workspace):
    stage = data_stage("data.source={name: records, hub: some/thing, thinking: t}")
    train = next(s for s in document.make(sweep.load("recipes/base.yaml")).graph.stages.values() if s.stage == "train")
    folder = workspace / "data"
    folder.mkdir()
    row = {"question": "q" * 26, "thinking": "t" * 260, "answer": "a" * 26, "lengths": {"thinking": 77, "answer": 3}}
    (folder / "examples.jsonl").write_text(json.dumps(row) + "\n")
    stages = {stage.key: stage}
    train.inputs["data"]["key"] = stage.key
    by_bytes = lengths.of(train, stages, {stage.key: folder})
    assert by_bytes.kind == "estimated" and by_bytes.tokens == (10 + 100 + 10 + lengths.TEMPLATE_TOKENS,)
    stage.config["tokenizer"] = "Qwen/Qwen2.5-7B-Instruct"
    exact = lengths.of(train, stages, {stage.key: folder})
    assert (
        exact.kind == "counted"
        and exact.tokens == (10 + 77 + 3 + lengths.TEMPLATE_TOKENS,)
        and exact.spread < by_bytes.spread
    )


def test_published_examples_of_a_known_source_keep_its_histogram(workspace):
    stage = data_stage()
    train = next(s for s in document.make(sweep.load("recipes/base.yaml")).graph.stages.values() if s.stage == "train")
    (workspace / "data").mkdir()
    row = json.dumps({"question": "q" * 26, "thinking": "t" * 260, "answer": "a" * 26}) + "\n"
    (workspace / "data/examples.jsonl").write_text(50 * row)
    found = lengths.of(train, {stage.key: stage}, {stage.key: workspace / "data"})
    assert (found.rows, found.kind) == (50, "published"), "2.6 bytes a token would be 11 % off for Gemini's traces"
    assert found.mean == lengths.drawn("simplescaling/s1K").mean
    stage.config["filters"] = ["short"]
    assert lengths.of(train, {stage.key: stage}, {stage.key: workspace / "data"}).kind == "estimated"


def test_overlong_examples_are_cut_or_left_out():
    found = lengths.drawn("simplescaling/s1K")
    assert max(found.limited(4096, "cut").tokens) == 4096 and found.limited(4096, "cut").rows == 1000
    assert found.limited(4096, "drop").rows < 200


@pytest.mark.skipif(not (REAL / "tokenizer_qwen").is_dir(), reason="HPC_DATA_DIR has no tokenizer_qwen")
def test_bytes_a_token_hold_on_real_texts():
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(REAL / "tokenizer_qwen/tokenizer.json"))
    lines = (REAL / "math_test5000_solved.jsonl").read_text().splitlines()[:200]
    texts = [json.loads(line)["solution"] for line in lines]
    rate = sum(len(t.encode()) for t in texts) / sum(len(tokenizer.encode(t).ids) for t in texts)
    assert rate == pytest.approx(lengths.BYTES_PER_TOKEN, rel=2 * lengths.BYTES_SPREAD)
