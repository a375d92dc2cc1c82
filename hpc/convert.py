"""Turn a GGUF model file into the folder that every stage reads: `python -m hpc.convert MODEL.gguf FOLDER`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from hpc.errors import ArtifactError


def convert(gguf: Path, folder: Path) -> None:
    """Unpack the quantized weights of `gguf` and save them in bf16 as safetensors, with config and tokenizer.

    `folder` appears complete or not at all. The weights keep the error of their quantization: converting changes
    the container, and gives back no precision.

    Raises:
        ArtifactError: `gguf` is missing, or `folder` exists and is something else than a model.
    """
    if (folder / "model.safetensors").exists():
        return
    _check(gguf, folder)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        _save(gguf, unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check(gguf: Path, folder: Path) -> None:
    if not gguf.is_file():
        raise ArtifactError(f"no GGUF file at {gguf}", next="give the path of a .gguf file, or run: make smol-model")
    if folder.exists():
        raise ArtifactError(
            f"{folder} exists and holds no model.safetensors", next="remove it, or name another output folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)


def _save(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        # Packed GGUF blocks can be neither trained nor saved.
        quantization_config=GgufConfig(dequantize=True),
    )
    model.config.name_or_path = gguf.stem
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Read the two arguments, convert, and end with 2 after an error that the user can mend."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m hpc.convert MODEL.gguf FOLDER")
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except ArtifactError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
