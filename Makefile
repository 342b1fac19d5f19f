# `make demo` and `make test` do all their own set-up in .venv; `make lint` and `make bench` likewise.
PYTHON ?= python3
SEEDS ?= 3
BIN := .venv/bin

.PHONY: demo test test-browser test-notebook test-faults test-install test-slurm test-parity gpu lint bench bench-scripts pictures
demo: .venv/installed
	$(BIN)/kinegraph demo --seeds $(SEEDS)

# In two processes more than there are cores, up to four, each on one thread; the tests of one file share what they set up.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

# SIGKILL at 100 random moments on both stores, and tables of faults in full; takes minutes. FAULTS_SEED=n repeats the
# moments that it printed.
test-faults: .venv/installed
	$(BIN)/pytest -m faults -s

# Opens the pages that kinegraph makes in a headless Chromium: Debian's, from PATH, or the one that KINEGRAPH_CHROMIUM
# names. Skips, with the reason, without one. KINEGRAPH_SCREENSHOTS=FOLDER keeps pictures of the pages.
test-browser: .venv/installed
	$(BIN)/pytest -m browser tests/browser

# Runs the notebook of examples/ from the first cell to the last, in a kernel of its own.
test-notebook: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -m notebook tests/test_notebook.py

# Installs a wheel and this checkout into clean environments and runs them beside modules of a user.
test-install: .venv/installed
	$(BIN)/pytest -m install tests/test_installed.py

# Compares with detectron2, which docs/networks.md says how to build; skips, with the reason, where it is not installed.
test-parity: .venv/installed
	$(BIN)/pytest -m parity tests/stages/proposals

# Needs root and Debian's slurm-wlm and munge; skips, with the reason, where they cannot be started.
test-slurm: .venv/installed
	$(BIN)/pytest -m slurm tests/pipeline/extraction/executors

# What needs a GPU, in parts of at most 8 minutes, and one table. `make gpu PYTHON=python3` installs nothing: it takes the
# packages of that Python, and says which parts are left out for want of one.
GPU_IN_PLACE := $(filter command line,$(origin PYTHON))
gpu: $(if $(GPU_IN_PLACE),,.venv/installed)
	$(if $(GPU_IN_PLACE),$(PYTHON),$(BIN)/python) -m tests.gpu

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Measures whole extractions and stores, and writes docs/benchmarks.md: 20 minutes on two quiet cores. OPTIONS=--quick
# shows in two minutes that it runs, and OPTIONS='--device cuda --clips 256' measures a GPU.
bench: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt torchcodec || echo "torchcodec is left out"
	$(BIN)/python -m benchmarks.extraction --json benchmarks/measured/extraction.json $(OPTIONS)
	$(BIN)/python -m benchmarks.stores --json benchmarks/measured/stores.json $(filter --quick,$(OPTIONS))
	$(BIN)/python -m benchmarks.render

# All other scripts, which print the ratios behind the claims about speed.
SCRIPTS := $(filter-out results render simulation extraction stores resizing,$(basename $(notdir $(wildcard benchmarks/*.py))))
bench-scripts: .venv/installed
	for script in $(SCRIPTS); do $(BIN)/python -m benchmarks.$$script || exit 1; done

# Makes the pictures of README.md anew, from videos that it generates.
pictures: .venv/installed
	$(BIN)/python docs/pictures.py

# Known-good versions: what CI runs on. `pip install kinegraph` alone takes any that pyproject.toml allows.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
