"""A library that is not installed is an error that names the extra to install."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from ..runtime.errors import MissingExtraError

EXPORT = frozenset(
    {"onnx", "onnx_ir", "onnxscript", "safetensors", "timm", "torch"}
)  # packages of that extra


@contextmanager
def needs(extra: str, needed_for: str, packages: Collection[str] | None = None) -> Iterator[None]:
    """Around imports: ModuleNotFoundError of a third-party library becomes MissingExtraError.

    With `packages` only of these: where users' own modules run too, what they lack is theirs."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "foveate" or (packages is not None and package not in packages):
            raise
        raise MissingExtraError(package, extra, needed_for) from error
