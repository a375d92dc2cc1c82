"""Shapes: what config.json and the shipped table say must be what the published weights count."""

import json
from pathlib import Path

import pytest

from hpc.plan import shapes

HOME = Path(__file__).parents[2]


@pytest.mark.parametrize("name", shapes._table())
def test_the_table_counts_what_the_published_weights_have(name):
    assert shapes.shape(name).params == shapes._table()[name]["params"]


def test_every_model_of_the_shipped_recipes_has_a_shape():
    text = "\n".join(p.read_text() for p in (HOME / "recipes").glob("*.yaml"))
    models = {line.split()[1] for line in text.splitlines() if line.startswith("model: ") and line.count("/") == 1}
    hub = {m for m in models if not m.startswith(".")}
    assert {"Qwen/Qwen2.5-32B-Instruct", "simplescaling/s1-32B", "Qwen/QwQ-32B-Preview"} <= hub
    assert [m for m in hub if shapes.named(m) is None] == []


def test_a_name_is_found_at_any_revision_and_a_stranger_is_not():
    assert shapes.named("Qwen/Qwen2.5-7B-Instruct@a09a354").name == "qwen2.5-7b"
    assert shapes.named("Qwen/Qwen2.5-0.5B").name == "qwen2.5-0.5b"
    assert shapes.named("someone/Qwen2.5-7B") is None


def test_a_local_config_says_the_same_as_the_table(tmp_path):
    row = shapes.shape("qwen2.5-32b")
    config = {
        "model_type": "qwen2",
        "hidden_size": row.hidden,
        "num_hidden_layers": row.layers,
        "num_attention_heads": row.heads,
        "num_key_value_heads": row.kv_heads,
        "intermediate_size": row.ffn,
        "vocab_size": row.vocab,
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert shapes.read(tmp_path).params == row.params
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "mixtral"}))
    assert shapes.read(tmp_path) is None


def test_flops_are_six_a_parameter_and_token_and_attention_by_documents():
    row = shapes.shape("qwen2.5-32b")
    whole, halves = row.flops(8192, 8192**2), row.flops(8192, 2 * 4096**2)
    assert whole - halves == pytest.approx(6 * 64 * 5120 * (8192**2 - 2 * 4096**2))
    assert row.flops(1, 0) == pytest.approx(6 * (row.params - row.vocab * row.hidden), rel=1e-3)
