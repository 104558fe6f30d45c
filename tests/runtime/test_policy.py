"""What a policy refuses, and what it counts as exact."""

from __future__ import annotations

import pytest
from foveate.runtime import StreamPolicy
from foveate.runtime.errors import InputError


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"threshold": float("nan")}, "threshold"),
        ({"refresh": -1}, "refresh"),
        ({"block": 0}, "block"),
        ({"block": 2, "vote": 5}, "vote"),
        ({"block": 2, "vote": 4, "keep": 5}, "keep"),
        ({"layer_threshold": {"a": 0.1, "b": -0.1}}, "layer_threshold"),
    ],
)
def test_what_makes_no_sense_is_refused(options, name):
    with pytest.raises(InputError, match=f"stream option {name}"):
        StreamPolicy(**options)


def test_exactness_is_told():
    assert StreamPolicy().exact and StreamPolicy(refresh=9, block=8, layer_threshold={"a": 0}).exact
    assert not StreamPolicy(threshold=0.1).exact
    assert not StreamPolicy(block=2, vote=2).exact
    assert not StreamPolicy(layer_threshold=0.1).exact


def test_fields_are_changed_by_name():
    assert StreamPolicy(block=8).but({"vote": 4}) == StreamPolicy(block=8, vote=4)
    with pytest.raises(InputError, match="votes"):
        StreamPolicy().but({"votes": 4})
