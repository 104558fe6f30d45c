"""Foveate's CUDA kernels: their library, and a binding that takes arrays of torch, CuPy and others."""
