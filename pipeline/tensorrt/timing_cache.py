"""What full TensorRT measured of kernels, kept for the next build on the same GPU. TensorRT-RTX measures none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...runtime.files import replacing

LIMIT = 64 * 2**20  # bytes; a cache that grew beyond starts anew


class TimingCache:
    """One file for each version and GPU. One that does not fit is ignored by TensorRT, and replaced."""

    def __init__(self, path: Path):
        self.path = path

    def give(self, config: Any) -> None:
        """To a builder's config."""
        known = self.path.read_bytes() if self.path.is_file() and self.path.stat().st_size <= LIMIT else b""
        config.set_timing_cache(config.create_timing_cache(known), False)

    def keep(self, config: Any) -> None:
        """What is known after a build."""
        data = bytes(config.get_timing_cache().serialize())
        if len(data) <= LIMIT:
            with replacing(self.path) as temporary:
                temporary.write_bytes(data)
