"""`gpukmeans cluster` from a checkout that is not installed: python scripts/cluster.py rows.npy -k 64"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpukmeans_cli.main import run

if __name__ == "__main__":
    run(["cluster", *sys.argv[1:]])
