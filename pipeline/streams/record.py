"""What a run leaves behind of its frames: outputs as videos or arrays, and the overlay of what was computed."""

from __future__ import annotations

import contextlib
import re
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ...runtime.errors import MissingExtraError
from ...runtime.manifest import Preprocess
from ..files import replacing
from ..overlays import data_uri, tinted, visible
from ..report_format import ms, share
from .measure import Frame

PICTURES = 6
_SHOWN = 320  # px, the least width of an overlay
_LEAST = 16  # px, of an output that is an image


class Recorder:
    """A context manager; call it with each frame. Files lie in `folder`: overlay.mp4 and overlay/NUMBER.png, outputs/
    NAME.mp4 or outputs/NUMBER.npz. `outputs`: "auto" makes videos of those that are images and arrays of the rest,
    "arrays" arrays of all, "none" neither. `pictures` and `notes` are for the report."""

    def __init__(self, folder: Path, settings: Preprocess, fps: float, frames: int | None, outputs: str):
        self._folder, self._settings, self._outputs = folder, settings, outputs
        self._fps = Fraction(fps).limit_denominator(1000)
        self._step = max(1, (frames or 50 * PICTURES) // PICTURES)
        self._videos: dict[str, _Video] = {}
        self._stack = contextlib.ExitStack()
        self.pictures: list[dict[str, Any]] = []
        self.notes: list[str] = []
        for old in (*(folder / "outputs").glob("*.npz"), *(folder / "overlay").glob("*.png")):
            if re.fullmatch(r"\d{6}", old.stem):
                old.unlink()

    def __call__(self, frame: Frame) -> None:
        with self._told("The overlay"):
            self._overlay(frame)
        if self._outputs != "none":
            self._write_outputs(frame)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _overlay(self, frame: Frame) -> None:
        picture = overlay_of(frame, self._settings)
        if frame.number % self._step == self._step // 2 and len(self.pictures) < PICTURES:
            with replacing(self._folder / "overlay" / f"{frame.number:06}.png") as path:
                picture.save(path, "PNG")
            self.pictures.append(
                {
                    "frame": frame.number,
                    "work": frame.work,
                    "changed": _changed(frame),
                    "image": data_uri(picture),
                }
            )
        self._video("overlay.mp4").add(np.asarray(picture))

    def _write_outputs(self, frame: Frame) -> None:
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in frame.result.items()}
        if self._outputs == "auto":
            with self._told("Videos of the outputs"):
                for name, value in list(arrays.items()):
                    if _is_image(value):
                        self._video(f"outputs/{_file_name(name)}.mp4").add_output(value)
                        del arrays[name]
        if arrays:
            with replacing(self._folder / "outputs" / f"{frame.number:06}.npz") as path:
                np.savez(path, **arrays)

    def _video(self, name: str) -> _Video:
        if name not in self._videos:
            self._videos[name] = self._stack.enter_context(_writing(self._folder / name, self._fps))
        return self._videos[name]

    @contextlib.contextmanager
    def _told(self, what: str):
        """Without an extra a part is missing, and a note says so once."""
        try:
            yield
        except MissingExtraError as error:
            note = f"{what} could not be written: {error.fix} to have them."
            self.notes += [] if note in self.notes else [note]


def overlay_of(frame: Frame, settings: Preprocess) -> Any:
    """A Pillow image: the frame with what changed tinted, and a line of figures below. Raises MissingExtraError."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingExtraError("PIL", "report", "pictures of what changed") from error
    picture = visible(frame.image, settings)
    changed = np.ones(picture.shape[:2], bool) if frame.changed is None else frame.changed
    zoom = -(-_SHOWN // picture.shape[1])
    shown = tinted(picture.repeat(zoom, 0).repeat(zoom, 1), changed.repeat(zoom, 0).repeat(zoom, 1))
    size = max(11, shown.shape[1] // 45)
    canvas = Image.new("RGB", (shown.shape[1] // 2 * 2, (shown.shape[0] + 2 * size) // 2 * 2), (20, 23, 27))
    canvas.paste(Image.fromarray(shown), (0, 0))
    text = f"frame {frame.number}   changed {share(_changed(frame))}   work {share(frame.work)}   {ms(frame.ms)} ms"
    text += f"   whole: {frame.reason}" if frame.reason else ""
    place = size // 2, shown.shape[0] + size // 3
    ImageDraw.Draw(canvas).text(place, text, fill=(232, 234, 237), font=ImageFont.load_default(size))
    return canvas


def _changed(frame: Frame) -> float:
    return 1.0 if frame.changed is None else float(frame.changed.mean())


def _is_image(value: np.ndarray) -> bool:
    """One map of 1 or 3 channels."""
    return (
        value.ndim == 4
        and value.shape[0] == 1
        and value.shape[1] in (1, 3)
        and min(value.shape[2:]) >= _LEAST
    )


def _file_name(output: str) -> str:
    return re.sub(r"[^\w.-]+", "_", output)


class _Video:
    """An open file; the first picture decides its size."""

    def __init__(self, container: Any, fps: Fraction):
        self._container, self._fps = container, fps
        self._stream: Any = None
        self._range: tuple[float, float] | None = None

    def add(self, picture: np.ndarray) -> None:
        """uint8 [H, W, 3], cut to even sides, which the usual pixel format needs."""
        import av
        from av.codec import codecs_available

        height, width = (n // 2 * 2 for n in picture.shape[:2])
        if self._stream is None:
            codec = "libx264" if "libx264" in codecs_available else "mpeg4"
            self._stream = self._container.add_stream(codec, rate=self._fps)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            self._stream.codec_context.thread_count = 1  # none is left running while the next frame is timed
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def add_output(self, value: np.ndarray) -> None:
        """[1, 1 or 3, H, W]; the first one's range is black to white, [0, 1] where it lies inside."""
        if self._range is None:
            low, high = float(value.min()), float(value.max())
            self._range = (0.0, 1.0) if low >= 0 and high <= 1 else (low, max(high, low + 1e-6))
        low, high = self._range
        pixels = np.clip((value[0].transpose(1, 2, 0) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
        self.add(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))

    def finish(self) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))


@contextlib.contextmanager
def _writing(path: Path, fps: Fraction):
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video", f"writing the video {path}") from error
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        video = _Video(container, fps)
        yield video
        video.finish()
