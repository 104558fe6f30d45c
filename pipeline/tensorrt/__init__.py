"""Engines for NVIDIA GPUs: every file of a bundle's programs compiled by TensorRT or TensorRT-RTX, without a GPU."""
