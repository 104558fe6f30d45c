"""The input's shape that a plan is made for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..runtime.errors import InputError
from ..runtime.manifest import Preprocess

if TYPE_CHECKING:
    from .data import Dataset


def shape_of(
    sample: Any,
    preprocess: Preprocess | None = None,
    usual: tuple[int, ...] | None = None,
    data: Callable[[], Dataset] | None = None,
) -> tuple[int, ...] | None:
    """Of `sample` (a shape, array or tensor); else what `preprocess` makes; else the checkpoint's `usual` one; else of
    the first image; else None."""
    if sample is not None:
        return tuple(int(n) for n in getattr(sample, "shape", sample))
    if preprocess is not None and preprocess.size is not None:
        channels = 1 if preprocess.color == "gray" else 3
        nchw = preprocess.layout == "nchw"
        return (1, channels, *preprocess.size) if nchw else (1, *preprocess.size, channels)
    if usual is not None:
        return usual
    return next(iter(data()))[0].shape if data is not None else None


def example_of(sample: Any, shape: tuple[int, ...] | None) -> Any:
    """A torch tensor to trace a module with: `sample` itself if it is one."""
    import torch

    if isinstance(sample, torch.Tensor):
        return sample
    if shape is None:
        raise InputError(
            "sample",
            got="none",
            expected="the input's shape, to trace the torch module with",
            fix="Pass sample=(1, 3, 224, 224), on the command line --size 224 or --sample 1x3x224x224.",
        )
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))
