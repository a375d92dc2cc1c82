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


def test_models_whose_weights_differ_from_their_siblings_have_rows_of_their_own():
    assert shapes.named("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B").params == 1_777_088_000, (
        "its embeddings are not tied"
    )
    assert shapes.named("Qwen/Qwen2.5-Math-1.5B").params == 1_543_714_304
    assert shapes.named("meta-llama/Meta-Llama-3-70B-Instruct").name == "llama-3.1-70b"
    assert shapes.named("Qwen/Qwen3-32B").params == 32_762_123_264
    assert shapes.named("Qwen/Qwen3-30B-A3B") is None


@pytest.mark.parametrize("value", ["x", 0, -1, None, [1], {}])
def test_a_config_with_a_wrong_size_is_refused_as_one(tmp_path, value):
    config = {"model_type": "qwen2", "hidden_size": value, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 8, "vocab_size": 16}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="hidden"):
        shapes.read(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="no settings"):
        shapes.read(tmp_path)


def test_what_training_refuses_is_known_from_the_config(tmp_path):
    def why(longest=5000, **config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return shapes.refused(tmp_path, longest)

    assert "gemma2" in why(model_type="gemma2") and "qwen3_moe" in why(model_type="qwen3_moe")
    assert "4,096 tokens back" in why(model_type="mistral", sliding_window=4096)
    assert "4,096 tokens back" in why(model_type="mistral"), "transformers' default"
    assert why(model_type="mistral", sliding_window=None) == why(4000, model_type="mistral") == ""
    assert (
        why(model_type="qwen2", sliding_window=4096)
        == ""
        != why(model_type="qwen2", sliding_window=4096, use_sliding_window=True)
    )
    assert "dropout" in why(model_type="llama", attention_dropout=0.1) and why(model_type="llama") == ""
    assert shapes.refused(tmp_path / "nowhere", 1) == ""


def test_flops_are_six_a_parameter_and_token_and_attention_by_documents():
    row = shapes.shape("qwen2.5-32b")
    whole, halves = row.flops(8192, 8192**2), row.flops(8192, 2 * 4096**2)
    assert whole - halves == pytest.approx(6 * 64 * 5120 * (8192**2 - 2 * 4096**2))
    assert row.flops(1, 0) == pytest.approx(6 * (row.params - row.vocab * row.hidden), rel=1e-3)
