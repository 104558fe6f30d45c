"""Data from video files, by PyAV (extra `video`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..runtime.errors import InputError, MissingExtraError
from ..runtime.manifest import Preprocess
from ..runtime.preprocess import preprocess as to_input
from .dataset import Dataset, Sample

VIDEO_SUFFIXES = frozenset(
    {".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv", ".y4m"}
)


def open_video(path: Path, settings: Preprocess, limit: int | None) -> Dataset:
    """The frames of a file's first video stream. What cannot be decoded ends the clip, and a note of the Dataset says
    so. Raises InputError for a file that is no video, MissingExtraError without PyAV."""
    with _open(path) as container:
        stream = container.streams.video[0]
        announced = stream.frames or None  # 0: the file does not say
        fps = float(stream.average_rate) if stream.average_rate else None
    count = announced if limit is None else announced and min(limit, announced)
    notes: list[str] = []

    def samples() -> Iterator[Sample]:
        for number, frame in enumerate(itertools.islice(_decoded(path, notes, announced), limit)):
            yield Sample(f"{path.name}[{number}]", to_input(frame.to_ndarray(format="rgb24"), settings))

    return Dataset(str(path), count, samples, fps, notes)


def _decoded(path: Path, notes: list[str], announced: int | None) -> Iterator[Any]:
    """The frames until the end, or until something cannot be decoded."""
    from av.error import FFmpegError

    number, broken = 0, ""
    with _open(path) as container:
        frames = container.decode(container.streams.video[0])
        while True:
            try:
                frame = next(frames, None)
            except FFmpegError as error:
                frame, broken = None, f" ({error.strerror})"
            if frame is None:
                break
            number += 1
            yield frame
    if broken or (announced and number < announced):
        of = f" of {announced}" if announced else ""
        note = (
            f"{path.name} is truncated or damaged{broken}: {number}{of} frames could be decoded and are used."
        )
        notes += [] if note in notes else [note]


def _open(path: Path) -> Any:
    """A container with a video stream, to be closed by the caller."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise MissingExtraError("av", "video", f"reading the video {path}") from error
    try:
        container = av.open(str(path))
    except (FFmpegError, OSError) as error:
        raise InputError(
            f"video {path}",
            got=f"a file that cannot be opened ({error.strerror})",
            expected="a video file",
            fix="Copy it again, or convert it with ffmpeg.",
        ) from error
    if not container.streams.video:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "none"
        container.close()
        raise InputError(
            f"video {path}",
            got=f"streams of type {kinds}",
            expected="a video stream",
            fix="Check the path.",
        )
    return container
