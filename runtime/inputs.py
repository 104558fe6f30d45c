"""What a caller passes becomes feeds, or an InputError that says what was got and what to do, before anything runs."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .device.device import Device, DeviceArray
from .dims import Symbols, count_bytes, read_symbols, resolve_shape
from .errors import InputError
from .finite import not_finite
from .manifest import Manifest, TensorSpec
from .padding import Crops, crops, fitting_size, map_axes, pad
from .preprocess import preprocess

_REMEMBERED = 1024

Shape = Sequence[int] | Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Batch:
    """Checked feeds. `symbols` are the symbolic dims' values for one image, `torch` says that tensors came in,
    `on_device` that something lay on the device already. `crops`: what to keep of the outputs of images that were
    padded."""

    feeds: dict[str, Any]
    images: int
    symbols: Symbols
    torch: bool
    crops: Crops = field(default_factory=dict)
    on_device: bool = False

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the feeds, in the manifest's order."""
        return tuple(value.shape for value in self.feeds.values())

    def unpad(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs without what lies behind the images' own right and bottom."""
        return {
            name: np.ascontiguousarray(value[self.crops[name]]) if name in self.crops else value
            for name, value in outputs.items()
        }


class ImageReader:
    """Reads what callers of one model pass. `memory_bytes`: more than that is refused; None is the machine's memory, or
    the device's. `pad`: images of sizes that the program does not take are padded. `device`: what lies there is left
    there, and whether values are finite is for it to say."""

    def __init__(
        self,
        manifest: Manifest,
        memory_bytes: int | None,
        pad: bool = False,
        device: Device | None = None,
    ):
        self._manifest, self._pad, self._device = manifest, pad, device
        self._limit = (
            memory_bytes if memory_bytes is not None else device.memory if device else _physical_bytes()
        )
        self._known: dict[tuple, tuple[int, Symbols]] = {}  # shapes that were found good: images, symbols
        self._only = manifest.inputs[0] if len(manifest.inputs) == 1 else None

    def __call__(self, images: Any, unchecked: Collection[str] = ()) -> Batch:
        """`images`: float32 [N, C, H, W], uint8 [H, W, C] or [N, H, W, C], a list of uint8 images, a torch tensor, or
        a dict of arrays by input name. Raises InputError on anything that the program cannot run on. `unchecked`:
        inputs whose values the caller looks at anyway, and so calls `check_finite` for."""
        if type(images) is np.ndarray and (batch := self._again(images, unchecked)) is not None:
            return batch
        manifest = self._manifest
        given = dict(images) if isinstance(images, Mapping) else {_only_input(manifest).name: images}
        names = {spec.name for spec in manifest.inputs}
        if set(given) != names:
            raise InputError(
                "inputs",
                got=f"{sorted(given)}",
                expected=f"{sorted(names)}",
                fix="Pass a dict with one array for each.",
            )
        torch = any(_is_torch(value) for value in given.values())
        adopted = {name: self._adopt(value) for name, value in given.items()}
        feeds = {
            spec.name: _as_array(given[spec.name], adopted[spec.name], spec, manifest)
            for spec in manifest.inputs
        }
        on_device = any(value is not None for value in adopted.values())
        own = {name: value.shape for name, value in feeds.items()}
        if self._pad and not on_device:
            feeds = pad(feeds, manifest)
        shapes = tuple(value.shape for value in feeds.values())
        known = self._known.get(shapes)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[shapes] = self._check_shapes(feeds)
        count, symbols = known
        for spec in manifest.inputs:
            if self._device is None and spec.name not in unchecked:
                check_finite(spec.name, feeds[spec.name])
        padded = {name: value.shape for name, value in feeds.items()}
        cropped = crops(manifest, own, padded) if padded != own else {}
        return Batch(feeds, count, symbols, torch, cropped, on_device)

    def _again(self, image: np.ndarray, unchecked: Collection[str]) -> Batch | None:
        """Of an array as it came before, as most do: there is nothing to convert, to check but its values, or to pad.
        None of any other."""
        only, known = self._only, self._known.get((image.shape,))
        if only is None or known is None or image.dtype != only.dtype or not image.flags.c_contiguous:
            return None
        if self._device is None and only.name not in unchecked:
            check_finite(only.name, image)
        return Batch({only.name: image}, *known, torch=False)

    def _adopt(self, value: Any) -> DeviceArray | None:
        return None if self._device is None or isinstance(value, np.ndarray) else self._device.adopt(value)

    def _check_shapes(self, feeds: Mapping[str, Any]) -> tuple[int, Symbols]:
        """How many images there are, and the values of the symbolic dims for one of them."""
        manifest = self._manifest
        for spec in manifest.inputs:
            _check_shape(spec, feeds[spec.name], manifest)
        count = _check_batch(manifest, feeds)
        symbols = _check_symbols(manifest, feeds)
        self._check_memory(feeds, symbols)
        batch = manifest.inputs[0].shape[0]
        if isinstance(batch, str):
            symbols[batch] = symbols[batch] / count
        return count, symbols

    def _check_memory(self, feeds: Mapping[str, Any], symbols: Symbols) -> None:
        """Refuses what would not fit: the tensors between segments, which are a part of what a run holds."""
        need = count_bytes(self._manifest.tensors, symbols) + sum(value.nbytes for value in feeds.values())
        if need > self._limit:
            spec = self._manifest.inputs[0]
            raise InputError(
                f"input {spec.name!r}",
                got=f"{list(feeds[spec.name].shape)}, which needs about {need / 2**20:.0f} MiB",
                expected=f"at most {self._limit / 2**20:.0f} MiB",
                fix="Split the batch, pass a smaller image, or load with a larger memory_bytes.",
            )


def one_image(
    batch: Batch, what: str = "frame", fix: str = "Call the stream with one frame at a time."
) -> Batch:
    """The batch, which is to hold one image. Raises InputError."""
    if batch.images != 1:
        raise InputError(what, got=f"{batch.images} images", expected="one", fix=fix)
    return batch


def input_shapes(manifest: Manifest, shapes: Sequence[Any]) -> list[dict[str, tuple[int, ...]]]:
    """Shapes by input name, one dict for each shape given: of the first input, by name, or lists of those; the shape
    that the plan was made at if there are none. Inputs not named follow from the first by their symbolic dims."""
    flat: list[Any] = []
    for shape in shapes or [manifest.sample]:
        is_one = isinstance(shape, Mapping) or all(isinstance(n, int) for n in shape)
        flat.extend([shape] if is_one else shape)
    return [_by_name(manifest, shape) for shape in flat]


def _by_name(manifest: Manifest, shape: Shape) -> dict[str, tuple[int, ...]]:
    given = dict(shape) if isinstance(shape, Mapping) else {manifest.inputs[0].name: shape}
    symbols = read_symbols(manifest.inputs, given)
    try:
        return {
            spec.name: tuple(given[spec.name]) if spec.name in given else resolve_shape(spec.shape, symbols)
            for spec in manifest.inputs
        }
    except KeyError as error:
        raise InputError(
            "shape",
            got=f"{given}, which leaves {error} open",
            expected=f"shapes of {', '.join(spec.name for spec in manifest.inputs)}",
            fix="Pass a dict with one shape for each input.",
        ) from None


def to_torch(array: Any) -> Any:
    """An array as a torch tensor over the same memory. Only called where a torch tensor came in."""
    torch = sys.modules["torch"]
    if isinstance(array, np.ndarray):
        return torch.from_numpy(array)
    return None if array is None else torch.from_dlpack(array)


def _only_input(manifest: Manifest) -> TensorSpec:
    if len(manifest.inputs) != 1:
        names = ", ".join(spec.name for spec in manifest.inputs)
        raise InputError(
            "images", got="one array", expected=f"a dict with {names}", fix="Pass a dict by input name."
        )
    return manifest.inputs[0]


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _as_array(value: Any, adopted: DeviceArray | None, spec: TensorSpec, manifest: Manifest) -> Any:
    """`adopted`: the value, if it lies on a device."""
    if adopted is not None:
        if adopted.dtype != np.dtype(spec.dtype):
            raise _wrong_type(adopted, spec)
        return adopted
    if _is_torch(value):
        value = np.from_dlpack(value.detach().cpu().contiguous())
    is_list = isinstance(value, (list, tuple)) and all(isinstance(v, np.ndarray) for v in value)
    kind = value[0].dtype if is_list and value else getattr(value, "dtype", None)
    if kind == np.uint8 and spec.dtype != "uint8":
        return preprocess(value, manifest.preprocess)
    if not isinstance(value, np.ndarray):
        raise InputError(
            f"input {spec.name!r}",
            got=f"a {type(value).__name__}" + (" without images" if is_list else ""),
            expected=f"a numpy array or torch tensor {_describe(spec)}, or uint8 images [H, W, 3]",
            fix="Convert it, for example with numpy.asarray.",
        )
    if value.dtype != np.dtype(spec.dtype):
        raise _wrong_type(value, spec)
    return np.ascontiguousarray(value)


def _wrong_type(value: Any, spec: TensorSpec) -> InputError:
    return InputError(
        f"input {spec.name!r}",
        got=f"{value.dtype} {list(value.shape)}",
        expected=f"{_describe(spec)}, or uint8 images [H, W, 3]",
        fix=f"Cast to {spec.dtype}: images.astype({spec.dtype!r}).",
    )


def _describe(spec: TensorSpec) -> str:
    return f"{spec.dtype} [{', '.join(str(dim) for dim in spec.shape)}]"


def _check_shape(spec: TensorSpec, value: Any, manifest: Manifest) -> None:
    def refuse(fix: str, expected: str = _describe(spec)) -> InputError:
        got = f"{value.dtype} {list(value.shape)}"
        return InputError(f"input {spec.name!r}", got=got, expected=expected, fix=fix)

    if len(value.shape) != len(spec.shape):
        one_less = len(value.shape) == len(spec.shape) - 1
        raise refuse("Add the batch axis: images[None]." if one_less else "Reshape it.")
    for axis, (size, dim) in enumerate(zip(value.shape, spec.shape, strict=True)):
        if isinstance(dim, int) and size != dim:
            raise refuse(f"Axis {axis} is {size}, the program takes {dim}.")
    if value.shape[0] == 0:
        raise refuse("The batch is empty: skip the call where there are no images.", "at least one image")
    axes = map_axes(value, manifest)
    size = tuple(value.shape[axis] for axis in axes or ())
    fitting = fitting_size(size, manifest) if axes else size
    if size != fitting:
        least, multiple = (
            "×".join(map(str, pair)) for pair in (fitting_size((1, 1), manifest), manifest.multiple)
        )
        expected = f"height and width of at least {least}"
        if manifest.multiple != (1, 1):
            expected += f", multiples of {multiple}"
        fix = f"Pass {fitting[0]}×{fitting[1]}, or load with pad=True, which pads the image and crops the outputs."
        raise refuse(fix, expected)


def _check_batch(manifest: Manifest, feeds: Mapping[str, Any]) -> int:
    counts = {spec.name: feeds[spec.name].shape[0] for spec in manifest.inputs}
    if len(set(counts.values())) > 1:
        raise InputError(
            "inputs", got=f"batches of {counts}", expected="one batch size", fix="Pass equal batches."
        )
    return next(iter(counts.values()))


def _check_symbols(manifest: Manifest, feeds: Mapping[str, Any]) -> Symbols:
    """Inputs that share a symbolic dim must agree on it."""
    symbols = read_symbols(manifest.inputs, {name: value.shape for name, value in feeds.items()})
    for spec in manifest.inputs:
        for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True):
            if isinstance(dim, str) and dim in symbols and symbols[dim] != size:
                raise InputError(
                    f"input {spec.name!r}",
                    got=f"{dim} = {size}",
                    expected=f"{dim} = {math.floor(symbols[dim])}, as in the other inputs",
                    fix="Pass inputs of one size.",
                )
    return symbols


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return sys.maxsize


def check_finite(name: str, value: np.ndarray) -> None:
    """Raises InputError where the value of this input holds NaN or infinity."""
    if value.dtype.kind != "f":
        return
    for index, bad in not_finite(value):
        raise not_finite_input(name, index, bad)


def not_finite_input(name: str, index: int, bad: int) -> InputError:
    return InputError(
        f"image {index} of input {name!r}",
        got=f"{bad} values that are NaN or infinite",
        expected="finite values",
        fix="Check how the image was read and normalised.",
    )
