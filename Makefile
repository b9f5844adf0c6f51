PYTHON ?= python3
IMAGE ?=
COLORS ?= 20

BIN := .venv/bin

.PHONY: demo picture test clean

# Everything below runs in .venv, made once and again when what it is made from changes.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/gpukmeans demo --colors $(COLORS) $(if $(IMAGE),'$(IMAGE)')

# docs/picture.png, which the README shows.
picture: .venv/installed
	$(BIN)/python scripts/readme_picture.py

test: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/python -m pytest -q -n 2

clean:
	rm -rf .venv demo build dist .pytest_cache .ruff_cache .hypothesis
