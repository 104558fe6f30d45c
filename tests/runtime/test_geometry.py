"""Dirty positions: terms against their definition, cells against theirs."""

from __future__ import annotations

import numpy as np
from foveate.runtime.geometry import count_cells, dirty_map, project_cells, reach_map, support
from foveate.runtime.manifest import Term
from hypothesis import given
from hypothesis import strategies as st

sizes = st.tuples(st.integers(1, 13), st.integers(1, 13))


@st.composite
def maps(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(sizes)
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    return np.random.default_rng(draw(st.integers(0, 99))).random((height, width)) < density


@st.composite
def terms(draw: st.DrawFn) -> Term:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    low, extent = pair(-6, 4), pair(0, 11)
    high = (low[0] + extent[0], low[1] + extent[1])
    return Term("source", pair(1, 4), pair(1, 4), low, high)


def by_definition(source: np.ndarray, term: Term, size: tuple[int, int]) -> np.ndarray:
    out = np.zeros(size, bool)
    for y, x in np.ndindex(*size):
        base = (y * term.num[0] // term.den[0], x * term.num[1] // term.den[1])
        rows, columns = (
            slice(max(0, b + low), max(0, b + high + 1))
            for b, low, high in zip(base, term.low, term.high, strict=True)
        )
        out[y, x] = source[rows, columns].any()
    return out


@given(maps(), terms(), sizes)
def test_a_term_reaches_what_its_definition_says(source: np.ndarray, term: Term, size: tuple[int, int]):
    assert np.array_equal(reach_map(source, term, size), by_definition(source, term, size))


@given(maps(), st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_a_cell_is_dirty_where_any_of_its_positions_is(positions: np.ndarray, per_cell: tuple[int, int]):
    cells = count_cells((positions.shape[0], positions.shape[1]), per_cell)
    found = project_cells(positions, per_cell, cells)
    for y, x in np.ndindex(*cells):
        block = positions[y * per_cell[0] : (y + 1) * per_cell[0], x * per_cell[1] : (x + 1) * per_cell[1]]
        assert found[y, x] == block.any()


def test_an_identity_is_the_very_source():
    source = np.eye(5, dtype=bool)
    assert reach_map(source, Term("m"), (5, 5)) is source
    assert project_cells(source, (1, 1), (5, 5)) is source


def test_terms_unite():
    one, other = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    one[0, 0] = other[3, 3] = True
    assert np.argwhere(dirty_map([(one, Term("a")), (other, Term("b"))], (4, 4))).tolist() == [[0, 0], [3, 3]]


def test_support_is_any_channel_on_either_layout():
    mask = np.zeros((1, 3, 4, 5), np.float32)
    mask[0, 2, 1, 3] = 0.5
    assert np.argwhere(support(mask)).tolist() == [[1, 3]]
    assert np.argwhere(support(mask.transpose(0, 2, 3, 1), (1, 2))).tolist() == [[1, 3]]
