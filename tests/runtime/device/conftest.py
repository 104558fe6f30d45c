"""Bundles on a device in this machine's memory: engines are onnxruntime's, wrapped to take and give its arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from foveate.runtime.device.device import DeviceArray
from foveate.runtime.device.engine import register_on_device
from foveate.runtime.device.host import HostArray, HostDevice
from foveate.runtime.device.opening import register_device
from foveate.runtime.engine import OrtConfig, Ports, open_engine
from foveate.runtime.errors import InternalError


@dataclass(frozen=True)
class HostedConfig:
    """`most`: of windows, of any size. `graph`: runs may be captured."""

    backend: ClassVar[str] = "hosted"
    threads: int = 1
    most: int = 0
    graph: bool = True


class HostedEngine:
    def __init__(self, path: Path, config: HostedConfig, ports: Ports, device: HostDevice):
        self.capture = device.capture if config.graph else None
        self._engine, self._device, self._most = (
            open_engine(path, OrtConfig(config.threads), ports),
            device,
            config.most,
        )
        self.inputs, self.optional, self.outputs = (
            self._engine.inputs,
            self._engine.optional,
            self._engine.outputs,
        )

    def most(self, sizes: Mapping[str, tuple[int, ...]]) -> int:
        return self._most

    def run(self, feeds: Mapping[str, Any]) -> list[DeviceArray]:
        for name, value in feeds.items():
            if not isinstance(value, HostArray):
                raise InternalError(f"a {type(value).__name__} is fed as {name}")
        made = self._engine.run({name: value.values for name, value in feeds.items()})
        return [self._device.made(value) for value in made]

    def close(self) -> None:
        self._engine.close()


@register_device(HostedConfig)
def open_host(config: HostedConfig) -> HostDevice:
    return HostDevice()


register_on_device(HostedConfig)(HostedEngine)


@pytest.fixture(scope="session")
def hosted() -> Any:
    """Of the config."""
    return HostedConfig


@pytest.fixture
def device() -> HostDevice:
    return HostDevice()


@pytest.fixture(scope="session")
def close() -> Any:
    """That answers agree with the dense program's."""

    def check(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
        for name, value in expected.items():
            assert np.abs(found[name] - value).max() <= 1e-5 * max(np.abs(value).max(), 1e-30)

    return check
