"""All operators: these files enter theirs."""

from . import elementwise, images, reducing, shaping  # noqa: F401
from .registry import OPERATORS

__all__ = ["OPERATORS"]
