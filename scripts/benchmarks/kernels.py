"""Registers and shared memory of the Triton kernels, compiled for GPUs. No GPU is needed."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.processes import ENVIRONMENT, SCRIPTS

_COMMAND = [sys.executable, "-W", "ignore", "-m", "helpers.compiled_kernels"]
_PATH = {"PYTHONPATH": os.pathsep.join([str(SCRIPTS.parent), str(SCRIPTS.parent / "tests")])}
# Launches are recorded on the pretended device, which needs a torch that finds no other one.
_RECORDING = ENVIRONMENT | _PATH | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
_COMPILING = {name: value for name, value in (ENVIRONMENT | _PATH).items() if name != "TRITON_INTERPRET"}


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A variant of a kernel. The numbers are one for each architecture."""

    name: str
    constants: str
    registers: tuple[int, ...]
    """Registers of a thread."""
    shared: tuple[int, ...]
    """Bytes of shared memory of a program."""
    stack: tuple[int, ...]
    """Bytes of local memory of a thread: not 0 if registers spill."""
    n_inexact: tuple[int, ...]
    """Instructions that fuse a multiplication and an addition, or that replace denormal numbers by 0."""

    @property
    def fault(self) -> str | None:
        """The defect of the machine code, or None."""
        if any(self.stack):
            return f"spills registers: {self.stack} bytes"
        if any(self.n_inexact):
            return f"rounds other than the CPU: {self.n_inexact} instructions"
        return None


def version() -> str:
    """The version of Triton."""
    return importlib.metadata.version("triton")


def measure(archs: Sequence[int], *, thorough: bool) -> list[Kernel]:
    """The kernels that the package launches, compiled for each architecture, such as 90 for sm_90."""
    record = [*_COMMAND, "record", *(["--thorough"] if thorough else [])]
    variants = subprocess.run(record, stdout=subprocess.PIPE, text=True, check=True, env=_RECORDING).stdout
    compiled = []
    for arch in archs:
        command = [*_COMMAND, "compile", str(arch)]
        run = subprocess.run(command, input=variants, stdout=subprocess.PIPE, text=True, check=True, env=_COMPILING)
        compiled.append([json.loads(line) for line in run.stdout.splitlines()])
    kernels = []
    for of_archs in zip(*compiled, strict=True):
        names, constants, registers, stack, shared, n_inexact, _ = zip(*of_archs, strict=True)
        numbers = {"registers": registers, "stack": stack, "shared": shared, "n_inexact": n_inexact}
        kernels.append(Kernel(name=names[0], constants=constants[0], **numbers))
    return sorted(kernels, key=lambda kernel: kernel.name)


def as_markdown(kernels: Sequence[Kernel], archs: Sequence[int]) -> str:
    """A table of the kernels: registers and bytes of shared memory for each architecture."""
    head = ["kernel", "constants", *(f"sm_{arch}" for arch in archs), "shared bytes"]
    lines = [head, ["---", "---", *["---:"] * len(archs), "---:"]]
    for kernel in kernels:
        shared = kernel.shared[:1] if len(set(kernel.shared)) == 1 else kernel.shared
        registers = map(str, kernel.registers)
        name = kernel.name.removesuffix("_kernel")
        lines.append([name, kernel.constants, *registers, " / ".join(f"{n:,}" for n in shared)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
