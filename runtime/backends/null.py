"""The `null` backend: no device and no onnxruntime, outputs of one value in the right shape.

Everything but the arithmetic runs: loading, decisions, planning, windows, restoring. So dispatch is tested without a
device, and its own overhead can be measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..dims import read_symbols, resolve_shape
from ..engine import Config, NullConfig, Ports, register


class NullEngine:
    """Answers with `fill`. Output shapes follow from the fed shapes by the manifest's dims, on windows as on maps."""

    def __init__(self, config: NullConfig, ports: Ports):
        self._inputs, self._outputs, self._fill = ports.inputs, (*ports.outputs, *ports.extras), config.fill
        self.inputs = tuple(t.name for t in ports.inputs)
        self.optional: tuple[str, ...] = ()
        self.outputs = tuple(t.name for t in self._outputs)

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        symbols = read_symbols(self._inputs, {name: value.shape for name, value in feeds.items()})
        return [np.full(resolve_shape(t.shape, symbols), self._fill, t.dtype) for t in self._outputs]

    def close(self) -> None:
        pass


@register(NullConfig)
def open_null(path: Path, config: Config, ports: Ports) -> NullEngine:
    assert isinstance(config, NullConfig)
    return NullEngine(config, ports)
