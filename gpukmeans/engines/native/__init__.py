"""Kernels for the CPU, written in C, and the Python that calls them."""
