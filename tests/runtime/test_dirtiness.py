"""Rules of dirtiness: what segments share is worked out once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from foveate.runtime.bundle import open_bundle
from foveate.runtime.costs import guess_costs
from foveate.runtime.dirtiness import dirtiness_of
from foveate.runtime.errors import BundleError
from foveate.runtime.grid import grid_of
from foveate.runtime.manifest import GridTensor, LocalSegment, Region, Term

SHAPES = {"x": 32, "mask0.keep": 32, "keep2": 16, "a": 32, "b": 16, "c": 16, "d": 32}


def region(bundle: Path) -> Region:
    return next(s for s in open_bundle(bundle).manifest.steps if isinstance(s, Region))


def chain(*terms: Term) -> Region:
    """Segments t0, t1 … of one resolution, each dirty by its term."""
    segments = tuple(
        LocalSegment(f"s{n}", f"s{n}.onnx", (), (GridTensor(f"t{n}", dirty=(term,)),), (n % 2, 0), (0, 0))
        for n, term in enumerate(terms)
    )
    return Region("r", segments, ("x", "m"), ("t0",), ("m",), "r.onnx")


def rules(made: Region):
    names = ["x", "m", *(s.outputs[0].name for s in made.segments)]
    costs = guess_costs(dataclasses.replace(_empty_manifest(), steps=(made,)), {})
    return dirtiness_of(made, dict.fromkeys(names, (8, 8)), [(8, 8)] * len(made.segments), costs)


def _empty_manifest():
    from foveate.runtime.manifest import Manifest

    return Manifest("m", (), (), (), ())


def test_segments_under_one_mask_share_everything():
    found = rules(chain(Term("m"), Term("t0"), Term("m"), Term("t2")))
    assert len(found.maps) == len(found.cells) == 1
    assert len(found.windows) == 2, "two halos"
    assert found.segments == (0, 1, 0, 1)
    assert {w.cover_halo for w in found.windows} == {(1, 0, 0, 0)}, "one cover serves both"


def test_dirtiness_spreads_through_what_is_not_masked():
    wide = Term("t0", low=(-1, -1), high=(1, 1))
    found = rules(chain(Term("m"), wide, dataclasses.replace(wide, source="t1")))
    assert len(found.maps) == 3 and found.maps[2].terms[0][0] == 1


def test_an_input_that_is_no_mask_is_dirty_everywhere():
    found = rules(chain(Term("x")))
    assert found.maps[0].mask == "" and not found.maps[0].terms


def test_a_source_that_comes_later_is_refused():
    with pytest.raises(BundleError, match="dirtiness from 't1'"):
        rules(chain(Term("t1"), Term("m")))


def test_sizes_that_do_not_share_cells_are_refused_windows(handmade: Path):
    made = region(handmade)
    costs = guess_costs(open_bundle(handmade).manifest, {})
    assert not grid_of(made, {n: (1, 1, s, s) for n, s in SHAPES.items()}, costs).refusal
    odd = grid_of(made, {n: (1, 1, s, s) for n, s in {**SHAPES, "keep2": 15}.items()}, costs)
    assert odd.refusal == "keep2 of b is 15×15: not 16×16 cells"


def test_whole_cells_are_asked_for(handmade: Path):
    made = region(handmade)
    segments = tuple(dataclasses.replace(s, whole_cells=s.name == "b") for s in made.segments)
    costs = guess_costs(open_bundle(handmade).manifest, {})
    shapes = {**SHAPES, "x": 31, "mask0.keep": 31, "a": 31}
    found = grid_of(
        dataclasses.replace(made, segments=segments), {n: (1, 1, s, s) for n, s in shapes.items()}, costs
    )
    assert found.refusal == "a of b is 31×31: not a whole number of cells"
