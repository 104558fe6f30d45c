"""On which device the engines of a config run, chosen by its type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engine import Config, CudaConfig, TensorRTConfig, TorchConfig, by_config
from .device import Device

_DEVICES: dict[type, Callable[[Any], Device]] = {}

register_device = by_config(_DEVICES, "devices for")  # decorates what opens the device of a config


def on_device(config: Config) -> bool:
    """Whether engines of this config take and give arrays of a device, instead of numpy's."""
    return type(config) in _DEVICES


def open_device(config: Config) -> Device:
    """Raises EngineError where there is none, MissingExtraError."""
    return _DEVICES[type(config)](config)


@register_device(TensorRTConfig)
@register_device(CudaConfig)
def open_gpu(config: TensorRTConfig | CudaConfig) -> Device:
    from .cuda import open_device

    return open_device(config)


@register_device(TorchConfig)
def open_for_torch(config: TorchConfig) -> Device:
    if config.device == "cpu":
        from .host import HostDevice

        return HostDevice()
    from .cuda import open_device

    return open_device(config)
