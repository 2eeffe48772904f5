# Each target makes .venv with all that it needs when there is none.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-slow soak lint format notebooks docs bench

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

train: .venv/installed
	$(BIN)/python scripts/train.py --out runs/mnist_sample $(ARGS)

test: .venv/installed
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 $(ARGS)

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow $(ARGS)

soak: .venv/installed
	$(BIN)/python -m pytest -m slow -s tests/test_resume.py $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

notebooks: .venv/installed
	$(BIN)/python scripts/notebooks.py $(ARGS)

docs: .venv/installed
	$(BIN)/python -m sphinx -W --keep-going -q -c docs . build/docs

bench: .venv/installed
	$(BIN)/python scripts/benchmark.py $(ARGS)
