"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def cache_folder(name: str) -> Path:
    """A folder below FOVEATE_CACHE, or below ~/.cache/foveate. It need not be there."""
    root = os.environ.get("FOVEATE_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "foveate") / name


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it if the block succeeds and removed if it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """mkstemp makes files for the owner alone; a bundle is as readable as any other file."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
