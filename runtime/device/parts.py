"""Batches of more images than an engine takes at once, run in parts on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import numpy as np

from .device import DeviceArray
from .replay import Feeds

if TYPE_CHECKING:
    from .cuda import CudaDevice


def run_in_parts(
    device: CudaDevice,
    run: Callable[[Feeds], list[DeviceArray]],
    feeds: Feeds,
    batched: Collection[str],
    most: int,
) -> list[DeviceArray]:
    """What `run` makes of a batch, in calls of at most `most` images each, as equal as can be. All that it makes is per
    image, and of the feeds those that are `batched`. Parts are copied: TensorRT wants addresses that are aligned."""
    images = next(feeds[name].shape[0] for name in batched)
    joined: list[DeviceArray] = []
    for part in np.array_split(np.arange(images), -(-images // most)):
        first, count = int(part[0]), len(part)
        given = dict(feeds)
        for name in batched:
            given[name] = device.empty((count, *feeds[name].shape[1:]), feeds[name].dtype)
            device.queue.copy(given[name].pointer, _address(feeds[name], first), given[name].nbytes)
        made = run(given)
        joined = joined or [device.empty((images, *array.shape[1:]), array.dtype) for array in made]
        for whole, array in zip(joined, made, strict=True):
            device.queue.copy(_address(whole, first), array.pointer, array.nbytes)
    return joined


def _address(array: DeviceArray, image: int) -> int:
    return array.pointer + image * math.prod(array.shape[1:]) * array.dtype.itemsize
