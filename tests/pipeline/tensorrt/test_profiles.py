"""Ranges of sizes, and the shapes that follow for what lies between engines."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnxruntime
import pytest
from foveate.pipeline.build import build
from foveate.pipeline.tensorrt.bundle_engines import engine_profiles
from foveate.pipeline.tensorrt.profiles import MOST_WINDOWS, Shapes, choose_ranges, measure_shapes
from foveate.runtime.bundle import Bundle, open_bundle
from foveate.runtime.errors import InputError, ProgramError
from foveate.runtime.manifest import CHAIN, GridTensor, LocalSegment, Manifest, Region, TensorSpec
from hypothesis import given
from hypothesis import strategies as st

from ...early_exits import exit_program

RANGES = {"batch": (1, 2, 5), "height": (16, 32, 72), "width": (24, 48, 56)}


def manifest_at(batch=1, height=64, width=96, multiple=(1, 1), least=(1, 1)) -> Manifest:
    images = TensorSpec("images", "float32", ("batch", 3, "height", "width"))
    shape = {"images": [batch, 3, height, width]}
    return Manifest("m", (images,), (), (), (), sample=shape, min_size=least, multiple=multiple)


@pytest.fixture(scope="module")
def exits(tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("profiles")
    return open_bundle(
        build(exit_program(folder / "exits.onnx"), folder / "bundle", sample=(1, 3, 32, 32), layout="chain")
    )


@pytest.fixture(scope="module")
def masked(tiny_bundle) -> Bundle:
    return open_bundle(tiny_bundle)


@given(
    st.integers(1, 40),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 64), st.integers(1, 64)),
    st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_usual_ranges_rise_around_the_sample_and_hold_what_the_program_takes(batch, multiple, least, more):
    sizes = [m * (-(-n // m) + k) for m, n, k in zip(multiple, least, more, strict=True)]
    manifest = manifest_at(batch, sizes[0], sizes[1], multiple, least)
    ranges = choose_ranges(manifest, {})
    assert list(ranges) == ["batch", "height", "width"]
    for (low, opt, high), sample in zip(ranges.values(), [batch, *sizes], strict=True):
        assert low <= opt <= high and opt == sample
    for name, of, small in zip(("height", "width"), multiple, least, strict=True):
        assert all(size % of == 0 and size >= small for size in ranges[name])
        assert choose_ranges(manifest, {name: ranges[name]}) == ranges  # what is usual may be asked for


def test_what_is_asked_for_is_taken_and_the_rest_is_usual():
    ranges = choose_ranges(manifest_at(), {"batch": (4, 4, 4), "width": (32, 64, 640)})
    assert ranges == {"batch": (4, 4, 4), "height": (1, 64, 128), "width": (32, 64, 640)}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"heigth": (1, 2, 3)}, "Did you mean 'height'"),
        ({"height": (64, 32, 128)}, "rising from 16 on, all multiples of 8"),
        ({"height": (64, 68, 128)}, "multiples of 8"),
        ({"height": (8, 16, 24)}, "rising from 16"),
        ({"batch": (0, 1, 2)}, "rising from 1 on"),
    ],
)
def test_ranges_that_cannot_be_are_named(asked, said):
    with pytest.raises(InputError, match=said):
        choose_ranges(manifest_at(multiple=(8, 8), least=(16, 16)), asked)


def test_sizes_that_are_fixed_have_no_range():
    manifest = dataclasses.replace(manifest_at(), inputs=(TensorSpec("images", "float32", (1, 3, 64, 96)),))
    assert choose_ranges(manifest, {}) == {}
    with pytest.raises(InputError, match="all sizes are fixed"):
        choose_ranges(manifest, {"batch": (1, 2, 3)})


@pytest.mark.parametrize("which", ["exits", "masked"])
def test_shapes_are_those_of_a_run_at_that_size(which, request):
    """Also those at batches that were not run."""
    bundle = request.getfixturevalue(which)
    shapes = measure_shapes(bundle.path, bundle.manifest, RANGES)
    assert not list(bundle.path.rglob(".*"))
    session = onnxruntime.InferenceSession(bundle.file(bundle.manifest.whole))
    for place, at in enumerate(shapes.at):
        batch, height, width = (sizes[place] for sizes in RANGES.values())
        feeds = {"images": np.zeros((batch, 3, height, width), np.float32)}
        names = [o.name for o in session.get_outputs()]
        for name, array in zip(names, session.run(names, feeds), strict=True):
            assert at[name] == np.asarray(array).shape


@pytest.mark.parametrize("which", ["exits", "masked"])
def test_what_an_engine_makes_the_next_one_takes(which, request):
    """Every border has one shape at the least, the opt and the most."""
    bundle = request.getfixturevalue(which)
    shapes = measure_shapes(bundle.path, bundle.manifest, RANGES)
    profiles = engine_profiles(bundle.manifest, shapes, CHAIN)
    windows = {s.file for step in bundle.manifest.steps if isinstance(step, Region) for s in step.segments}
    for file, (whole, *more) in profiles.items():
        for name, (least, opt, most) in whole.items():
            assert (opt, most) == (shapes.at[1][name], shapes.at[2][name])
            assert file in windows or least == shapes.at[0][name]
        assert file in windows or not more
        for profile in (whole, *more):
            for least, opt, most in profile.values():
                assert all(a <= b <= c for a, b, c in zip(least, opt, most, strict=True))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 32), st.integers(0, 12), st.integers(1, 4))
def test_windows_are_many_where_they_are_small(height, width, batch, halo, positions):
    """Those of one call hold no more than the largest maps, and are as large as tiles are."""
    x, keep = GridTensor("x", (positions, positions)), GridTensor("keep")
    segment = LocalSegment("s", "s.onnx", (x, keep), (keep,), (halo, halo), (halo, halo))

    def at(images: int, times: int) -> dict[str, tuple[int, ...]]:
        high, wide = times * height, times * width
        return {"x": (images, 8, high * positions, wide * positions), "keep": (images, 1, high, wide)}

    shapes = Shapes((at(1, 1), at(1, 2), at(batch, 4)))
    whole, *windows = shapes.windows(segment)
    assert whole["keep"][1:] == (shapes.at[1]["keep"], shapes.at[2]["keep"])
    assert whole["keep"][0] == (1, 1, min(1 + 2 * halo, height), min(1 + 2 * halo, width))
    for profile in windows:
        count, _, *sides = profile["keep"][2]
        tiles = [min(64, n) + 2 * halo for n in (height, width)]
        assert sides == [min(tile, 4 * n) for tile, n in zip(tiles, (height, width), strict=True)]
        assert batch < count <= MOST_WINDOWS
        assert count * math.prod(sides) <= batch * 16 * height * width
    for profile in (whole, *windows):
        for a, b in zip(profile["x"], profile["keep"], strict=True):
            assert a == (b[0], 8, b[2] * positions, b[3] * positions)
    assert dataclasses.replace(shapes, batched=False).windows(segment) == (whole,)


def test_windows_are_of_whole_cells_that_fit_together(masked):
    shapes = measure_shapes(masked.path, masked.manifest, RANGES)
    segments = [s for step in masked.manifest.steps if isinstance(step, Region) for s in step.segments]
    assert segments
    for segment in segments:
        for profile in shapes.windows(segment):
            for of in zip(*profile.values(), strict=True):
                cells = set()
                for tensor, shape in zip(segment.inputs, of, strict=True):
                    sizes = [shape[axis] for axis in tensor.axes]
                    cells.add(tuple(-(-n // p) for n, p in zip(sizes, tensor.positions, strict=True)))
                assert len(cells) == 1 and len({shape[0] for shape in of}) == 1


def test_the_layout_that_is_asked_for_is_the_one_that_is_built(exits):
    shapes = measure_shapes(exits.path, exits.manifest, RANGES)

    def files(layout: str) -> set[str]:
        return set(engine_profiles(exits.manifest, shapes, layout))

    whole = {exits.manifest.whole}
    assert files("if") == whole | {"programs/exits.onnx"}
    assert len(files("per-depth") - whole) == 1 + 3  # the stem, and a path for each depth
    assert len(files(CHAIN) - whole) == 1 + 2 + 1


def test_a_size_that_the_program_does_not_take_is_named(exits):
    with pytest.raises(ProgramError, match=r"height 4(.|\n)*--profile"):
        measure_shapes(exits.path, exits.manifest, {**RANGES, "height": (4, 32, 64)})
