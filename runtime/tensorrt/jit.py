"""What TensorRT-RTX compiles when an engine is loaded and run, kept for later processes.

A file for each engine, GPU and version in jit/, below FOVEATE_CACHE or ~/.cache/foveate. TensorRT-RTX itself refuses
one of another version, driver or GPU, and then compiles anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..files import cache_folder, replacing

_LOG = logging.getLogger("foveate")
FOLDER, _SUFFIX = "jit", ".bin"


@dataclass(frozen=True)
class JitEntry:
    """A file of jit/. `engine`: the first 32 digits of its plan's sha256; `version` of TensorRT-RTX, "" where the name
    tells none."""

    path: Path
    engine: str
    compute: str
    version: str

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0


class JitFile:
    """`sha256` of the plan, `compute` capability of the GPU, `version` of TensorRT-RTX. `known` is what earlier
    processes kept."""

    def __init__(self, sha256: str, compute: str, version: str):
        self._path = cache_folder(FOLDER) / f"{sha256[:32]}.{compute}.{version}{_SUFFIX}"
        self.known = b""
        if self._path.is_file():
            self.known = self._path.read_bytes()
            with contextlib.suppress(OSError):  # a cache that is only read
                os.utime(self._path)

    def keep(self, compiled: bytes) -> None:
        """Writes what is new. A folder that cannot be written costs time at the next load, and is no error."""
        if not compiled or compiled == self.known:
            return
        try:
            with replacing(self._path) as temporary:
                temporary.write_bytes(compiled)
            self.known = compiled
        except OSError as error:
            _LOG.warning("what TensorRT-RTX compiled is not kept: %s: %s", self._path, error)


def jit_entries(folder: Path) -> Iterator[JitEntry]:
    """Of a folder jit/, by name."""
    for path in sorted(folder.glob(f"[!.]*{_SUFFIX}")):  # not what is being written
        engine, _, rest = path.name.removesuffix(_SUFFIX).partition(".")
        compute, _, version = rest.partition(".")
        yield JitEntry(path, engine, compute, version)
