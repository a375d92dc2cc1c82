"""t."""
import textwrap
from types import SimpleNamespace
import pytest


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A working folder with one small recipe `base`, a source, a task and a format of its own."""
    for folder in ("recipes", "sweeps"):
        (tmp_path / folder).mkdir()
    write = lambda name, text: (tmp_path / name).write_text(textwrap.dedent(text))  # noqa: E731
    write("recipes/source.py", "def made(*, num=3, seed=0):\n    yield from ()\n")
    write("recipes/format.yaml", "thinking_start: '<think>'\nthinking_end: '</think>'\n")
    write("recipes/quiz.yaml", "source: './source.py:made'\nprompt: '{question}'\ngrader: exact\n")
    write(
        "recipes/base.yaml",
        """
        model: org/model@abc
        format: ./format.yaml
        data: {source: './source.py:made'}
        train: {lr: 1e-4}
        generate: {tasks: [./quiz.yaml], max_tokens: 64, answer_tokens: 8, thinking: {max: auto}}
        resources: {train: {gpus: 16, gpu: h100}}
        """,
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HPC_DATA_DIR", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    tmp_path_write = SimpleNamespace(path=tmp_path, write=write)
    return tmp_path_write
