"""Resizing of maps, against torch's."""

from __future__ import annotations

import numpy as np
import torch
from foveate.runtime.resampling import bilinear, nearest
from hypothesis import given, settings
from hypothesis import strategies as st

SIDE = st.integers(1, 60) | st.sampled_from([384, 512])
SIZE = st.tuples(SIDE, SIDE)


@settings(max_examples=60, deadline=None)
@given(SIZE, SIZE, st.integers(0, 99))
def test_any_size_is_resized_as_torch_does_it(source, target, seed):
    plane = np.random.default_rng(seed).standard_normal(source).astype(np.float32)
    batch = torch.from_numpy(plane)[None, None]
    wanted = torch.nn.functional.interpolate(batch, size=target, mode="bilinear", align_corners=False)
    found = bilinear(plane, target)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted[0, 0], rtol=1e-5, atol=2e-6)
    wanted = torch.nn.functional.interpolate(batch, size=target, mode="nearest")
    np.testing.assert_array_equal(nearest(plane, target), wanted[0, 0])
