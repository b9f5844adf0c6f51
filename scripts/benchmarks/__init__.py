"""What `python scripts/bench.py clustering` measures: gpukmeans beside other K-means packages."""
