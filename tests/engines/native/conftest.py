"""Tests of native kernels need the compiled library, and run with the libraries of both levels where they say so."""

import pytest
from helpers import native

from gpukmeans.engines.native import library


@pytest.fixture(autouse=True)
def _native():
    native.require_native()


@pytest.fixture(params=native.LEVELS)
def each_library(request, monkeypatch):
    """The library of each level that this CPU runs. Kernels that are called in the test are those of it."""
    if not native.runs_here(request.param):
        pytest.skip("this CPU does not run x86-64-v3")
    loaded = library.Library(native.FOLDER / native.LEVELS[request.param])
    monkeypatch.setattr(library, "_load_once", lambda: loaded)
    return loaded
