"""Laws of the projection: what softness does to weights, whatever they are."""

from __future__ import annotations

import numpy as np
import pytest
from foveate.export import equivariance
from foveate.export.groups import Element, Group, Space
from foveate.runtime.errors import InputError
from hypothesis import given, settings
from hypothesis import strategies as st

GROUPS = st.sampled_from(["C2", "C4", "D4", "C8", "C18"]).map(Group)
SPACES = st.tuples(
    st.builds(Space, st.sampled_from(["scalar", "vector"]), st.integers(1, 4)),
    st.builds(Space, st.sampled_from(["scalar", "vector"])),
)
SOFTNESS = st.floats(0, 1)
LAW = settings(max_examples=30, deadline=None)


def weights(spaces, seed: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, spaces[0].size * spaces[1].size))


def mean_level(values: np.ndarray, group: Group, spaces) -> float:
    """‖L w‖ ÷ ‖w‖."""
    return float(
        np.linalg.norm(values @ equivariance.constraint(group, *spaces).T) / (np.linalg.norm(values) or 1)
    )


@LAW
@given(GROUPS, SPACES, SOFTNESS)
def test_a_cut_is_a_projector(group, spaces, softness):
    matrix = equivariance.damping(group, *spaces, softness, True)
    assert np.allclose(matrix @ matrix, matrix, atol=1e-7) and np.allclose(matrix, matrix.T)


@LAW
@given(GROUPS, SPACES, SOFTNESS, SOFTNESS, st.booleans(), st.integers(0, 99))
def test_softer_weights_are_further_from_equivariant(group, spaces, one, other, cut, seed):
    low, high = sorted((one, other))
    values = weights(spaces, seed)
    found = [
        mean_level(values @ equivariance.damping(group, *spaces, s, cut), group, spaces) for s in (low, high)
    ]
    assert found[0] <= found[1] + 1e-7


@LAW
@given(GROUPS, SPACES, SOFTNESS, st.booleans(), st.integers(0, 99))
def test_no_element_exceeds_the_bound(group, spaces, softness, cut, seed):
    values = weights(spaces, seed) @ equivariance.damping(group, *spaces, softness, cut)
    bound = equivariance.bound(values, group, *spaces)
    assert all(equivariance.error(values, g, *spaces) <= bound + 1e-7 for g in group.elements())


@LAW
@given(GROUPS, SPACES, st.booleans(), st.integers(0, 99))
def test_both_ends_are_exact(group, spaces, cut, seed):
    assert np.array_equal(
        equivariance.damping(group, *spaces, 1.0, cut), np.eye(spaces[0].size * spaces[1].size)
    )
    strict = weights(spaces, seed) @ equivariance.damping(group, *spaces, 0.0, cut)
    assert np.abs(strict @ equivariance.constraint(group, *spaces).T).max() < 1e-7


@LAW
@given(st.sampled_from(["C4", "D4"]), st.integers(1, 6), st.sampled_from([1e-12, 0.0]))
def test_strict_is_the_mean_over_the_group(name, size, softness):
    group, space = Group(name), Space(grid=size)
    mean = np.mean([space.action(g) for g in (Element(), *group.elements())], 0)
    assert np.allclose(equivariance.damping(group, space, Space(), softness, False), mean, atol=1e-9)


@LAW
@given(st.sampled_from(["C4", "D4"]), st.integers(1, 5), SOFTNESS, st.booleans())
def test_what_is_kept_does_not_depend_on_the_basis_of_a_level(name, size, softness, cut):
    """It is a function of the levels, which the group leaves as they are: it commutes with every element."""
    group, space = Group(name), Space(grid=size)
    matrix = equivariance.damping(group, space, Space(), softness, cut)
    for g in group.elements():
        assert np.allclose(space.action(g) @ matrix, matrix @ space.action(g), atol=1e-9)


def test_the_levels_of_C4_are_three_whatever_the_size():
    for size in (3, 4, 7):
        found = equivariance.levels(Group("C4"), Space(grid=size), Space())[0]
        assert np.allclose(np.unique(found.round(6)), [0, 0.900316, 1.27324], atol=1e-5)


def test_strict_maps_of_vectors_are_turns_and_scalings():
    vector = Space("vector")
    turn = weights((vector, vector), 0, 1) @ equivariance.damping(Group("C8"), vector, vector, 0.0, False)
    (a, b), (c, d) = turn.reshape(2, 2)
    assert np.isclose(a, d) and np.isclose(b, -c) and abs(b) > 0.01
    mirrored = weights((vector, vector), 0, 1) @ equivariance.damping(Group("D4"), vector, vector, 0.0, False)
    assert np.allclose(mirrored.reshape(2, 2), a * np.eye(2))


@LAW
@given(st.sampled_from(["C4", "D4"]), st.integers(1, 5), st.sampled_from(["scalar", "vector"]))
def test_actions_of_quarter_turns_are_as_numpy_does_them(name, size, field):
    field_map = np.random.default_rng(size).standard_normal((Space(field).size, size, size))
    for g in Group(name).elements():
        moved = np.flip(field_map, 2) if g.mirrored else field_map
        moved = np.rot90(moved, round(g.angle / (np.pi / 2)), (1, 2))
        expected = np.tensordot(Space(field).action(g), moved, 1)
        got = Space(field, size).action(g) @ field_map.ravel()
        assert np.allclose(got, expected.ravel())


@pytest.mark.parametrize("name", ["C1", "C0", "D8", "SO2", "c4"])
def test_unknown_groups_are_refused(name):
    with pytest.raises(InputError, match="C4, D4 or another"):
        Group(name)
