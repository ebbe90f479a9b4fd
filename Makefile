# make demo    the comparison on digits, with a report
# make test    the whole suite
# make lint    ruff and mypy
# make docs    the documentation, in docs/_build/html
# make bench   what a step costs under each rule, beside plain torch
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-slow lint format docs bench clean

demo: $(VENV)/.runtime
	$(BIN)/backroads compare

test: $(VENV)/.development
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-slow: $(VENV)/.development
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --run-slow

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.development
	$(BIN)/sphinx-build --fail-on-warning --builder html docs docs/_build/html

bench: $(VENV)/.runtime
	$(BIN)/python benchmarks/step_time.py

clean:
	rm -rf $(VENV) docs/_build build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch first and by its exact version: left to a range, the newest build brings gigabytes of CUDA libraries.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	touch $@

$(VENV)/.runtime: $(VENV)/.torch pyproject.toml
	$(PIP) --editable .
	touch $@

$(VENV)/.development: $(VENV)/.torch pyproject.toml
	$(PIP) --editable ".[dev]"
	touch $@ $(VENV)/.runtime
