# The two commands of a newcomer: `make demo` and `make test`. Needs python3 (3.11 or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test lint format clean

help:
	@echo "make demo     build the synthetic data set, train on it, evaluate, predict a film"
	@echo "make test     install and run the tests"
	@echo "make install  create $(VENV) and install rdfer_jax"
	@echo "make lint     check format, lint and types"
	@echo "make format   format the code"
	@echo "make clean    remove $(VENV), runs/ and tfds/"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "rdfer_jax needs python3 3.11 or newer; " + sys.executable + " is %d.%d. Name another: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

demo: install
	$(BIN)/python -m rdfer_jax.main --config=configs/synthetic.py --workdir=$(WORKDIR)
	$(BIN)/python -m rdfer_jax.main --config=configs/synthetic.py --workdir=$(WORKDIR) --mode=eval
	$(BIN)/python -m rdfer_jax.main --workdir=$(WORKDIR) --mode=report
	$(BIN)/python -m data.synthetic_faces.film --output=$(WORKDIR)/film.mp4
	$(BIN)/python -m rdfer_jax.main --workdir=$(WORKDIR) --mode=predict --input=$(WORKDIR)/film.mp4

test: install-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs tfds build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
