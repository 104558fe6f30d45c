"""Lowering: a region's nodes -> the ops of the native kernels.

Each op family is a file of rules, found by op type. A node without a rule, or one that its rule cannot express, makes
the region unsupported, and names the reason.
"""

from . import convolution, elementwise, joining, pooling, resize
from .lower import Place, lower, lower_from_inputs
from .registry import Unsupported

__all__ = [
    "Place",
    "Unsupported",
    "convolution",
    "elementwise",
    "joining",
    "lower",
    "lower_from_inputs",
    "pooling",
    "resize",
]
