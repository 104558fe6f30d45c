"""Engines that take and give arrays of a device. Which opener is taken, the type of the config says; it registers
itself in `backends/`, in the file of the config's name, which is imported when it is first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..engine import Border, Config, Ports, by_config
from ..errors import InternalError
from .device import Device, DeviceArray, Shape
from .recording import Capture


class DeviceEngine(Border, Protocol):
    """`engine.Engine` on a device. Not for concurrent callers: the executor takes turns. `capture`: what captures work
    with runs of this engine in it (see `Device.capture`); None where they cannot be captured, or shall not."""

    @property
    def capture(self) -> Capture | None: ...

    def most(self, sizes: Mapping[str, Shape]) -> int:
        """The largest batch that it takes at once, of inputs whose last dims are these; 0 for any."""
        ...

    def run(self, feeds: Mapping[str, DeviceArray]) -> list[DeviceArray]:
        """Outputs in order, in memory of their own, as the queue of work will make them. Feeds are only read."""
        ...


Opener = Callable[[Path, Any, Ports, Any], DeviceEngine]  # of a file, for a config, its border, on a device
_OPENERS: dict[type, Opener] = {}

register_on_device = by_config(_OPENERS, "openers on a device for engines of")


def open_on_device(path: Path, config: Config, ports: Ports, device: Device) -> DeviceEngine:
    """Opens the engine of one file: a plan of TensorRT, or an ONNX file. Raises MissingExtraError, EngineError."""
    kind = type(config)
    if kind not in _OPENERS:
        importlib.import_module(f"..backends.{config.backend}", __package__)
    if kind not in _OPENERS:
        raise InternalError(f"runtime/backends/{config.backend}.py registers no opener for {kind.__name__}")
    return _OPENERS[kind](path, config, ports, device)
