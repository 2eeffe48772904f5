# Each target creates .venv if there is none.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-slow soak lint format notebooks docs bench

# Each target installs the extra that it needs; training needs none of them.
.venv/installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.$(filter-out [package],[$*])'
	touch $@

train: .venv/installed-package
	$(BIN)/python scripts/train.py --out runs/mnist_sample $(ARGS)

test: .venv/installed-test
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 $(ARGS)

test-slow: .venv/installed-test
	$(BIN)/python -m pytest -m slow $(ARGS)

soak: .venv/installed-test
	$(BIN)/python -m pytest -m slow -s tests/test_resume.py $(ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: .venv/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

notebooks: .venv/installed-dev
	$(BIN)/python scripts/notebooks.py $(ARGS)

docs: .venv/installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -c docs . build # its first page is docs/index, so build/docs/index.html

bench: .venv/installed-package
	$(BIN)/python scripts/benchmark.py $(ARGS)
