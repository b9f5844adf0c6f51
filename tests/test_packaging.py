"""Wheels with native kernels, pure wheels, and builds in a checkout. Nothing is installed or downloaded."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers import native

SENTENCE = "without native kernels gpukmeans is slower on a CPU: "
PLATFORM = sysconfig.get_platform().rpartition("-")[0]
FILES = {"_kernels.baseline.so", "_kernels.v3.so"}

# Writes its arguments into a file beside it, and files of no content where a compiler would write code.
COMPILER = """#!/bin/sh
echo "$(basename "$0") $*" >>"$(dirname "$0")/calls"
case "$*" in
    *-E*) echo 'architecture ARCHITECTURE'; exit ;;
esac
while [ "$1" != -o ]; do shift; done
echo code >"$2"
"""
BROKEN = """#!/bin/sh
echo "$(basename "$0") $*" >>"$(dirname "$0")/calls"
echo 'no such header' >&2
exit 1
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="wheels for Linux, and compilers that are shell scripts"
)


@pytest.fixture
def checkout(tmp_path):
    """What a build needs, without compiled kernels."""
    folder = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "_kernels*")
    for name in ("gpukmeans", "scripts/gpukmeans_cli"):
        shutil.copytree(native.ROOT / name, folder / name, ignore=ignore)
    for name in ("hatch_build.py", "pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(native.ROOT / name, folder)
    return folder


@pytest.fixture
def programs(tmp_path):
    """Gives commands for compilers that are shell scripts."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def programs(text=COMPILER, *names, architecture="x86_64"):
        for name in names:
            (folder / name).write_text(text.replace("ARCHITECTURE", architecture))
            (folder / name).chmod(0o755)
        return folder

    return programs


def run(checkout, *args, check=True, **environment):
    kept = {name: value for name, value in os.environ.items() if name not in {"CC", "GPUKMEANS_NATIVE"}}
    command = [sys.executable, *args]
    return subprocess.run(
        command, cwd=checkout, env=kept | environment, capture_output=True, text=True, check=check, timeout=100
    )


def build(checkout, target="wheel", **environment):
    """The file that hatchling builds, as pip does it, and what it prints."""
    answer = run(checkout, "-m", "hatchling", "build", "--target", target, **environment)
    (built,) = (checkout / "dist").iterdir()
    return built, answer.stdout + answer.stderr


def native_files(names):
    return {Path(name).name for name in names if "engines/native/" in name and not name.endswith(".py")}


def kernels(checkout):
    return native_files(map(str, checkout.rglob("_kernels*"))) - {"_kernels.stamp"}


def test_a_wheel_has_the_libraries_and_the_tag_of_the_architecture(checkout, programs):
    wheel, _ = build(checkout, CC=str(programs(COMPILER, "cc") / "cc"))
    assert wheel.name.endswith(f"-py3-none-{PLATFORM}_x86_64.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert native_files(archive.namelist()) == FILES
        (metadata,) = (name for name in archive.namelist() if name.endswith("dist-info/WHEEL"))
        assert "Root-Is-Purelib: false" in archive.read(metadata).decode()
    assert not kernels(checkout)  # which are for this machine


def test_the_target_of_the_compiler_decides_about_the_architecture(checkout, programs):
    folder = programs(COMPILER, "aarch64-linux-gnu-gcc", architecture="aarch64")
    wheel, _ = build(checkout, CC=str(folder / "aarch64-linux-gnu-gcc"))
    assert wheel.name.endswith(f"-py3-none-{PLATFORM}_aarch64.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert native_files(archive.namelist()) == {"_kernels.baseline.so"}


@pytest.mark.parametrize("environment", [{"CC": "false"}, {"GPUKMEANS_NATIVE": "0"}])
def test_without_a_compiler_the_wheel_is_pure_and_there_is_a_warning(checkout, environment):
    old = checkout / "gpukmeans" / "engines" / "native" / "_kernels.baseline.so"
    old.write_text("of an earlier build")
    wheel, printed = build(checkout, **environment)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert SENTENCE in printed
    with zipfile.ZipFile(wheel) as archive:
        assert not native_files(archive.namelist())


@pytest.mark.parametrize("args", [("-m", "hatchling", "build", "--target", "wheel"), ("hatch_build.py",)])
def test_a_missing_compiler_is_an_error_where_kernels_are_required(checkout, programs, args):
    compiler = programs(BROKEN, "cc") / "cc"
    answer = run(checkout, *args, check=False, CC=str(compiler), GPUKMEANS_NATIVE="1")
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    expected = (
        f"GPUKMEANS_NATIVE=1, but the native kernels cannot be built: {compiler} cannot build them: no such header"
    )
    assert expected in answer.stderr


def test_a_source_distribution_has_the_sources_of_the_kernels(checkout):
    (checkout / "gpukmeans" / "engines" / "native" / "_kernels.baseline.so").write_text("of an earlier build")
    for folder in (".ci", ".github"):
        (checkout / folder).mkdir()
        (checkout / folder / "file").touch()
    sdist, _ = build(checkout, "sdist")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert native_files(names) == {path.name for path in native.FOLDER.glob("*.[ch]")}
    assert f"{sdist.name.removesuffix('.tar.gz')}/hatch_build.py" in names
    assert not [name for name in names if "/.ci" in name or "/.github" in name]


def test_an_editable_installation_has_the_libraries_in_its_folder(checkout, programs):
    script = "from hatchling.build import build_editable; build_editable('dist')"
    (checkout / "dist").mkdir()
    run(checkout, "-c", script, CC=str(programs(COMPILER, "cc") / "cc"))
    assert kernels(checkout) == FILES


def test_make_native_compiles_again_only_what_has_changed(checkout, programs):
    compiler = programs(COMPILER, "cc") / "cc"
    calls = compiler.with_name("calls")

    def compiles(**environment):
        calls.unlink(missing_ok=True)
        run(checkout, "hatch_build.py", **{"CC": str(compiler)} | environment)
        return calls.exists()

    assert compiles()
    assert kernels(checkout) == FILES
    assert not compiles()
    for name in ("gpukmeans/engines/native/common.h", "gpukmeans/engines/native/library.c", "hatch_build.py"):
        with open(checkout / name, "a") as file:
            file.write("\n")
        assert compiles()
        assert not compiles()
    assert compiles(CC=f"{compiler} -v")


def test_kernels_that_cannot_be_compiled_again_are_removed(checkout, programs):
    run(checkout, "hatch_build.py", CC=str(programs(COMPILER, "cc") / "cc"))
    answer = run(checkout, "hatch_build.py", CC="false")
    assert answer.stderr == f"warning: {SENTENCE}false cannot build them: exit status 1\n"
    assert not kernels(checkout)


def test_compilers_are_tried_in_order(checkout, programs):
    names = ("cc", "gcc", "clang", "zig")
    folder = programs(BROKEN, *names)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    run(checkout, "hatch_build.py", PATH=path)
    assert [call.split()[0] for call in (folder / "calls").read_text().splitlines()] == list(names)
    programs(COMPILER, "gcc")
    run(checkout, "hatch_build.py", PATH=path)
    assert kernels(checkout) == FILES


def test_only_the_product_that_screens_may_be_contracted(checkout, programs):
    (checkout / "gpukmeans" / "engines" / "native" / "propose.c").write_text("")
    folder = programs(COMPILER, "cc")
    run(checkout, "hatch_build.py", CC=str(folder / "cc"))
    calls = [call for call in (folder / "calls").read_text().splitlines() if " -c " in call]
    assert len(calls) == 2 * len(list((checkout / "gpukmeans" / "engines" / "native").glob("*.c")))
    for call in calls:
        assert f"-ffp-contract={'fast' if '/propose.c' in call else 'off'}" in call


def test_zig_gets_flags_of_its_own(checkout, programs):
    folder = programs(COMPILER, "zig")
    run(checkout, "hatch_build.py", CC=f"{folder / 'zig'} cc")
    calls = [call for call in (folder / "calls").read_text().splitlines() if "-E" not in call]
    assert all(("-mcpu=baseline" in call) != ("-mcpu=x86_64_v3" in call) for call in calls)
    assert not any("-march" in call for call in calls)


def test_a_compiler_that_is_a_python_package_is_found_in_spite_of_the_isolation_of_pip(checkout, programs):
    folder = programs(COMPILER.replace("esac", 'esac\n[ -z "$PYTHONPATH" ] || exit 1', 1), "cc")
    run(checkout, "hatch_build.py", CC=str(folder / "cc"), PYTHONPATH=str(checkout / "overlay"))
    assert kernels(checkout) == FILES
