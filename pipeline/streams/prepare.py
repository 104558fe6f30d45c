"""From a program or a bundle, and a clip, to a bundle that the clip fits and that has streams; or a refusal."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.bundle import open_bundle
from ...runtime.errors import InputError
from ...runtime.manifest import Manifest, Pair, Preprocess
from ..data import Dataset, open_data
from ..dense import Dense
from ..driver import Driver, Job, as_program
from ..metadata import read_preprocess
from ..progress import Progress
from ..sample import shape_of

LEAST_SHARE = 0.2  # of the work that unchanged positions save; below it a stream is refused
_MULTIPLES = (2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Source:
    """A program or bundle as given. `preprocess`: what it says; of a program that says nothing, what its input's shape
    does. `manifest`: of a bundle."""

    path: Path
    program: Path
    dense: Dense
    preprocess: Preprocess
    manifest: Manifest | None = None


def open_model(path: Path, threads: int) -> Source:
    """Raises InputError, BundleError, ProgramError."""
    if path.is_dir():
        bundle = open_bundle(path, verify=False)
        program = bundle.file(bundle.manifest.program)
        return Source(path, program, _dense(program, threads), bundle.manifest.preprocess, bundle.manifest)
    program = as_program(path)
    if not isinstance(program, Path):
        raise InputError(
            f"model {path}",
            got="a checkpoint",
            expected="a program (.onnx) or a bundle",
            fix="Export it first with `foveate export`.",
        )
    dense = _dense(program, threads)
    return Source(path, program, dense, read_preprocess(program) or _channels(dense.shape))


def _dense(program: Path, threads: int) -> Dense:
    dense = Dense(program, threads)
    if len(dense.shape) == 4:
        return dense
    raise InputError(
        f"program {program}",
        got=f"an input of shape {list(dense.shape)}",
        expected="an image input [batch, channels, height, width]",
        fix="Export the network with an image input.",
    )


def fit_clip(
    source: Source, clip: str, settings: Preprocess, frames: int | None
) -> tuple[Dataset, Preprocess]:
    """The clip as the program takes it, and how its frames are prepared for that; where they are resized unasked, a
    note of the Dataset says so. Raises InputError."""
    if settings.size is not None:
        return open_data(clip, settings, frames), settings
    own = _size(next(iter(open_data(clip, settings, 1)))[0].shape, settings)
    size, reason = _size_for(source, own, settings)
    if size == own:
        return open_data(clip, settings, frames), settings
    fitted = dataclasses.replace(settings, size=size)
    data = open_data(clip, fitted, frames)
    data.notes.append(f"Frames of {own[0]}×{own[1]} are resized to {size[0]}×{size[1]}, {reason}.")
    return data, fitted


def _channels(shape: tuple[int | str | None, ...]) -> Preprocess:
    """Colour and layout as the program's input fixes them."""
    layout = "nhwc" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "nchw"
    channels = shape[3] if layout == "nhwc" else shape[1]
    return Preprocess(color="gray" if channels == 1 else "rgb", layout=layout)


def _size(shape: tuple, settings: Preprocess) -> Pair:
    return (shape[2], shape[3]) if settings.layout == "nchw" else (shape[1], shape[2])


def _size_for(source: Source, own: Pair, settings: Preprocess) -> tuple[Pair, str]:
    """The size that the program fixes, else the frames' own where it runs at that, else the nearest multiple at which
    it runs (networks that go down and up again want one of their stride); and why it is not the frames' own."""
    height, width = _size(source.dense.shape, settings)
    if isinstance(height, int) and isinstance(width, int):
        return (height, width), "which the program fixes: --size HxW tries another"
    refused = _fails(source.dense, own, settings)
    for multiple in _MULTIPLES if refused else ():
        size = max(1, round(own[0] / multiple)) * multiple, max(1, round(own[1] / multiple)) * multiple
        if not _fails(source.dense, size, settings):
            return size, "for the program does not run at theirs"
    if not refused:
        return own, ""
    raise InputError(
        f"model {source.path}",
        got=f"frames of {own[0]}×{own[1]}, at which it does not run ({refused})",
        expected="a size that it takes",
        fix="Give one with --size HxW.",
    )


def _fails(dense: Dense, size: Pair, settings: Preprocess) -> str:
    """Why the program does not run at that size; "" where it does."""
    shape = shape_of(None, dataclasses.replace(settings, size=size))
    assert shape is not None
    try:
        dense(np.zeros(shape, np.float32))
    except Exception as error:  # onnxruntime's exceptions have no common root of their own
        return str(error).splitlines()[0]
    return ""


def build_bundle(source: Source, out: Path, data: Dataset, settings: Preprocess, progress: Progress) -> Path:
    """The bundle itself, or one built from the program in `out` at the clip's size; not again where nothing changed."""
    if source.manifest is not None:
        return source.path
    shape = next(iter(data))[0].shape
    driver = Driver(Job(source.program, out, sample=shape, preprocess=settings), progress)
    driver.build(source.program, None)
    return out


def require_streams(source: Source, manifest: Manifest) -> None:
    """Raises InputError that names what is in the way and the share of the work that cannot be saved."""
    plan = manifest.stream
    share = plan.share if plan is not None else 0.0
    if share >= LEAST_SHARE:
        return
    reason = "; ".join(plan.ends) if plan is not None else manifest.stream_refused
    raise InputError(
        f"streams of {source.path}",
        got=f"{reason}: {1 - share:.1%} of the work cannot be saved, whatever stays unchanged",
        expected=f"a program whose local ops (convolutions, pooling, resizing) come first, with {LEAST_SHARE:.0%} or "
        "more of the work",
        fix="--mode regions runs crops of what changed through any program; `foveate inspect` shows the whole plan.",
    )
