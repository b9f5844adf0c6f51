"""The engine for points of few coordinates on CUDA: one pass over the points by Triton kernels."""
