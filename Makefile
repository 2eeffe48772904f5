# Each target creates .venv if there is none.
PYTHON ?= python3
BIN := .venv/bin
# A file's tests stay together, since they share compiled programs and trained runs.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --durations 10

.PHONY: train test test-all soak lint format notebooks docs accelerators bench

# Each target installs the extra that it needs; training needs none. The extra dev includes the others.
.venv/installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.$(filter-out [package],[$*])'
	touch $@ .venv/installed-package $(if $(filter dev,$*),.venv/installed-test .venv/installed-docs)

train: .venv/installed-package
	$(BIN)/python scripts/train.py --out runs/mnist_sample $(ARGS)

test: .venv/installed-test
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL) $(ARGS)

test-all: .venv/installed-test
	$(BIN)/python -m pytest -m "not soak" $(PARALLEL) $(ARGS)

soak: .venv/installed-test
	$(BIN)/python -m pytest -m soak -s $(ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: .venv/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

notebooks: .venv/installed-dev
	$(BIN)/python scripts/notebooks.py $(ARGS)

# The source is the root of the project, so the page docs/index becomes build/docs/index.html.
docs: .venv/installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -c docs . build

# The compilers for TPUs and NVIDIA GPUs need no device, but 4 GB of disk; they get their own environment.
accelerators: .venv-accelerators/installed
	JAX_PLATFORMS=cpu .venv-accelerators/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup tests/test_accelerators.py
	.venv-accelerators/bin/python scripts/accelerators.py v5e
	.venv-accelerators/bin/python scripts/accelerators.py h100

.venv-accelerators/installed: pyproject.toml
	test -x .venv-accelerators/bin/python || $(PYTHON) -m venv .venv-accelerators
	.venv-accelerators/bin/python -m pip install --quiet --editable '.[aot,cuda13,test]'
	touch $@

bench: .venv/installed-package
	$(BIN)/python scripts/benchmark $(ARGS)
