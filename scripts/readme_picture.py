"""Writes docs/comparison.png, the picture of the README, by `gpukmeans demo`: python scripts/readme_picture.py"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpukmeans_cli.commands.demo import demo

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        if code := demo(folder=Path(folder)):
            sys.exit(code)
        target = Path(__file__).resolve().parents[1] / "docs" / "comparison.png"
        shutil.copyfile(Path(folder) / "sample-20-comparison.png", target)
