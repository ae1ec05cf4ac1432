# make demo   label a real CT and show the result            make demo CT=my_scan.nii.gz
# make test   ruff, mypy and all tests
# make bench  measure speed and memory
# make gpu-check  check everything on a GPU, if there is one: eight minutes, nothing is installed
#
# Each sets up .venv first, if it is missing or out of date. Options and their defaults:
PYTHON ?= python3
# Index for torch besides PyPI: without an NVIDIA GPU the CPU builds, since PyPI's Linux builds include gigabytes of CUDA.
# `make TORCH_INDEX=` takes PyPI's.
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi),,https://download.pytorch.org/whl/cpu)
# Threads of torch and numpy: as many as this process has CPUs. Waiting threads sleep, so that others can work.
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)
export OMP_WAIT_POLICY ?= PASSIVE

# Processes that run the tests, one file at a time, on one thread each.
PROCESSES ?= 2

VENV := .venv
RUN := $(VENV)/bin/python -m
# Named after this folder: a checkout that was moved needs a new environment.
READY := $(VENV)/.ready-$(shell pwd | cksum | cut -d' ' -f1)

.PHONY: help setup demo test bench gpu-check
help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile | head -4

demo: $(READY)
	@$(RUN) cardiacldm_training.demo $(if $(CT),--ct "$(CT)")

test: $(READY)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	OMP_NUM_THREADS=1 $(RUN) pytest -q -n $(PROCESSES) --dist loadfile

bench: $(READY)
	$(VENV)/bin/python tests/benchmarks/bench_segment.py $(ARGS)
	$(VENV)/bin/python tests/benchmarks/bench_worker.py
	$(VENV)/bin/python tests/benchmarks/bench_cohort.py

# With the Python that is there, or that of .venv if only its torch sees the GPU. WHEELS: a folder of wheels that it lacks.
gpu-check:
	@$(PYTHON) tests/benchmarks/gpu_check.py $(if $(WHEELS),--wheels "$(WHEELS)") $(ARGS)

setup: $(READY)
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed: install it, or name one with 'make PYTHON=...'."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is needed: sudo apt install python3-venv"; exit 1; }
	@echo "Setting up $(VENV): some minutes and 3 GB."
	@$(RUN) pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $(VENV)/.ready-*
	$(RUN) pip install -q --disable-pip-version-check --no-deps --retries 1 --timeout 30 -c constraints.txt \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(RUN) pip install -q --disable-pip-version-check -c constraints.txt -e ".[demo,test]"
	@touch $@
