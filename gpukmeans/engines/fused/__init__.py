"""The engine for few coordinates on CUDA: one pass over the points by Triton kernels."""
