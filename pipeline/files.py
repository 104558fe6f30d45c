"""Text files that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

from ..runtime.files import replacing

__all__ = ["replacing", "write_text"]


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
