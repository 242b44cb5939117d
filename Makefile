# make demo: a story from the simulated device.  make test: everything that CI runs.
# make reports: builds the bitstream of every board and writes docs/boards.md (hours; only what changed is built).
# All set up a virtual environment in .venv with the versions of requirements.lock.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROMPT ?= Once upon a time there was a little rabbit

.PHONY: demo test reports lint types clean help

help:
	@sed -n '1,3s/^# //p' Makefile

demo: $(VENV)/.demo
	@$(BIN)/ternlight generate "$(PROMPT)" --tokens 200 --seed 3

test: lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 10

reports: $(VENV)/.fpga
	$(BIN)/ternlight build --all --report-dir docs/reports/boards
	$(BIN)/python -m ternlight_boards.report docs/reports/boards > docs/boards.md.part
	mv docs/boards.md.part docs/boards.md

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.test
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ternlight needs Python 3.11 or newer: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "Python's venv module is missing (Debian: apt install python3-venv)"; exit 1; }

$(VENV)/.demo: $(BIN)/python requirements.lock pyproject.toml
	@echo "installing ternlight into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[sim]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "installing the development tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[ecp5,dev,train]'
	@touch $@

$(VENV)/.fpga: $(VENV)/.demo
	@echo "installing the FPGA tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[fpga]'
	@touch $@
