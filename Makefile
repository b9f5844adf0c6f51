PYTHON ?= python3
export IMAGE ?=
COLORS ?= 20

BIN := .venv/bin
HAS_BROWSER := command -v chromium >/dev/null && command -v chromedriver >/dev/null

# Prints the folder of packages that holds the torch of $(PYTHON), unless that torch is too old or in .venv. The script
# does not import torch.
define FIND_TORCH
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

spec = find_spec("torch")
least = re.search(r'"torch>=([0-9.]+)"', Path("pyproject.toml").read_text())[1]
numbers = lambda text: [int(number) for number in re.findall("[0-9]+", text)[:2]]
if spec is not None and spec.origin is not None and numbers(version("torch")) >= numbers(least):
    packages = Path(spec.origin).resolve().parents[1]
    if not packages.is_relative_to(Path(".venv").resolve()):
        print(packages)
endef
export FIND_TORCH

# Tests of all layers that take under a minute together on two cores.
QUICK := $(addprefix tests/, \
	test_architecture.py test_checkpoints.py test_distance.py test_fixed_point.py test_lloyd.py \
	test_metrics.py test_moments.py test_public_api.py test_textbook.py test_tiling.py test_validation.py \
	engines/test_matmul.py engines/test_selection.py points/test_stats.py points/test_tensor.py \
	images/test_colorspace.py images/test_histogram.py images/test_indexed.py images/test_quantization.py \
	cli/formats/test_palette_files.py cli/formats/test_png_chunks.py cli/formats/test_reading.py cli/formats/test_still.py \
	cli/compression/test_plan.py cli/commands/test_palette.py cli/terminal cli/test_options.py cli/test_validation.py)

# Tests of the selection and use of engines, which must also pass without native kernels.
PURE := $(addprefix tests/, engines/native engines/test_selection.py engines/test_matmul.py images/test_quantization.py \
	cli/commands/test_palette.py)

.PHONY: demo native test quick browser aarch64 docs picture report tutorial clean

# Everything below runs in .venv. It is made again when pyproject.toml or constraints.txt changes. .venv/running exists
# when the packages of the command are installed, .venv/installed when those of the tests and docs are, too.
.venv/running: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@packages=$$($(PYTHON) -c "$$FIND_TORCH") && \
	if [ -n "$$packages" ]; then \
		echo "using the torch in $$packages"; \
		echo "$$packages" >"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth"; \
		sed '/^torch==/d' constraints.txt >.venv/constraints.txt; \
	else \
		echo 'installing into .venv, which takes minutes: torch is hundreds of megabytes'; \
		cp constraints.txt .venv/constraints.txt; \
	fi
	$(BIN)/python -m pip install --quiet --constraint .venv/constraints.txt --editable .
	touch $@

.venv/installed: .venv/running
	$(BIN)/python -m pip install --quiet --constraint .venv/constraints.txt --editable '.[dev,docs]'
	touch $@

# The native kernels, compiled again when their sources, hatch_build.py, CC or GPUKMEANS_NATIVE have changed. Without a
# compiler, a warning is printed.
native: .venv/running
	@$(BIN)/python hatch_build.py

demo: native
	$(BIN)/gpukmeans demo --colors $(COLORS) $(if $(IMAGE),"$$IMAGE")

# Without Chromium, tests that need it are skipped, or fail if REQUIRE_BROWSER is set.
test: .venv/installed native
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m basedpyright
	$(BIN)/python -c 'from importlinter.cli import lint_imports_command as run; run()' --no-logo
	$(BIN)/python -m pytest -q -n 2
	GPUKMEANS_NATIVE=0 $(BIN)/python -m pytest -q -n 2 $(PURE)

quick: .venv/installed native
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pytest -q -n 2 $(QUICK)

# Installs Chromium from Debian where it is missing, which needs root.
browser:
	@if { $(HAS_BROWSER); }; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo 'chromium and chromedriver are missing; install them, or run `make browser` as root on Debian' >&2; exit 1; \
	fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core >/dev/null

# The tests of the kernels on an emulated aarch64 CPU, with the Python and NumPy of Debian. If the emulator or compiler
# is missing, both are installed from Debian, which needs root.
aarch64: .venv/installed native
	@command -v qemu-aarch64-static >/dev/null && command -v aarch64-linux-gnu-gcc >/dev/null || \
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends qemu-user-static gcc-aarch64-linux-gnu \
	libc6-dev-arm64-cross >/dev/null; }
	scripts/aarch64_root.sh build/aarch64
	GPUKMEANS_AARCH64=$(CURDIR)/build/aarch64/root $(BIN)/python -m pytest -q -n 2 -k aarch64 tests/engines/native

# The documentation as a site in build/site, without network. The search needs a server: `python -m http.server`.
docs: .venv/installed
	$(BIN)/python -m mkdocs build

# docs/comparison.png, the picture of the README.
picture: .venv/installed
	$(BIN)/python scripts/readme_picture.py

# docs/report.html and docs/report.png, the example in docs/cli.md.
report: .venv/installed browser
	$(BIN)/python scripts/readme_report.py

# The pictures of docs/tutorial.md, and the notebook with the same text and code.
tutorial: .venv/installed native
	$(BIN)/python scripts/tutorial.py

clean:
	rm -rf .venv demo build dist .pytest_cache .ruff_cache .hypothesis gpukmeans/engines/native/_kernels*
