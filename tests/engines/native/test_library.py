"""The compiled library: which file is loaded, what is refused, and the distance of its kernels."""

import _ctypes
import ctypes
import re
import shutil
import subprocess
import sys

import pytest
import torch
from helpers import native
from helpers.problems import seeded

from gpukmeans.distance import squared_distance
from gpukmeans.engines.native.library import BASELINE_FILE, V3_FILE, Library, NativeUnavailable, load, load_from

DTYPES = {torch.float32: ("f32", 1e-45), torch.float64: ("f64", 5e-324)}
WIDTHS = [*range(1, 41), 64, 100, 128, 1000]


@pytest.fixture
def folder(tmp_path):
    """A copy of the folder of kernels: sources and compiled libraries."""
    return shutil.copytree(native.FOLDER, tmp_path / "native")


def without_sources(folder):
    for path in [*folder.glob("*.c"), *folder.glob("*.h")]:
        path.unlink()
    return folder


def reason(folder):
    with pytest.raises(NativeUnavailable) as error:
        load_from(folder)
    return str(error.value)


def distances(library, x, y):
    """Squared distances of the rows of x and y (N, D) by the kernel of their dtype."""
    n, width = x.shape
    pointer, index = ctypes.c_void_p, ctypes.c_int64
    name = f"gpukmeans_squared_distances_{DTYPES[x.dtype][0]}"
    kernel = library.function(name, pointer, pointer, index, pointer, pointer, index, index, restype=None)
    scratch, sqdist = torch.empty((width + 1) // 2 + 16, dtype=x.dtype), torch.empty(n, dtype=x.dtype)
    kernel(x.data_ptr(), y.data_ptr(), width, scratch.data_ptr(), sqdist.data_ptr(), 0, n)
    return sqdist


def rows(width, dtype):
    """Pairs of rows: random of all magnitudes, equal, denormal, huge, infinite and NaN."""
    generator = seeded(width)
    x, y = torch.randn(2, 100, width, dtype=dtype, generator=generator)
    scales = torch.logspace(-30, 15, 100, dtype=dtype)[:, None]
    denormal, largest = DTYPES[dtype][1], torch.finfo(dtype).max
    special = torch.tensor(
        [0.0, -0.0, denormal, -denormal, torch.finfo(dtype).tiny ** 0.5 / 3, 1.0, largest], dtype=dtype
    )
    pick = torch.randint(len(special), (2, 100, width), generator=generator)
    x, y = torch.cat([x * scales, x + 1e6, x, special[pick[0]]]), torch.cat([y * scales, y + 1e6, x, special[pick[1]]])
    x[-1, -1], x[-2, 0], y[-3, width // 2] = torch.inf, torch.nan, -torch.inf
    return x, y


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_distance_of_kernels_has_the_bits_of_the_reference_distance(each_library, dtype):
    for width in WIDTHS:
        x, y = rows(width, dtype)
        expected = squared_distance(x.T.contiguous(), y.T.contiguous())
        assert torch.equal(distances(each_library, x, y).nan_to_num(nan=-1), expected.nan_to_num(nan=-1)), width


@pytest.mark.parametrize("level", native.DRIVER_LEVELS)
def test_the_distance_of_kernels_stays_within_its_arrays(tmp_path, level):
    width = max(WIDTHS)
    pairs = {name: torch.stack(rows(width, dtype)) for dtype, (name, _) in DTYPES.items()}
    for name, pair in pairs.items():
        pair.numpy().tofile(tmp_path / name)
    driver = """
import ctypes, sys
import numpy as np
library = ctypes.CDLL(sys.argv[1])
pointer, index = ctypes.c_void_p, ctypes.c_int64
for name, dtype in (("f32", np.float32), ("f64", np.float64)):
    kernel = getattr(library, "gpukmeans_squared_distances_" + name)
    kernel.argtypes, kernel.restype = [pointer, pointer, index, pointer, pointer, index, index], None
    pairs = np.fromfile(sys.argv[2] + "/" + name, dtype).reshape(2, -1, int(sys.argv[3]))
    for width in map(int, sys.argv[4:]):
        x, y = (np.ascontiguousarray(rows[:, :width]) for rows in pairs)
        scratch, sqdist = np.empty((width + 1) // 2 + 16, dtype), np.empty(len(x), dtype)
        for start, stop in ((0, 0), (0, 1), (1, len(x))):
            kernel(x.ctypes.data, y.ctypes.data, width, scratch.ctypes.data, sqdist.ctypes.data, start, stop)
        sqdist.tofile(f"{sys.argv[2]}/{name}-{width}")
"""
    native.run_sanitized(driver, tmp_path, width, *WIDTHS, level=level)
    for dtype, (name, _) in DTYPES.items():
        for width in WIDTHS:
            x, y = pairs[name][..., :width].mT.contiguous()
            found = torch.from_file(str(tmp_path / f"{name}-{width}"), size=x.shape[1], dtype=dtype)
            assert torch.equal(found.nan_to_num(nan=-1), squared_distance(x, y).nan_to_num(nan=-1)), width


@pytest.mark.parametrize("level", native.DRIVER_LEVELS)
def test_a_thread_can_set_denormal_numbers_to_zero(level):
    driver = """
import ctypes, sys
import numpy as np
library = ctypes.CDLL(sys.argv[1])
library.gpukmeans_flush_bits.restype = ctypes.c_uint64
library.gpukmeans_set_flush_bits.argtypes, library.gpukmeans_set_flush_bits.restype = [ctypes.c_uint64], None
kernel = library.gpukmeans_squared_distances_f32
kernel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64] + [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 2
row, origin, scratch, sqdist = np.float32([2e-20]), np.float32([0]), np.empty(17, np.float32), np.empty(1, np.float32)
for bits in (2**64 - 1, 0):
    library.gpukmeans_set_flush_bits(bits)
    kernel(row.ctypes.data, origin.ctypes.data, 1, scratch.ctypes.data, sqdist.ctypes.data, 0, 1)
    print(library.gpukmeans_flush_bits() != 0, sqdist.view(np.int32)[0] != 0)
"""
    assert native.run_sanitized(driver, level=level).split() == ["True", "False", "False", "True"]


def test_the_sanitizers_find_a_kernel_that_leaves_its_arrays():
    driver = """
import ctypes, sys
import numpy as np
row, scratch, sqdist = np.zeros(9, np.float32), np.zeros(20, np.float32), np.zeros(1, np.float32)
kernel = ctypes.CDLL(sys.argv[1]).gpukmeans_squared_distances_f32
kernel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64] + [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 2
kernel(row.ctypes.data, row.ctypes.data, 10, scratch.ctypes.data, sqdist.ctypes.data, 0, 1)
"""
    with pytest.raises(AssertionError, match="heap-buffer-overflow"):
        native.run_sanitized(driver)


def test_the_sources_compile_without_warnings(tmp_path):
    compiler = native.hatch_build.compilers()[0]
    for v3 in (False, True):
        flags = [*compiler.level_flags(compiler.architecture(), v3), "-Werror", "-O1"]
        native.hatch_build.build_library(compiler, tmp_path / "kernels", flags)


def test_exported_names_begin_with_that_of_the_package():
    names = [name for path in native.FOLDER.glob("*.c") for name in re.findall(r"EXPORT .*?(\w+)\(", path.read_text())]
    assert "gpukmeans_source_hash" in names
    assert all(name.startswith("gpukmeans_") for name in names)


def test_the_library_of_this_cpu_is_loaded_once():
    assert load() is load()
    assert load().path.name == (V3_FILE if native.runs_here("v3") else BASELINE_FILE)


def test_threads_load_the_library_at_the_same_time():
    script = f"""
import runpy, threading
library = runpy.run_path({str(native.FOLDER / "library.py")!r})
start, loaded = threading.Barrier(8), []
def load():
    start.wait()
    loaded.append(library["load"]().function("gpukmeans_supports_v3")())
threads = [threading.Thread(target=load) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(loaded))
"""
    assert run(script) == "8"


def test_a_copy_without_sources_is_loaded_unchecked(folder):
    assert load_from(without_sources(folder)).path.parent == folder


@pytest.mark.parametrize("name", ["distance.h", "library.c", "new.c"])
def test_edited_sources_never_run_old_code(folder, name):
    with open(folder / name, "a") as file:
        file.write("\n")
    assert reason(folder) == f"{load().path.name} was built from other sources; run `make native`"


def test_a_checkout_that_is_not_built_needs_make(folder):
    (folder / BASELINE_FILE).unlink()
    assert reason(folder) == "the native kernels are not built; run `make native`"


def test_an_installation_without_libraries_had_no_compiler(folder):
    (without_sources(folder) / BASELINE_FILE).unlink()
    assert "without native kernels" in reason(folder)


@pytest.mark.skipif(not native.runs_here("v3"), reason="this CPU does not run x86-64-v3")
def test_a_missing_library_of_the_better_level_is_a_reason(folder):
    (folder / V3_FILE).unlink()
    assert reason(folder).startswith(f"{V3_FILE} cannot be loaded: ")


def test_truncated_libraries_are_refused(folder):
    # In a process of its own, because the dynamic linker crashes on most of them.
    script = f"""
import runpy
from pathlib import Path
library, path = runpy.run_path({str(native.FOLDER / "library.py")!r}), Path({str(folder / BASELINE_FILE)!r})
content = path.read_bytes()
for size in [*range(0, 200, 10), *range(200, len(content), 500), len(content) - 1]:
    path.write_bytes(content[:size])
    try:
        library["load_from"](path.parent)
    except library["NativeUnavailable"] as error:
        assert " cannot be loaded: " in str(error), error
    else:
        raise AssertionError(size)
print("refused")
"""
    assert run(script) == "refused"


def test_a_library_for_another_architecture_is_refused(folder):
    content = bytearray((folder / BASELINE_FILE).read_bytes())
    content[18] ^= 0xFF  # machine of the ELF header
    (folder / BASELINE_FILE).unlink()  # which is mapped by this process
    (folder / BASELINE_FILE).write_bytes(content)
    assert reason(folder).startswith(f"{BASELINE_FILE} cannot be loaded: ")


def test_another_library_is_refused(folder):
    (folder / BASELINE_FILE).unlink()
    shutil.copy(_ctypes.__file__, folder / BASELINE_FILE)
    assert "gpukmeans_source_hash" in reason(folder)


def test_the_environment_turns_the_kernels_off(monkeypatch):
    monkeypatch.setenv("GPUKMEANS_NATIVE", "0")
    script = f"import runpy; print(runpy.run_path({str(native.FOLDER / 'library.py')!r})['unavailable_reason']())"
    assert run(script) == "GPUKMEANS_NATIVE=0 turns the native kernels off"


def test_a_function_keeps_its_declaration():
    library = Library(native.FOLDER / BASELINE_FILE)
    hash_of_sources = library.function("gpukmeans_source_hash", restype=ctypes.c_uint64)
    assert library.function("gpukmeans_source_hash", restype=ctypes.c_uint64) is hash_of_sources
    assert library.is_built_from(hash_of_sources())


def run(script):
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
