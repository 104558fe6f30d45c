"""What TensorRT-RTX compiles when an engine is loaded and run, kept for later processes.

A file for each engine and GPU in jit/, below FOVEATE_CACHE or ~/.cache/foveate. TensorRT-RTX itself refuses one of
another version, driver or GPU, and then compiles anew.
"""

from __future__ import annotations

import logging

from ..files import cache_folder, replacing

_LOG = logging.getLogger("foveate")


class JitFile:
    """`sha256` of the plan, `compute` capability of the GPU. `known` is what earlier processes kept."""

    def __init__(self, sha256: str, compute: str):
        self._path = cache_folder("jit") / f"{sha256[:32]}.{compute}.bin"
        self.known = self._path.read_bytes() if self._path.is_file() else b""

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
