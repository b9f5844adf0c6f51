"""The engine for points of many coordinates on CUDA: half-precision products screen, exact distances decide."""
