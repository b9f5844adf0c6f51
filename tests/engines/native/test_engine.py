import os
import subprocess
import sys

import pytest
import torch
from helpers import native
from helpers.kernel_calls import REPEAT

from gpukmeans import assign
from gpukmeans.engines.native import engine as module
from gpukmeans.engines.native.engine import NativeEngine


def test_points_that_are_no_plain_tensors_on_the_cpu_are_refused_with_a_reason():
    class Tagged(torch.Tensor):
        pass

    engine = NativeEngine()
    assert "on meta" in engine.unsupported_reason(torch.rand(5, 2, device="meta"))
    assert "Tagged" in engine.unsupported_reason(torch.rand(5, 2).as_subclass(Tagged))
    assert "up to 32768 coordinates, got 32769" in engine.unsupported_reason(torch.rand(1, 32769))
    reasons = torch.vmap(lambda x: x.new_zeros(()) + (engine.unsupported_reason(x) is not None))(torch.rand(3, 5, 2))
    assert reasons.tolist() == [1, 1, 1]
    assert engine.unsupported_reason(torch.nn.Parameter(torch.rand(5, 2))) is None


def test_centers_and_problems_that_do_not_fit_the_points_are_refused():
    bound = NativeEngine().bind(torch.rand(2, 5, 3), None)
    with pytest.raises(ValueError, match=r"float32 or float64 of shape \(1, K, 3\), got float32 of shape \(1, 4, 2\)"):
        bound.assign(torch.rand(1, 4, 2), [0])
    with pytest.raises(ValueError, match="problems must be from 0 to 1, got 0 to 2"):
        bound.assign(torch.rand(2, 4, 3), [0, 2])


def test_without_kernels_the_reason_is_that_of_the_library(monkeypatch):
    monkeypatch.setattr(module, "unavailable_reason", lambda: "they were not built")
    with pytest.raises(ValueError, match="engine 'native' cannot take these points: they were not built"):
        assign(torch.rand(5, 2), torch.rand(2, 2), engine="native")


def test_points_that_are_a_negated_view_are_read_as_their_values():
    x = torch.complex(torch.zeros(1, 5, 2), torch.rand(1, 5, 2)).conj().imag
    assert x.is_neg()
    found = NativeEngine().bind(x, None).assign(torch.full((1, 1, 2), -0.5), [0])
    assert torch.equal(
        found.sqdist, NativeEngine().bind(x.clone(), None).assign(torch.full((1, 1, 2), -0.5), [0]).sqdist
    )
    assert (found.sqdist < 0.5).all()


# Runs `kmeans` with the library of sys.argv[1], and compares it with the plain engine. With an eager engine small
# problems keep the state that large ones do.
_SANITIZED = """
import itertools, signal, sys, warnings
from pathlib import Path

sys.path[:0] = sys.argv[2:]
from gpukmeans.engines.native import library

loaded = library.Library(Path(sys.argv[1]))
library._load_once = lambda: loaded
import torch
from gpukmeans import kmeans, refinement
from gpukmeans.engines.native import engine as module

warnings.simplefilter("ignore")  # of empty clusters
torch.set_num_threads(2)
make = module._state_for
eager = lambda x, w, e: module.ManyCoordinates(x, w, keeps_from=0, bounds_from=2.0) if x.shape[2] > 8 else make(x, w, e)
native = module.NativeEngine(sorts_from=1)


def points(kind, n, width, seed):
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return {
        "normal": lambda: x,
        "double": lambda: x.double(),
        "far": lambda: x + 1e6,
        "huge": lambda: x * 1e16,
        "tiny": lambda: x * 1e-18,  # many squares are denormal
        "repeated": lambda: x[torch.arange(n) % 7 % n].round(),
        "bytes": lambda: (x * 40 + 128).clamp(0, 255).to(torch.uint8),
    }[kind]()


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("centers", "labels", "inertia"))


kinds = itertools.cycle(["normal", "double", "far", "huge", "tiny", "repeated", "bytes"])
for width in (1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 33, 128, 1000):
    for n in (1, 63, 64, 65, 300) if width < 128 else (1, 65):
        for n_clusters in sorted({1, 2, 15, 16, 17, min(n, 64)}):
            if n_clusters > n:
                continue
            kind = next(kinds)
            x = points(kind, n, width, n + n_clusters)
            rows = torch.arange(n)
            weights = None if kind == "far" else (rows % 3 + (rows < n_clusters)).double()
            options = {"weights": weights, "max_iter": 3, "tol": 0.0}
            module._state_for = eager if next(kinds) == "normal" else make
            expected = kmeans(x, n_clusters, engine="plain", **options)
            assert same(kmeans(x, n_clusters, engine=native, **options), expected), (width, n, n_clusters, kind)

takes = refinement.takes
for width in (1, 3, 8, 9, 33, 128):
    for n, n_clusters, n_fixed in ((1, 1, 0), (2, 1, 0), (63, 5, 4), (65, 64, 0), (130, 16, 1)):
        kind = next(kinds)
        centers = torch.stack([points(kind, n, width, seed).double() for seed in (n, n + 1)])
        totals = torch.arange(2.0 * n).view(2, n).double() % 4
        refinement.takes = takes
        found = refinement.merge(centers, totals, n_clusters, n_fixed)
        refinement.takes = lambda *tensors, dtype: False
        assert torch.equal(found, refinement.merge(centers, totals, n_clusters, n_fixed)), (width, n, kind)
refinement.takes = takes


def interrupt(number, frame):
    raise KeyboardInterrupt


signal.signal(signal.SIGALRM, interrupt)
module._state_for, n_interrupts = eager, 0
runs = [(points("normal", 30_000, width, 0), {"max_iter": 30, "tol": 0.0}) for width in (3, 32)]
for number in range(40):
    x, options = runs[number % 2]
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001 + 0.00175 * number)
        kmeans(x, 40, init="random", engine=native, **options)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        n_interrupts += 1
assert n_interrupts > 20, n_interrupts
for x, options in runs:
    options = {**options, "max_iter": 3}
    assert same(kmeans(x, 40, engine=native, **options), kmeans(x, 40, engine="plain", **options))
"""


@pytest.mark.parametrize("level", native.LEVELS)
def test_kernels_for_points_stay_in_their_memory_also_when_interrupted(level):
    native.run_sanitized(_SANITIZED, native.ROOT, level=level, timeout=300)


# Writes calls of kernels to sys.argv[1], with results that are those of the plain engine. A process of its own, without
# the type checks of tests, has few objects to look for memory in.
_RECORDED = """
import sys
from pathlib import Path

import torch
from gpukmeans import kmeans
from gpukmeans.engines.native import engine as module, library
from helpers import native
from helpers.kernel_calls import RecordingLibrary

torch.set_num_threads(1)
recording = RecordingLibrary(native.FOLDER / native.LEVELS["baseline"])
library._load_once = lambda: recording
make = module._state_for
eager = lambda x, w, e: module.ManyCoordinates(x, w, keeps_from=0, bounds_from=2.0) if x.shape[2] > 8 else make(x, w, e)
for dtype in (torch.float32, torch.float64):
    for width in (3, 33):
        for keeps in (False, True):
            module._state_for = eager if keeps else make
            x = torch.randn(100, width, generator=torch.Generator().manual_seed(1), dtype=dtype)
            weights = torch.arange(100) % 3 if keeps else None
            options = {"weights": weights, "init": x[:20], "max_iter": 3, "tol": 0.0}
            native_engine = module.NativeEngine(sorts_from=1 if keeps else 1000)
            found, expected = (kmeans(x, 20, engine=engine, **options) for engine in (native_engine, "plain"))
            assert torch.equal(found.labels, expected.labels) and torch.equal(found.inertia, expected.inertia)
            kmeans(x, 20, engine=native_engine, **options | {"init": "k-means++", "max_iter": 1})
recording.write(Path(sys.argv[1]))
"""


def test_kernels_for_points_have_the_same_results_on_aarch64(tmp_path):
    native.require_aarch64()
    path = os.pathsep.join(map(str, (native.ROOT, native.ROOT / "tests")))
    command = [sys.executable, "-W", "ignore", "-c", _RECORDED, tmp_path / "calls"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path})
    called = native.run_sanitized(REPEAT, tmp_path / "calls", level="aarch64", timeout=300)
    for name in ("many_assign", "many_runs", "many_add", "few_direct", "few_measure", "few_assign", "seeding_weigh"):
        assert name in called
