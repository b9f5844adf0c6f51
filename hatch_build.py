"""Compiles the native kernels: hatchling's build hook, and a script for `make native`.

The script needs neither hatchling nor torch. Only the hook at the end of this file needs hatchling.

Environment:
    CC: the only compiler to try, such as `clang` or `python -m ziglang cc`. The default is cc, gcc, clang, then zig.
    GPUKMEANS_NATIVE: 0 builds no kernels. With 1, a failed build is an error. By default, a failed build is a warning,
        and the package has no kernels.
"""

import hashlib
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "gpukmeans" / "engines" / "native"
LIBRARY = runpy.run_path(str(SOURCES / "library.py"))
STAMP = "_kernels.stamp"  # hashes of the files, and settings, from which the libraries in the package folder were built

# No code reads errno or floating-point traps. Without them, functions such as `rint` become single instructions.
# The results do not depend on these flags.
FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra")
CONTRACTED = "propose.c"  # its products only exclude candidates, by a margin, and do not enter results

PIP_ISOLATION = ("PYTHONPATH", "PYTHONNOUSERSITE")

# Preprocessed to find the architecture of the target, which may differ from that of this machine.
PROBE = """
#if !defined(__GNUC__) && !defined(__clang__)
#error the kernels need gcc or clang
#elif defined(__x86_64__) || defined(_M_X64)
architecture x86_64
#elif defined(__aarch64__) || defined(_M_ARM64)
architecture aarch64
#else
#error the kernels are for x86-64 and aarch64
#endif
"""


class BuildError(Exception):
    """The kernels cannot be built. The message is the reason."""


class Compiler:
    """A C compiler: gcc, clang, zig or clang-cl. Their command lines differ."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        names = {Path(word).stem.lower() for word in command}
        self._is_zig = not names.isdisjoint({"zig", "ziglang"})
        self._is_clang_cl = "clang-cl" in names

    def __str__(self) -> str:
        return shlex.join(self.command)

    def architecture(self) -> str:
        """Architecture of the target: x86_64 or aarch64."""
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe.c")
            probe.write_text(PROBE)
            words = self._run("-E", probe).split()
        return words[words.index("architecture") + 1]

    def compile(self, source: Path, target: Path, flags: Sequence[str]) -> None:
        """Compile a C file to an object file. The flags are those of gcc."""
        if self._is_clang_cl:
            self._run("/c", source, f"/Fo{target}", *(f"/clang:{flag}" for flag in flags))
        else:
            self._run("-c", source, "-o", target, *flags)

    def link(self, objects: Sequence[Path], target: Path, flags: Sequence[str]) -> None:
        """Link object files to a shared library."""
        if self._is_clang_cl:
            self._run("/LD", *objects, f"/Fe{target}")
        else:
            self._run("-shared", *objects, "-o", target, *flags, *([] if os.name == "nt" else ["-lm"]))

    def level_flags(self, architecture: str, v3: bool) -> list[str]:
        """Flags for the instructions of all CPUs of the architecture, or with `v3` of CPUs of the level x86-64-v3."""
        if self._is_zig:  # by default zig compiles for the CPU on which it runs
            return ["-mcpu=x86_64_v3" if v3 else "-mcpu=baseline", "-fno-sanitize=undefined"]
        if architecture == "x86_64":
            return ["-march=x86-64-v3" if v3 else "-march=x86-64"]
        return []

    def _run(self, *args: str | Path) -> str:
        command = [*self.command, *map(str, args)]
        # pip sets these variables to isolate builds. With them, `python -m ziglang` would not find ziglang.
        environment = {name: value for name, value in os.environ.items() if name not in PIP_ISOLATION}
        try:
            answer = subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True, errors="replace"
            )
            return answer.stdout
        except OSError as error:
            raise BuildError(f"{self} cannot be run: {error.strerror}") from None
        except subprocess.CalledProcessError as error:
            message = error.stderr.strip() or f"exit status {error.returncode}"
            raise BuildError(f"{self} cannot build them: {message}") from None


def compilers() -> list[Compiler]:
    """The available compilers in the order in which they are tried."""
    if chosen := os.environ.get("CC"):
        return [Compiler(shlex.split(chosen, posix=os.name != "nt"))]
    commands = (["cc"], ["gcc"], ["clang"], ["zig", "cc"])
    return [Compiler(command) for command in commands if shutil.which(command[0])]


def build(folder: Path) -> str:
    """Compile the libraries into an empty folder with the first compiler that succeeds. Returns the architecture."""
    if os.environ.get("GPUKMEANS_NATIVE") == "0":
        raise BuildError("GPUKMEANS_NATIVE=0 turns them off")
    if sys.maxsize < 2**32:
        raise BuildError("they need a 64-bit Python")
    failures = []
    for compiler in compilers():
        try:
            architecture = compiler.architecture()
            build_library(compiler, folder / LIBRARY["BASELINE_FILE"], compiler.level_flags(architecture, v3=False))
            if architecture == "x86_64":
                build_library(compiler, folder / LIBRARY["V3_FILE"], compiler.level_flags(architecture, v3=True))
        except BuildError as error:
            failures.append(str(error))
        else:
            return architecture
    raise BuildError("; ".join(failures) or "there is no C compiler: no cc, gcc, clang or zig on the PATH")


def build_library(compiler: Compiler, target: Path, flags: Sequence[str]) -> None:
    """Compile all C files to one library. `flags` are added to the flags of every build."""
    portable = [] if os.name == "nt" else ["-fPIC", "-fvisibility=hidden"]
    source_hash = f"-DGPUKMEANS_SOURCE_HASH={LIBRARY['source_hash'](SOURCES):#x}ULL"

    def compile_file(source: Path) -> Path:
        contract = "-ffp-contract=fast" if source.name == CONTRACTED else "-ffp-contract=off"
        compiled = Path(objects, f"{source.stem}.o")
        compiler.compile(source, compiled, [*FLAGS, *portable, source_hash, contract, *flags])
        return compiled

    with tempfile.TemporaryDirectory() as objects, ThreadPoolExecutor(os.cpu_count()) as threads:
        compiled = list(threads.map(compile_file, sorted(SOURCES.glob("*.c"))))
        compiler.link(compiled, target, flags)


def build_in_place() -> None:
    """Build the libraries in the package folder unless they are up to date. After a failed build there are none."""
    settings = [os.environ.get(name, "") for name in ("CC", "GPUKMEANS_NATIVE")]
    hook = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    stamp = repr([LIBRARY["source_hash"](SOURCES), hook, *settings])
    if (SOURCES / STAMP).exists() and (SOURCES / STAMP).read_text() == stamp:
        return
    with tempfile.TemporaryDirectory(dir=SOURCES) as folder:  # on the same file system, so that files can be renamed
        try:
            build(Path(folder))
        finally:  # remove old libraries even if the build failed
            for old in SOURCES.glob("_kernels*"):
                old.unlink()
        for built in Path(folder).glob("_kernels*"):
            built.rename(SOURCES / built.name)
    (SOURCES / STAMP).write_text(stamp)


def without_kernels(error: BuildError) -> str:
    """The warning for a package without kernels."""
    return f"without native kernels gpukmeans is slower on a CPU: {error}"


def is_required() -> bool:
    """Whether a failed build is an error."""
    return os.environ.get("GPUKMEANS_NATIVE") == "1"


def platform_tag(architecture: str) -> str:
    """The platform of a wheel with libraries for an architecture, such as linux_x86_64."""
    platform = sysconfig.get_platform()  # the platform of this Python, such as macosx-10.9-universal2
    if platform.startswith("win"):
        platform = {"x86_64": "win-amd64", "aarch64": "win-arm64"}[architecture]
    elif platform.startswith("macosx"):
        version = platform.split("-")[1]
        if architecture == "aarch64":
            platform = f"macosx-{'11.0' if version.startswith('10.') else version}-arm64"
        else:
            platform = f"macosx-{version}-x86_64"
    else:
        platform = f"{platform.rpartition('-')[0]}-{architecture}"
    return platform.replace("-", "_").replace(".", "_")


def main() -> None:
    """Build in place, as `make native` does."""
    try:
        build_in_place()
    except BuildError as error:
        if is_required():
            sys.exit(f"GPUKMEANS_NATIVE=1, but the native kernels cannot be built: {error}")
        print(f"warning: {without_kernels(error)}", file=sys.stderr)


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:
    pass
else:

    class KernelsHook(BuildHookInterface):
        """Adds the libraries to a wheel and sets the tag of the wheel to their platform."""

        def initialize(self, version: str, build_data: dict) -> None:
            """Build before the files of the wheel are collected. For an editable installation, build in place."""
            self._folder = tempfile.TemporaryDirectory()
            try:
                if version == "editable":
                    build_in_place()
                    return
                architecture = build(Path(self._folder.name))
            except BuildError as error:
                if is_required():
                    self.app.abort(f"GPUKMEANS_NATIVE=1, but the native kernels cannot be built: {error}")
                self.app.display_warning(without_kernels(error))
                return
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform_tag(architecture)}"
            for path in Path(self._folder.name).iterdir():
                build_data["force_include"][str(path)] = f"gpukmeans/engines/native/{path.name}"

        def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:
            """Remove the temporary libraries after they have been added to the wheel."""
            self._folder.cleanup()


if __name__ == "__main__":
    main()
