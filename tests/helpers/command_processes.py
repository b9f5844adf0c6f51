"""The command `gpukmeans` in a new process, installed or from the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import gpukmeans
import gpukmeans_cli

INSTALLED_COMMAND = Path(sys.executable).parent / "gpukmeans"

# Without PYTHONPATH, which could add the checkout to the path of imports.
INSTALLED_ENV = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
INSTALLED_ENV |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

CHECKOUT_COMPRESS = (sys.executable, "-m", "gpukmeans_cli.main", "compress", "--device", "cpu")
CHECKOUT_ENV = os.environ | {
    "PYTHONPATH": os.pathsep.join(str(Path(package.__file__).parents[1]) for package in (gpukmeans, gpukmeans_cli)),
    "OMP_NUM_THREADS": "1",
    "TERM": "xterm-256color",
}


def run_process(*args, env=None, stdout=subprocess.PIPE, **options):
    """Run a command with `INSTALLED_ENV` and `env`, without standard input. Returns the completed process."""
    return subprocess.run(
        args,
        env=INSTALLED_ENV | (env or {}),
        stdout=stdout,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
        **options,
    )
