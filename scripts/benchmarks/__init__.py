"""What `python scripts/bench.py` measures: gpukmeans beside other K-means packages and beside pngquant."""
