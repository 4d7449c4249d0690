# `make demo` and `make test` are the commands to start with. They need python3 (3.11 or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/demo
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
XDIST := -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo web-runtime face-embedding test test-fast test-torch test-browser test-benchmarks test-real \
  test-robustness lint docs format clean

help:
	@echo "make demo     build a synthetic data set, train, evaluate, and predict a video"
	@echo "make test     install and run all tests"
	@echo "make test-fast        no tests that compile a network, train, or start the program"
	@echo "make test-torch       tests that compare with PyTorch; installs torch, timm, transformers and open_clip"
	@echo "make test-browser     tests of the HTML pages in Chromium; installs playwright"
	@echo "make test-benchmarks  runs all benchmarks for GPUs and TPUs on this machine, with tiny sizes"
	@echo "make test-real REAL_VIDEOS=dir   training on your videos, at least four .mp4 or .mov files"
	@echo "make test-robustness  fuzzing and mutation testing; installs atheris and cosmic-ray"
	@echo "make web-runtime      ONNX Runtime Web for rdfer export --web, into your cache folder; needs npm"
	@echo "make face-embedding   the network that tells people apart, for predict.identities; needs npm"
	@echo "make install  create $(VENV) and install rdfer_jax"
	@echo "make lint     check format, lint and types"
	@echo "make docs     build the documentation site into site/; warnings are errors"
	@echo "make format   format the code"
	@echo "make clean    remove $(VENV), runs/ and tfds/"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "rdfer_jax needs python3 3.11 or newer; " + sys.executable + " is %d.%d. Choose another one: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

demo: install
	$(BIN)/rdfer train --config=synthetic --workdir=$(WORKDIR)
	$(BIN)/rdfer eval --config=synthetic --workdir=$(WORKDIR)
	$(BIN)/rdfer report --workdir=$(WORKDIR)
	$(BIN)/python -m data.synthetic_faces.film --output=$(WORKDIR)/film.mp4
	$(BIN)/rdfer predict --workdir=$(WORKDIR) --input=$(WORKDIR)/film.mp4
	@echo
	@echo "Done. The report is $(WORKDIR)/report.html, the predicted video is in $(WORKDIR)/predict."
	@echo "Next, predict one of your own videos:"
	@echo "  $(BIN)/rdfer predict --workdir=$(WORKDIR) --input=my_video.mp4"
	@echo "or train on your own videos, sorted into my_videos/CLASS/:"
	@echo "  $(BIN)/rdfer build --config=video_folder --config.build.source_dir=my_videos"
	@echo "  $(BIN)/rdfer train --config=video_folder --workdir=runs/mine"

web-runtime: install
	@$(BIN)/python -c 'from rdfer_jax.web import runtime; print(runtime.PACKAGE.fetch_command())' | sh -ex

face-embedding: install
	@$(BIN)/python -c 'from rdfer_jax.predict import embedding; print(embedding.PACKAGE.fetch_command())' | sh -ex

# Markers: `e2e` starts the program, or Python with JAX, in a process of its own; `slow` compiles a whole
# network or training step, trains, or takes seconds. `make test-fast` leaves both out.
test: install-dev
	$(BIN)/python -m pytest $(XDIST)

test-fast: install-dev
	$(BIN)/python -m pytest $(XDIST) -m "not slow and not e2e"

test-torch: install-dev
	$(PIP_INSTALL) -e '.[dev,torch-networks]'
	$(BIN)/python -m pytest -m torch

# Chromium comes from the system: `apt install chromium`, or its path in the variable CHROMIUM. Without
# it, all of these tests are skipped and the command fails. Those that run a network need `make web-runtime`.
test-browser: install-dev
	$(PIP_INSTALL) -e '.[dev,browser]'
	$(BIN)/python -m pytest -m browser

test-benchmarks: install-dev
	$(BIN)/python -m benchmarks.all_gpu --tiny --output=runs/all_gpu_tiny
	$(BIN)/python -m benchmarks.all_tpu --tiny --output=runs/all_tpu_tiny

test-real: install-dev
	@test -d "$(REAL_VIDEOS)" || { echo "usage: make test-real REAL_VIDEOS=folder_of_videos"; exit 1; }
	REAL_VIDEOS="$(abspath $(REAL_VIDEOS))" $(BIN)/python -m pytest -m real

test-robustness: install-dev
	$(PIP_INSTALL) -e '.[dev,robustness]'
	$(BIN)/python -m pytest tests/robustness
	$(BIN)/python -m tests.robustness.fuzz --inputs=10000
	$(BIN)/python -m tests.robustness.mutations

lint: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@ $(VENV)/.installed

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: install-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs tfds site build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
