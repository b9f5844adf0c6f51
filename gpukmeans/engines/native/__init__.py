"""Kernels in C for the CPU, and the Python functions that call them."""
