"""Pictures of segments."""

from __future__ import annotations

import numpy as np
import pytest
from foveate.pipeline.overlays import segmented
from foveate.runtime.errors import InputError, MissingExtraError

IDS = np.zeros((90, 200), int)
IDS[20:70, 10:60], IDS[20:70, 100:180] = 1, 2


def test_each_segment_has_its_colour_and_its_name():
    info = [{"id": 1, "label_id": 0, "label": "cat"}, {"id": 2, "label_id": 1}, {"id": 3, "label_id": 2}]
    picture = np.full((90, 200, 3), 100, np.uint8)
    drawn = np.asarray(segmented(picture, {"segmentation": IDS, "segments_info": info}))
    assert drawn.shape == picture.shape and (picture == 100).all()
    assert (drawn[5, 5] == 100).all() and (drawn[20, 30] == 255).all()
    first, second = drawn[25, 15], drawn[25, 105]
    assert (first != 100).any() and (second != 100).any() and (first != second).any()
    plain = segmented(picture, {"segmentation": IDS, "segments_info": [{**i, "label": ""} for i in info]})
    named = (drawn != np.asarray(plain)).any(axis=-1)
    assert named[IDS == 1].any() and named[IDS == 2].any() and not named[IDS == 0].any()


def test_a_thin_segment_of_a_large_picture_has_a_name_too():
    ids = np.zeros((600, 700), int)
    ids[301, 7:600] = 1
    answer = {"segmentation": ids, "segments_info": [{"id": 1, "label_id": 0, "label": "wire"}]}
    drawn = np.asarray(segmented(np.zeros((600, 700, 3), np.uint8), answer))
    assert drawn[295:300, 7:600].any()


def test_an_answer_of_another_size_is_refused():
    with pytest.raises(InputError, match=r"\[90, 200\] of a picture \[45, 100, 3\]"):
        segmented(np.zeros((45, 100, 3), np.uint8), {"segmentation": IDS, "segments_info": []})


def test_without_pillow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"foveate\[report\]"):
        segmented(np.zeros((90, 200, 3), np.uint8), {"segmentation": IDS, "segments_info": []})
