"""Images taken out of batches, and put into others, on a device."""

from __future__ import annotations

import numpy as np

from .device import Device, DeviceArray


class DeviceRows:
    """See `exits.Rows`."""

    def __init__(self, device: Device):
        self._device = device

    def take(self, array: DeviceArray, rows: np.ndarray) -> DeviceArray:
        return self._device.take_rows(array, self._rows(rows))

    def put(self, target: DeviceArray, rows: np.ndarray, values: DeviceArray) -> None:
        self._device.put_rows(target, self._rows(rows), values)

    def copy(self, array: DeviceArray) -> DeviceArray:
        return self._device.copy(array)

    def empty(self, images: int, like: DeviceArray) -> DeviceArray:
        return self._device.empty((images, *like.shape[1:]), like.dtype)

    def _rows(self, rows: np.ndarray) -> DeviceArray:
        return self._device.put(rows.astype(np.int32))
