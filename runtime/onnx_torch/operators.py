"""All operators: these files enter theirs."""

from . import elementwise, images, quantizing, reducing, shaping  # noqa: F401
from .registry import OPERATORS

__all__ = ["OPERATORS"]
