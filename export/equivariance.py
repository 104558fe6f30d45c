"""Softly equivariant linear maps: subspaces of weights by how much a group changes them (arXiv 2603.26657).

A linear map W: X → Y is equivariant where W ρ_X(g) = ρ_Y(g) W. A layer's kernel is such a map from patches to values,
with ρ_X = what g does to a patch; a filter of a scalar map has ρ_Y = 1, and the condition says that g leaves it as it
is. To first order this is L vec(W) = 0 with

    L = dρ_Xᵀ ⊗ I − I ⊗ dρ_Y,      dρ = (ρ(g) − 1) / step,  stacked over generators g,

whose singular values, the *levels*, say by how much of itself a direction of weights changes a radian. Softness s
keeps level 0, and damps a direction of level σ by s^σ: 0 leaves what is equivariant, 1 everything. All that is done
depends on levels, never on the singular vectors chosen within one.
"""

from __future__ import annotations

import functools
from math import pi

import numpy as np

from .groups import Element, Group, Space

_ROUNDING = 1e-9  # of the largest level: what is below, is 0


@functools.lru_cache(maxsize=64)
def constraint(group: Group, inputs: Space, outputs: Space) -> np.ndarray:
    """L, float64 [generators · outputs · inputs, outputs · inputs], for W [outputs, inputs] row by row."""
    keep_rows, keep_columns = np.eye(outputs.size), np.eye(inputs.size)
    return np.concatenate([
        factor
        * (np.kron(keep_rows, inputs.action(g).T) - np.kron(outputs.action(g), keep_columns))
        for g, factor in group.differences()
    ])  # fmt: skip


@functools.lru_cache(maxsize=64)
def levels(group: Group, inputs: Space, outputs: Space) -> tuple[np.ndarray, np.ndarray]:
    """The levels σ [n], descending, and their right singular vectors [n, n], a row each."""
    _, sigma, rows = np.linalg.svd(constraint(group, inputs, outputs), full_matrices=False)
    sigma[sigma < _ROUNDING * sigma.max(initial=1.0)] = 0.0
    return sigma, rows


@functools.lru_cache(maxsize=64)
def damping(group: Group, inputs: Space, outputs: Space, softness: float, cut: bool) -> np.ndarray:
    """The symmetric matrix [n, n] that weights are multiplied by: s^σ on level σ. cut: instead 1 up to the level s·(the
    highest) and 0 above, the paper's projector B with b there."""
    sigma, rows = levels(group, inputs, outputs)
    if cut:
        factor = (sigma <= softness * sigma.max() * (1 + _ROUNDING)).astype(float)
    else:
        factor = np.float_power(softness, sigma)  # 0⁰ = 1
    matrix = np.eye(len(sigma)) + (rows.T * (factor - 1)) @ rows  # softness 1: exactly the identity
    matrix[np.abs(matrix) < _ROUNDING] = 0.0
    return matrix


def error(weights: np.ndarray, element: Element, inputs: Space, outputs: Space) -> float:
    """‖W ρ_X(g) − ρ_Y(g) W‖ ÷ ‖W‖ (Frobenius) over all W of `weights` [..., outputs · inputs]; 0 for W = 0.

    For any inputs x it is ≥ ‖F(ρ_X(g) x) − ρ_Y(g) F(x)‖ ÷ (‖J_F‖_F ‖x‖) of the linear map F."""
    blocks = _blocks(weights, inputs, outputs)
    return _share(blocks @ inputs.action(element) - outputs.action(element) @ blocks, blocks)


def bound(weights: np.ndarray, group: Group, inputs: Space, outputs: Space) -> float:
    """ε_b = b·√n_G·r_G + δ_G, which no `error` of the group exceeds.

    b = ‖L vec(W)‖ ÷ ‖W‖ is the mean level of these weights, so at most the highest that a cut leaves; n_G generators;
    r_G = π, the longest way from the identity. Of n turns the first-order term counts each once, as W Xⁿ − Yⁿ W =
    Σ Yʲ (W X − Y W) Xⁿ⁻¹⁻ʲ, which norm-preserving actions do not enlarge: there is no residue. δ_G is what interpolated
    turns add, as n of them are not the turn by n steps; they may enlarge, too, and differ by direction (`gain`)."""
    blocks = _blocks(weights, inputs, outputs)
    flat = blocks.reshape(-1, inputs.size * outputs.size)
    level = _share(flat @ constraint(group, inputs, outputs).T, flat)
    gain, residue = 1.0, 0.0
    if not inputs.exact(group):
        powers = {g: _powers(inputs.action(g), group.order // 2) for g in _turns(group)}
        gain = 2**0.5 * max(float(np.linalg.norm(p, 2)) for ps in powers.values() for p in ps)
        for element in group.elements():
            turn, count = _as_turns(element, group)
            residue = max(residue, _share(blocks @ (inputs.action(element) - powers[turn][count]), blocks))
    return gain * level * group.generators**0.5 * pi + residue


def _turns(group: Group) -> tuple[Element, Element]:
    return Element(group.step), Element(-group.step)


def _as_turns(element: Element, group: Group) -> tuple[Element, int]:
    return _turns(group)[element.angle < 0], round(abs(element.angle) / group.step)


def _powers(matrix: np.ndarray, count: int) -> list[np.ndarray]:
    found = [np.eye(len(matrix))]
    for _ in range(count):
        found.append(found[-1] @ matrix)
    return found


def _blocks(weights: np.ndarray, inputs: Space, outputs: Space) -> np.ndarray:
    return np.asarray(weights, np.float64).reshape(-1, outputs.size, inputs.size)


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    size = float(np.linalg.norm(whole))
    return float(np.linalg.norm(part)) / size if size else 0.0
