"""Draws docs/picture.png, the photo of the README in few colors: python scripts/readme_picture.py"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.readme_sheet import write_sheet

if __name__ == "__main__":
    write_sheet(Path(__file__).resolve().parents[1] / "docs" / "picture.png")
