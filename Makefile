# `make demo` and `make test`: each does all its own set-up, once, into .venv/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# TORCH=cpu takes PyTorch from its index of CPU builds and no CUDA libraries, which spares Linux some 6 GB; on macOS the
# locked build is one. What was chosen once stays, until `make clean`.
TORCH ?= $(patsubst $(VENV)/.ready-%,%,$(wildcard $(VENV)/.ready-cpu))
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
READY := $(VENV)/.ready$(TORCH:%=-%)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

ifneq ($(filter-out cpu,$(TORCH)),)
$(error TORCH is $(TORCH): write TORCH=cpu, or leave it out for the locked build)
endif

.PHONY: demo test test-fast lint docs settings-tables release-check clean help
help:
	@echo "make demo           distil a handwritten-digit teacher into a small student, without its data, and look at the result"
	@echo "make test           run the tests"
	@echo "make test-fast      the tests without the slow ones and those of the documentation"
	@echo "make lint           style and types"
	@echo "make docs           build the documentation into docs/_build/html"
	@echo "make settings-tables  write the tables of settings in docs/methods/ from the methods themselves"
	@echo "make release-check  build the release, install it in a fresh environment, run the demo from it"
	@echo "make clean          remove the virtual environment and what was built"
	@echo "On Linux without a GPU, make demo TORCH=cpu (once) leaves out the CUDA libraries."

# The marker is written last, so an interrupted installation is taken up again.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dreamstill needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": call make with PYTHON=python3.12, say")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked requirements into $(VENV)/ (a few minutes, once)"
ifeq ($(TORCH),cpu)
	@awk '/^[a-z0-9]/ {kept = !/^((torch|torchvision|triton)==|nvidia-|cuda-)/} kept' requirements.lock > $(VENV)/cpu.lock
	@$(PIP) --no-deps --index-url $(TORCH_INDEX) $$(grep -oE '^(torch|torchvision)==[0-9.]+' requirements.lock)
	@$(PIP) --no-deps --require-hashes -r $(VENV)/cpu.lock
	@$(BIN)/python -m pip check
else
	@$(PIP) --require-hashes -r requirements.lock
endif
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $(READY)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(TESTARGS)

test-fast: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow" --ignore tests/test_docs.py $(TESTARGS)

demo: $(READY)
	$(BIN)/dreamstill demo $(DEMOARGS)

lint: $(READY)
	$(BIN)/ruff check src tests benchmarks docs examples
	$(BIN)/ruff format --check src tests benchmarks docs examples
	$(BIN)/mypy

# Every warning is an error: a link that leads nowhere, a page in no list, a docstring that cannot be read.
docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

settings-tables: $(READY)
	$(BIN)/python docs/settings_tables.py

# What a release would be, where nothing of this folder is in reach. The fresh environment borrows the locked libraries,
# so pip, without an index, takes only what they satisfy.
release-check: $(READY)
	rm -rf build dist
	$(BIN)/python -m venv build/tools
	build/tools/bin/python -m pip install --quiet --disable-pip-version-check build twine
	build/tools/bin/python -m build --outdir dist .
	build/tools/bin/twine check --strict dist/*
	$(BIN)/python -m venv build/fresh
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$(echo build/fresh/lib/python3.*/site-packages)/locked.pth
	build/fresh/bin/python -m pip install --quiet --disable-pip-version-check --no-index "$$(echo dist/*.whl)[all]"
	cd build && fresh/bin/python -c 'import dreamstill; print(dreamstill.__version__, dreamstill.__file__); assert "/build/fresh/" in dreamstill.__file__'
	cd build && fresh/bin/dreamstill demo --out demo $(DEMOARGS)
	test -s build/demo/student.onnx && test -s build/demo/report.html

clean:
	rm -rf $(VENV) build dist docs/_build
