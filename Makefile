# make demo         the comparison on digits, with a report
# make test         the tests, without the longest (about five minutes on two cores)
# make test-all     all tests; with MINUTES=30, those that were begun by then
# make lint         ruff and mypy; `make format` mends what can be mended
# make docs         the documentation, in docs/_build/html
# make snippets     runs the Python of README and documentation
# make check-wheel  builds the package, and uses it in an empty environment with the core's three packages alone
# make bench        what a step costs under each rule, beside plain torch
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv where there is one: it installs several times as fast as pip. It does not read pip's variables.
UV := $(shell command -v uv)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
venv = $(if $(UV),uv venv --quiet --clear --python $(PYTHON),$(PYTHON) -m venv) $(1)
install = $(if $(UV),uv pip install --python $(1)/bin/python,$(1)/bin/pip install --disable-pip-version-check) --quiet --constraint constraints.txt
# torch first and by its exact version: left to a range, the newest build brings gigabytes of CUDA libraries.
TORCH := $(shell grep '^torch==' constraints.txt)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: demo test test-all lint format docs snippets check-wheel bench clean

demo: $(VENV)/.runtime
	$(BIN)/backroads compare

test: $(VENV)/.development
	$(PYTEST)

test-all: $(VENV)/.development
	$(PYTEST) -m "" $(if $(MINUTES),--minutes $(MINUTES))

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.development
	$(BIN)/sphinx-build --fail-on-warning --fresh-env --builder html docs docs/_build/html

snippets: $(VENV)/.development
	$(BIN)/python docs/run_snippets.py

check-wheel: $(VENV)/.development
	rm -rf build dist $(VENV)/empty
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(call venv,$(VENV)/empty)
	$(call install,$(VENV)/empty) $(TORCH)
	$(call install,$(VENV)/empty) dist/*.whl
	$(VENV)/empty/bin/python tests/core_only.py
	$(VENV)/empty/bin/backroads; test $$? -eq 2

bench: $(VENV)/.runtime
	$(BIN)/python benchmarks/step_time.py

clean:
	rm -rf $(VENV) docs/_build build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	$(call venv,$(VENV))
	$(call install,$(VENV)) $(TORCH)
	touch $@

$(VENV)/.runtime: $(VENV)/.torch pyproject.toml
	$(call install,$(VENV)) --editable ".[all]"
	touch $@

$(VENV)/.development: $(VENV)/.torch pyproject.toml
	$(call install,$(VENV)) --editable ".[dev]"
	touch $@ $(VENV)/.runtime
