PYTHON ?= python3
IMAGE ?=
COLORS ?= 20

BIN := .venv/bin
HAS_BROWSER := command -v chromium >/dev/null && command -v chromedriver >/dev/null

.PHONY: demo picture report browser test clean

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

# docs/report.html and docs/report.png, which the README shows; wants a browser.
report: .venv/installed browser
	$(BIN)/python scripts/readme_report.py

# Chromium for the tests of reports, from Debian where that may be asked, once; without it they are skipped.
browser: .venv/browser-tried
	@{ $(HAS_BROWSER); } || echo 'no chromium with chromedriver: tests in a browser are skipped'

.venv/browser-tried: .venv/installed
	@if ! { $(HAS_BROWSER); } && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo 'installing chromium for tests in a browser'; export DEBIAN_FRONTEND=noninteractive; \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core; \
		} >/dev/null 2>&1 || true; \
	fi
	@touch $@

test: .venv/installed browser
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q -n 2

clean:
	rm -rf .venv demo build dist .pytest_cache .ruff_cache .hypothesis
