"""The native kernels in tests: the build, the libraries of both levels, and runs under the sanitizers."""

import contextlib
import functools
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpukmeans.engines.native import library

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "gpukmeans" / "engines" / "native"
LEVELS = {"baseline": library.BASELINE_FILE, "v3": library.V3_FILE}
_SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1", "-g")


def _load_hatch_build():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hatch_build = _load_hatch_build()


def require_native():
    """Skips the test in a pure installation. Where GPUKMEANS_NATIVE=1 says that there is none, it fails."""
    if reason := library.unavailable_reason():
        assert os.environ.get("GPUKMEANS_NATIVE") != "1", reason
        pytest.skip(reason)


def runs_here(level):
    """Whether this CPU runs the library of a level."""
    return level == "baseline" or bool(library.Library(FOLDER / LEVELS["baseline"]).function("gpukmeans_supports_v3")())


def run_sanitized(driver, *args, level="v3", timeout=60):
    """Output of a Python driver that calls kernels compiled with the address and undefined behavior sanitizers.

    The driver is a text. It runs in a process of its own, which has to import quickly: NumPy and ctypes. `sys.argv[1]`
    is the path of the library, the args follow. A finding is a failure of the test; without libasan it is skipped.
    """
    if not runs_here(level):
        pytest.skip("this CPU does not run x86-64-v3")
    compiler, runtime = _sanitizer()
    environment = os.environ | {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # those of Python and NumPy
        "PYTHONMALLOC": "malloc",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", driver, str(_sanitized_library(compiler, level)), *map(str, args)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert answer.returncode == 0, answer.stderr[-4000:]
    return answer.stdout


@functools.cache
def _sanitizer():
    """A compiler with libasan, and the path of libasan."""
    for compiler in hatch_build.compilers():
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            command = [*compiler.command, "-print-file-name=libasan.so"]
            path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
            if os.path.isabs(path):
                return compiler, path
    pytest.skip("no compiler has libasan.so")


def _sanitized_library(compiler, level):
    """The library, compiled once for all test processes and runs with the same sources."""
    sources = [path.read_bytes() for path in (*sorted(FOLDER.glob("*.[ch]")), ROOT / "hatch_build.py", Path(__file__))]
    key = hashlib.sha256(b"".join(sources) + str(compiler).encode()).hexdigest()[:16]
    cache = ROOT / ".pytest_cache" / "sanitized"
    target = cache / f"{level}-{key}.so"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.glob(f"{level}-*"):
            old.unlink(missing_ok=True)
        unfinished = target.with_suffix(f".{os.getpid()}")
        flags = compiler.level_flags(compiler.architecture(), v3=level == "v3")
        hatch_build.build_library(compiler, unfinished, [*flags, *_SANITIZERS])
        unfinished.rename(target)
    return target


@contextlib.contextmanager
def without_native():
    """Tensor operations instead of native kernels, as in a pure installation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_load_once", lambda: "turned off by the test")
        yield
