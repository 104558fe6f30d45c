"""Lowering: a region's nodes -> the ops of the native kernels.

Each op family is a file of rules, found by op type. A node without a rule, or one that its rule cannot express, is
foreign to the kernels: the region is cut there, or runs on windows, and the reason is named.
"""

from . import convolution, elementwise, joining, pooling, positions, quantize, resize
from .lower import Place, find_foreign, lower, lower_from_inputs, no_place
from .registry import Unsupported

__all__ = [
    "Place",
    "Unsupported",
    "convolution",
    "elementwise",
    "find_foreign",
    "joining",
    "lower",
    "lower_from_inputs",
    "no_place",
    "pooling",
    "positions",
    "quantize",
    "resize",
]
