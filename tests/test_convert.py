"""hpc.convert refuses what it cannot convert, and never leaves half a model behind."""

import pytest

from hpc import convert
from hpc.errors import ArtifactError


def test_a_missing_file_is_named_with_a_next_step(tmp_path):
    with pytest.raises(ArtifactError, match=r"nothing\.gguf") as caught:
        convert.convert(tmp_path / "nothing.gguf", tmp_path / "model")
    assert "make smol-model" in caught.value.next


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    with pytest.raises(ArtifactError, match=r"no model\.safetensors"):
        convert.convert(tmp_path / "weights.gguf", tmp_path / "model")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["notes.txt"]


def test_a_model_that_is_there_is_not_made_again(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    convert.convert(tmp_path / "nothing.gguf", tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == b"weights"


def test_a_conversion_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    def half(gguf, folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise OSError("disk full")

    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(convert, "_save", half)
    with pytest.raises(OSError, match="disk full"):
        convert.convert(tmp_path / "weights.gguf", tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["weights.gguf"]
