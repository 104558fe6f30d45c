"""Videos as data: decoded frames, and a named error or note for each way a file can be wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from foveate.pipeline.data import open_data
from foveate.runtime.errors import InputError, MissingExtraError
from foveate.runtime.manifest import Preprocess

av = pytest.importorskip("av")


def write(path: Path, frames: list[np.ndarray], codec: str = "rawvideo", rate: int = 12) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr24" if codec == "rawvideo" else "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (18, 32, 3), np.uint8) for _ in range(6)]


def test_frames_of_a_video_are_its_pictures_through_the_preprocess(tmp_path, frames):
    path = write(tmp_path / "clip.avi", frames)
    data = open_data(path, Preprocess(mean=(0.5, 0.5, 0.5)))
    assert (data.count, data.fps, data.notes) == (6, 12.0, [])
    for (image, label), frame in zip(data, frames, strict=True):
        assert label is None
        np.testing.assert_allclose(image[0].transpose(1, 2, 0), frame / np.float32(255) - 0.5, atol=1e-6)
    assert [s.name for s in data.samples()] == [f"clip.avi[{i}]" for i in range(6)]


def test_a_limit_ends_a_clip_without_a_note_and_a_size_is_taken(tmp_path, frames):
    data = open_data(write(tmp_path / "clip.avi", frames), Preprocess(size=(9, 16)), limit=4)
    assert data.count == 4 and [image.shape for image, _ in data] == [(1, 3, 9, 16)] * 4
    assert data.notes == []


def test_of_a_truncated_video_what_was_decoded_is_used_and_said(tmp_path, frames):
    whole = write(tmp_path / "whole.avi", frames).read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    data = open_data(cut, Preprocess())
    count = len(list(data))
    assert 0 < count < 6
    assert len(data.notes) == 1
    assert "cut.avi is truncated or damaged" in data.notes[0]
    assert f"{count} of 6 frames could be decoded" in data.notes[0]
    assert len(list(data)) == count and len(data.notes) == 1  # read again, said once


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "no.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(InputError, match=r"no\.mp4: got a file that cannot be opened"):
        open_data(tmp_path / "no.mp4")
    with av.open(str(tmp_path / "sound.avi"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match=r"sound\.avi: got streams of type audio"):
        open_data(tmp_path / "sound.avi")


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "clip.avi").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"foveate\[video\]"):
        open_data(tmp_path / "clip.avi")


def test_an_npy_is_a_clip_too(tmp_path, frames):
    np.save(tmp_path / "clip.npy", np.stack(frames))
    data = open_data(tmp_path / "clip.npy", Preprocess(), limit=3)
    assert data.count == 3
    for (image, _), frame in zip(data, frames, strict=False):
        np.testing.assert_allclose(image[0].transpose(1, 2, 0), frame / np.float32(255), atol=1e-6)
