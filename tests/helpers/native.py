"""Helpers for the native kernels: their build, the libraries of both x86-64 levels, and runs with sanitizers."""

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
DRIVER_LEVELS = (*LEVELS, "aarch64")
# "-g1" gives line numbers in findings. With "-g" the compilation takes one and a half times as long.
_SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1", "-g1")


def _load_hatch_build():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hatch_build = _load_hatch_build()


def require_native():
    """Skips the test in an installation without native kernels. With GPUKMEANS_NATIVE=1 the test fails instead."""
    if reason := library.unavailable_reason():
        assert os.environ.get("GPUKMEANS_NATIVE") != "1", reason
        pytest.skip(reason)


def runs_here(level):
    """Whether this CPU runs the library of a level."""
    return level == "baseline" or bool(library.Library(FOLDER / LEVELS["baseline"]).function("gpukmeans_supports_v3")())


def run_sanitized(driver, *args, level="v3", timeout=60):
    """Output of a driver that calls kernels compiled with the address and undefined behavior sanitizers.

    The driver is the text of a Python program, which runs in a new process. Its `sys.argv[1]` is the path of the
    library, and `args` follow. A finding of a sanitizer fails the test. Without gcc and its libasan the test is
    skipped.

    The level "aarch64" runs on an emulated CPU without sanitizers. Outside `make aarch64` the test is skipped.
    """
    if level == "aarch64":
        return _run_on_aarch64(driver, *args, timeout=timeout)
    if not runs_here(level):
        pytest.skip("this CPU does not run x86-64-v3")
    compiler, runtime = _sanitizer()
    environment = {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # leaks of Python and NumPy would be reported too
        "PYTHONMALLOC": "malloc",
        "OPENBLAS_NUM_THREADS": "1",
    }
    flags = [*compiler.level_flags(compiler.architecture(), v3=level == "v3"), *_SANITIZERS]
    return _run([sys.executable, "-c", driver, _library(compiler, level, flags), *args], environment, timeout)


def require_aarch64():
    """The root folder of the emulated aarch64 system. Outside `make aarch64` the test is skipped."""
    root = os.environ.get("GPUKMEANS_AARCH64")
    if not root:
        pytest.skip("needs an emulated CPU, see `make aarch64`")
    return root


def _run_on_aarch64(driver, *args, timeout):
    root = require_aarch64()
    libraries = [f"{root}/usr/lib/aarch64-linux-gnu/{name}" for name in ("blas", "lapack")]
    environment = {
        "QEMU_LD_PREFIX": root,
        "QEMU_SET_ENV": f"LD_LIBRARY_PATH={':'.join(libraries)}",
        "PYTHONHOME": f"{root}/usr",
        "PYTHONPATH": f"{root}/usr/lib/python3/dist-packages",
    }
    compiler = hatch_build.Compiler(["aarch64-linux-gnu-gcc"])
    python = ["qemu-aarch64-static", f"{root}/usr/bin/python3"]
    return _run([*python, "-c", driver, _library(compiler, "aarch64", []), *args], environment, timeout)


def _run(command, environment, timeout):
    command = [str(word) for word in command]
    environment = os.environ | environment
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert answer.returncode == 0, answer.stderr[-4000:]
    return answer.stdout


@functools.cache
def _sanitizer():
    """gcc, and the path of its libasan."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["gcc", "-print-file-name=libasan.so"]
        path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        if os.path.isabs(path):
            return hatch_build.Compiler(["gcc"]), path
    pytest.skip("needs gcc with libasan.so")


def _library(compiler, level, flags):
    """Path of the compiled library. It is kept in a cache until a source, this file or the compiler changes."""
    sources = [path.read_bytes() for path in (*sorted(FOLDER.glob("*.[ch]")), ROOT / "hatch_build.py", Path(__file__))]
    key = hashlib.sha256(b"".join(sources) + str(compiler).encode()).hexdigest()[:16]
    cache = ROOT / ".pytest_cache" / "kernels"
    target = cache / f"{level}-{key}.so"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.glob(f"{level}-*.so"):  # not the unfinished library of another process
            old.unlink(missing_ok=True)
        unfinished = target.with_suffix(f".{os.getpid()}")
        hatch_build.build_library(compiler, unfinished, flags)
        unfinished.rename(target)
    return target


@contextlib.contextmanager
def without_native():
    """Runs the block with tensor operations instead of native kernels, as in an installation without kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_load_once", lambda: "turned off by the test")
        yield
