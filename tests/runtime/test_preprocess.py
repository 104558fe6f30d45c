"""Preprocessing with numpy alone, against Pillow where Pillow says what is right."""

from __future__ import annotations

import numpy as np
import pytest
from foveate.runtime.errors import InputError
from foveate.runtime.manifest import Preprocess
from foveate.runtime.preprocess import PAD, letterbox, preprocess, resize
from hypothesis import given, settings
from hypothesis import strategies as st

RANDOM = np.random.default_rng(3)
PICTURE = RANDOM.integers(0, 256, (37, 53, 3), np.uint8)
PLAIN = Preprocess(scale=1.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90))
def test_resizing_is_pillows_antialiased_bilinear(height: int, width: int):
    image = pytest.importorskip("PIL.Image")
    channels = [image.fromarray(PICTURE[..., c].astype(np.float32)) for c in range(3)]
    expected = [np.asarray(c.resize((width, height), image.Resampling.BILINEAR)) for c in channels]
    found = resize(PICTURE.astype(np.float32), (height, width))
    np.testing.assert_allclose(found, np.stack(expected, -1), atol=0.02)


def test_a_constant_stays_one():
    flat = np.full((13, 31, 3), 77, np.float32)
    for size in ((7, 9), (40, 5), (13, 90)):
        np.testing.assert_allclose(resize(flat, size), 77, rtol=1e-6)


def test_layout_scale_mean_and_std():
    settings = Preprocess(scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    found = preprocess(PICTURE, settings)
    assert found.shape == (1, 3, 37, 53) and found.dtype == np.float32 and found.flags.c_contiguous
    expected = (PICTURE[5, 7] / 255 - np.array(settings.mean)) / np.array(settings.std)
    np.testing.assert_allclose(found[0, :, 5, 7], expected, rtol=1e-5)
    assert preprocess(PICTURE, Preprocess(layout="nhwc")).shape == (1, 37, 53, 3)


def test_color_orders():
    rgb = preprocess(PICTURE, PLAIN)
    np.testing.assert_array_equal(preprocess(PICTURE, Preprocess(scale=1.0, color="bgr")), rgb[:, ::-1])
    gray = preprocess(PICTURE, Preprocess(scale=1.0, color="gray", mean=(0.0,), std=(1.0,)))
    assert gray.shape == (1, 1, 37, 53)
    np.testing.assert_allclose(gray[0, 0], PICTURE @ np.array([0.299, 0.587, 0.114]), rtol=1e-4)


def test_gray_images_fill_three_channels():
    gray = PICTURE[..., 0]
    for image in (gray, gray[..., None]):
        found = preprocess(image, PLAIN)
        assert found.shape == (1, 3, 37, 53)
        np.testing.assert_array_equal(found[0, 0], found[0, 2])


def test_letterbox_keeps_the_aspect_ratio():
    found = letterbox(np.full((10, 20, 3), 200, np.float32), (40, 40))
    assert found.shape == (40, 40, 3)
    assert (found[:10] == PAD).all() and (found[30:] == PAD).all()
    np.testing.assert_allclose(found[10:30], 200, rtol=1e-6)


def test_batches_and_lists():
    assert preprocess(np.stack([PICTURE, PICTURE]), PLAIN).shape == (2, 3, 37, 53)
    sized = Preprocess(size=(16, 24))
    assert preprocess([PICTURE, PICTURE[:20]], sized).shape == (2, 3, 16, 24)


def test_sizes_that_differ_need_one():
    with pytest.raises(InputError, match=r"20×53, 37×53; expected one size"):
        preprocess([PICTURE, PICTURE[:20]], PLAIN)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_image(bad: np.ndarray):
    with pytest.raises(InputError, match="image 0"):
        preprocess(bad, PLAIN)
