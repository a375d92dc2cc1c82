"""`hpc show RECIPE --example N`: the text is what is trained, divided where the loss begins and where reading ends."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from hpc import files
from hpc.errors import StageError
from hpc.formats import completion_text, prompt_text, read_format
from hpc.plan.graph import Graph
from hpc.recipe import sweep as sweeps
from hpc.records import Example
from hpc.train import example, text

HOME = Path(__file__).parents[2]
TRACES = "{name: s1k, file: s1k_traces_5.parquet, thinking: gemini_thinking_trajectory, answer: gemini_attempt}"


@pytest.fixture
def qwen(tmp_path):
    """A model folder with Qwen's tokenizer, and a configuration instead of weights."""
    place = Path(os.environ.get("HPC_DATA_DIR", "nowhere"))
    if not (place / "tokenizer_qwen").is_dir() or not (place / "s1k_traces_5.parquet").is_file():
        pytest.skip("needs tokenizer_qwen and s1k_traces_5.parquet in HPC_DATA_DIR")
    folder = tmp_path / "model"
    shutil.copytree(place / "tokenizer_qwen", folder)
    shutil.copy(HOME / "recipes/mini_model/config.json", folder)
    return folder


def s1(model, *overrides):
    return sweeps.load("s1_32b", [f"model={model}", f"data.source={TRACES}", *overrides])


def trained_from(model, number):
    """(tokenizer, format, example) that stage `train` would have."""
    from hpc.data import registry

    tokenizer = text.load_tokenizer(text.ModelReference(str(model)))
    run, graph = s1(model).runs[0], Graph()
    stage = graph.stages[graph.add(run.base, run.recipe, run.seeds, "here").train]
    return tokenizer, read_format(**stage.what["format"]), registry.load(yaml.safe_load(TRACES))[number]


def test_the_pieces_are_the_text_that_is_trained_and_the_end_of_turn_is_trained(qwen):
    found = example.view(s1(qwen), 0, [])
    tokenizer, form, first = trained_from(qwen, 0)
    prompt, start = prompt_text(tokenizer, first.question.strip(), form)
    assert found.prompt == prompt and found.prompt_tokens == len(tokenizer(prompt)["input_ids"])
    assert found.trained == start + completion_text(form, first, "<|im_end|>")
    assert found.trained.endswith("<|im_end|>") and found.trained.count("<|im_end|>") == 1
    assert found.cut == "" and found.cut_tokens == 0 and "source" in found.notes[0]


def test_the_loss_of_a_training_row_lies_on_exactly_the_trained_piece(qwen):
    pytest.importorskip("torch")
    from hpc.train.batches import lay

    found, whole = example.view(s1(qwen, "train.max_tokens=900"), 1, []), example.view(s1(qwen), 1, [])
    tokenizer, form, second = trained_from(qwen, 1)
    (rendered,), counts = text.render_all([second], tokenizer, form, max_tokens=900, overlong="cut")
    row = lay([(rendered, 1.0)], 1, 0)
    learned = row.targets_N[row.weights_N != 0].tolist()
    assert tokenizer.decode(learned) == found.trained and len(learned) == found.trained_tokens
    assert found.prompt_tokens + found.trained_tokens == 900 and counts["cut"] == 1
    assert found.trained + found.cut == whole.trained
    assert found.trained_tokens + found.cut_tokens == whole.trained_tokens


def test_overlong_examples_say_that_they_are_dropped(qwen):
    dropped = example.view(s1(qwen, "train.max_tokens=900", "train.overlong=drop"), 1, [])
    assert any("dropped" in note and "900" in note for note in dropped.notes)
    filled = example.view(s1(qwen, "train.max_tokens=20"), 1, [])
    assert any("prompt alone" in note for note in filled.notes) and filled.trained_tokens == 0


def test_colours_on_a_terminal_and_markers_elsewhere(qwen):
    found = example.view(s1(qwen, "train.max_tokens=900"), 1, [])
    shown = {}
    for terminal in (True, False):
        out = io.StringIO()
        example.show(found, Console(file=out, force_terminal=terminal, color_system="standard" if terminal else None))
        shown[terminal] = out.getvalue()
    assert "\x1b[2m<|im_start|>user" in shown[True] and "\x1b[9;31m" in shown[True] and "[[" not in shown[True]
    body = f"[[prompt]]{found.prompt}[[trained]]{found.trained}[[cut]]{found.cut}"
    assert body in shown[False] and "\x1b" not in shown[False]
    assert "trained: 842 tokens" in shown[False] and "cut: 4,295 tokens" in shown[False]


def test_published_data_goes_before_the_source(tmp_path, monkeypatch):
    monkeypatch.chdir(HOME)
    sweep = sweeps.load("mini_base", [])
    graph = Graph()
    key = graph.add("mini_base", sweep.runs[0].recipe, sweep.runs[0].seeds, sweep.path).data
    folder = tmp_path / "artifacts/data" / key
    rows = [Example(str(n), f"mod 100: 4 a + {n}", "", f"4 a + {n} = {4 + n}", "made").row() for n in range(3)]
    files.write_jsonl(folder / "examples.jsonl", rows)
    files.write_json(folder / "DONE", {})
    found = example.view(sweep, 2, [tmp_path])
    assert found.id == "2" and str(folder) in found.where and not found.notes
    with pytest.raises(StageError) as error:
        example.view(sweep, 3, [tmp_path])
    assert "3 examples" in error.value.why and "--example 2" in error.value.next


def test_what_is_not_at_hand_is_named_with_the_next_command(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(StageError) as error:
        example.view(sweeps.load("s1_32b", []), 0, [tmp_path])
    assert "Qwen/Qwen2.5-32B-Instruct" in error.value.why and "simplescaling/s1K" in error.value.why
    assert error.value.next.startswith("hpc fetch")
    with pytest.raises(StageError, match="nothing is trained"):
        example.view(sweeps.load("eval_s1_32b", []), 0, [tmp_path])


def test_data_from_another_run_waits_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(HOME)
    sweep = sweeps.load("mini", ["data.source=run:mini_base#generate.mini_pool"])
    with pytest.raises(StageError) as error:
        example.view(sweep, 0, [tmp_path])
    assert "run:mini_base#generate.mini_pool" in error.value.what and error.value.next.startswith("hpc submit")


def test_the_command_prints_one_example_and_needs_no_torch(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['hpc', 'show', 'mini', '--example', '3']\n"
        "from hpc import cli; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HOME,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(HOME), "HPC_ROOT": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "[[prompt]]<|im_start|>user" in done.stdout and "<|im_end|>, is trained" in done.stdout
