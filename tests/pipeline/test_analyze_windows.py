"""The law behind selective execution: a segment on a clamped window with its halo equals the dense slice."""

from __future__ import annotations

import itertools

import numpy as np
from foveate.export.normalize import normalize
from foveate.pipeline.analyze import analyze
from foveate.pipeline.check import failing_segments, max_error, open_session
from foveate.pipeline.costs import CostModel
from foveate.pipeline.extract import extract
from foveate.pipeline.plan import PlannedSegment, plan
from foveate.pipeline.terms import to_manifest
from foveate.runtime.geometry import reach_map, support
from foveate.runtime.manifest import TensorSpec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SLOW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
SIZES = st.tuples(st.integers(11, 23), st.integers(11, 23))


def planned(random_program, data, call_ms: float):
    model = random_program(data.draw, data.draw(st.integers(2, 9)))
    normalize(model)
    height, width = data.draw(SIZES)
    analysis = analyze(model, {"images": (1, 4, height, width)})
    return plan(analysis, model=CostModel(call_ms=call_ms))


def open_specs(names, analysis):
    return [TensorSpec(n, "float32", ("?",) * len(analysis.probes.sample.shapes[n])) for n in names]


def segment_session(segment: PlannedSegment, analysis):
    specs = open_specs(segment.inputs, analysis), open_specs(segment.outputs, analysis)
    return open_session(extract(analysis.local, [n.name for n in segment.nodes], *specs, "segment"))


def windows(cells):
    """Every single cell, and every half of the map."""
    axes = [[(i, i + 1) for i in range(n)] + [(0, n // 2 + 1), (n // 2, n)] for n in cells]
    singles = itertools.product(axes[0][:-2], axes[1][:-2])
    return [*itertools.islice(singles, 0, None, 3), *itertools.product(axes[0][-2:], axes[1][-2:])]


def crop(array, per, window, origin=(0, 0), axes=(2, 3)):
    slices = [slice(None)] * array.ndim
    for axis, p, (first, end), start in zip(axes, per, window, origin, strict=True):
        slices[axis] = slice((first - start) * p, (end - start) * p)
    return array[tuple(slices)]


@SLOW
@given(data=st.data(), call_ms=st.sampled_from([0.0, 100.0]))
def test_every_window_equals_the_dense_slice(random_program, data, call_ms):
    result = planned(random_program, data, call_ms)
    analysis = result.analysis
    assert not failing_segments(result)
    for segment in (s for step in result.steps for s in step.segments):
        run, geometry = segment_session(segment, analysis), segment.geometry
        rng = np.random.default_rng(0)
        shapes = analysis.probes.sample.shapes
        feeds = {t: rng.uniform(-1, 1, shapes[t]).astype(np.float32) for t in segment.inputs}
        dense = run(segment.outputs, feeds)
        sizes = {t: np.take(a.shape, analysis.axes[t]) for t, a in (feeds | dense).items()}
        cells = [max(-(-sizes[t][i] // geometry.positions[t][i]) for t in dense) for i in (0, 1)]
        for window in windows(cells):
            low, high = geometry.halo_low, geometry.halo_high
            outer = [(max(a - low[i], 0), b + high[i]) for i, (a, b) in enumerate(window)]
            cut = {t: crop(a, geometry.positions[t], outer, axes=analysis.axes[t]) for t, a in feeds.items()}
            for name, got in run(segment.outputs, cut).items():
                per, axes = geometry.positions[name], analysis.axes[name]
                expected = crop(dense[name], per, window, axes=axes)
                inner = crop(got, per, window, [o[0] for o in outer], axes=axes)
                inner = inner[tuple(slice(n) for n in expected.shape)]
                assert max_error(inner, expected) <= 1e-5 or np.abs(inner - expected).max() < 1e-6


@SLOW
@given(data=st.data(), shape=st.sampled_from(["pixel", "noise", "corner", "empty", "full", "checkerboard"]))
def test_terms_cover_every_difference_from_the_reference_state(random_program, masked_image, data, shape):
    result = planned(random_program, data, 0.0)
    analysis = result.analysis
    stem, *others = result.steps
    image = {"images": masked_image(draw_mask(shape, *analysis.size("images")))}
    known = image | open_session(extract_step(stem.step, analysis, stem.step.outputs))(
        stem.step.outputs, image
    )
    for step in [s for s in others if s.segments][:1]:
        outputs = [o for s in step.segments for o in s.outputs]
        run = open_session(extract_step(step.step, analysis, outputs))
        feeds = {t: known[t] for t in step.step.inputs}
        now, reference = run(outputs, feeds), run(outputs, {t: np.zeros_like(a) for t, a in feeds.items()})
        maps = {
            t: support(a) if t in analysis.masks else np.ones(a.shape[2:], bool) for t, a in feeds.items()
        }
        for segment in step.segments:
            for name in segment.outputs:
                differs = np.any(now[name] != reference[name], axis=(0, other_axis(analysis.axes[name])))
                terms = to_manifest(segment.terms[name])
                reached = [reach_map(maps[term.source], term, differs.shape) for term in terms]
                maps[name] = np.logical_or.reduce(reached)
                assert not (differs & ~maps[name]).any(), name


def other_axis(axes):
    return next(a for a in (1, 2, 3) if a not in axes)


def extract_step(step, analysis, outputs):
    specs = open_specs(step.inputs, analysis), open_specs(outputs, analysis)
    return extract(analysis.program, [n.name for n in step.nodes], *specs, "step")


def draw_mask(shape: str, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    if shape == "pixel":
        mask[height // 2, width // 3] = True
    elif shape == "corner":
        mask[-3:, :2] = mask[0, -1] = True
    elif shape == "noise":
        mask = np.random.default_rng(1).random((height, width)) < 0.04
    elif shape == "full":
        mask[:] = True
    elif shape == "checkerboard":
        mask[::2, ::2] = mask[1::2, 1::2] = True
    return mask
