"""Pictures of the masks: preprocessing undone, dropped positions dimmed."""

from __future__ import annotations

import base64
import io
import sys

import numpy as np
import pytest
from foveate.pipeline.overlays import WIDTH, dimmed, overlay, visible
from foveate.runtime.errors import MissingExtraError
from foveate.runtime.manifest import Preprocess
from foveate.runtime.preprocess import preprocess
from hypothesis import given
from hypothesis import strategies as st

SETTINGS = [
    Preprocess(),
    Preprocess(mean=(0.48, 0.46, 0.41), std=(0.2, 0.3, 0.25)),
    Preprocess(color="bgr", mean=(0.5, 0.4, 0.3)),
    Preprocess(layout="nhwc"),
    Preprocess(scale=1.0),
]


@given(st.integers(0, 99), st.sampled_from(SETTINGS))
def test_what_is_visible_is_what_was_preprocessed(seed, settings):
    picture = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.abs(visible(preprocess(picture, settings), settings).astype(int) - picture).max() <= 1


def test_grey_and_foreign_inputs_are_shown_too():
    settings = Preprocess(color="gray", mean=(0.1,) * 3)
    grey = visible(preprocess(np.full((4, 4, 3), 128, np.uint8), settings), settings)
    assert grey.shape == (4, 4, 3) and (abs(grey.astype(int) - 128) <= 1).all()
    foreign = visible(np.random.default_rng(0).normal(0, 9, (1, 3, 4, 4)).astype(np.float32), Preprocess())
    assert foreign.min() == 0 and foreign.max() == 255


def test_dropped_positions_are_dark_and_kept_ones_are_not():
    picture = np.full((6, 6, 3), 200, np.uint8)
    active = np.zeros((6, 6), bool)
    active[:, 3:] = True
    out = dimmed(picture, active)
    assert (out[:, 4:] == 200).all() and (out[:, :3] < 60).all()


def test_an_overlay_is_two_pictures_of_equal_size():
    from PIL import Image

    image = np.random.default_rng(0).random((1, 3, 30, 60), np.float32)
    found = overlay(image, np.ones((1, 1, 8, 15), np.float32), Preprocess())
    sizes = []
    for uri in (found["image"], found["kept"]):
        assert uri.startswith("data:image/jpeg;base64,")
        sizes.append(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size)
    assert sizes == [(WIDTH, WIDTH // 2)] * 2


def test_without_pillow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"foveate\[report\]"):
        overlay(np.zeros((1, 3, 4, 4), np.float32), np.ones((1, 1, 4, 4)), Preprocess())
