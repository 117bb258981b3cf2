# Two commands: `make demo` and `make test`. Each does all its own set-up, once, into .venv/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint docs settings-tables clean help
help:
	@echo "make demo   distil a handwritten-digit teacher into a small student, without its data, and look at the result"
	@echo "make test   run the tests"
	@echo "make lint   style and types"
	@echo "make docs   build the documentation into docs/_build/html"
	@echo "make settings-tables   write the tables of settings in docs/methods/ from the methods themselves"
	@echo "make clean  remove the virtual environment"

# The marker is written last, so an interrupted installation is taken up again.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dreamstill needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": call make with PYTHON=python3.12, say")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked requirements into $(VENV)/ (a few minutes, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

test: $(READY)
	$(BIN)/python -m pytest -n 2 $(TESTARGS)

demo: $(READY)
	$(BIN)/dreamstill demo $(DEMOARGS)

lint: $(READY)
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy

# Every warning is an error: a link that leads nowhere, a page in no list, a docstring that cannot be read.
docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"
settings-tables: $(READY)
	$(BIN)/python docs/settings_tables.py

clean:
	rm -rf $(VENV)
