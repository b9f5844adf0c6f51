"""The benchmarks of `python scripts/bench.py`: gpukmeans beside other K-means packages and beside pngquant."""
