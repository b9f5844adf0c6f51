import os
import subprocess
import sys
from pathlib import Path

import gpukmeans
import gpukmeans_cli

ROOTS = [str(Path(package.__file__).parents[1]) for package in (gpukmeans, gpukmeans_cli)]


def test_python_m_runs_the_command(tmp_path):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(ROOTS)}
    args = [sys.executable, "-m", "gpukmeans_cli", "compress", "a.png", "-o", "a.jpg"]
    answer = subprocess.run(args, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "gpukmeans: --output must end in one of .png, .gif, .webp, got a.jpg\n"
