"""The torch op against the formulas of ERSM written plainly in numpy, and its gradients."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from foveate.export import EnergyMaskLayer
from foveate.export.energy_mask import energy_mask, from_tokens, to_tokens
from hypothesis import given, settings
from hypothesis import strategies as st


def reference(arrays, patch, soft):
    """Token by token, as the paper writes it."""
    x, weight, bias, threshold, temperature, lam, gamma = arrays
    batch, channels, height, width = x.shape
    rows, columns = -(-height // patch), -(-width // patch)
    padded = np.zeros((batch, channels, rows * patch, columns * patch))
    padded[:, :, :height, :width] = x
    keep = np.zeros((batch, 1, height, width))
    logits, energy = np.zeros((2, batch, 1, rows, columns))
    for b in range(batch):
        units = np.zeros((rows, columns, channels * patch**2))
        for i in range(rows):
            for j in range(columns):
                block = padded[b, :, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
                token = block.transpose(1, 2, 0).ravel()  # (dy, dx, c)
                units[i, j] = token / (np.linalg.norm(token) + 1e-6)
        for i in range(rows):
            for j in range(columns):
                z = units[i, j] @ weight.ravel() + bias[0]
                near = [(i + dy, j + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
                inside = [(r, c) for r, c in near if 0 <= r < rows and 0 <= c < columns]
                pairwise = sum(units[i, j] @ units[r, c] for r, c in inside)
                logits[b, 0, i, j] = z
                energy[b, 0, i, j] = lam * np.logaddexp(0, z) + gamma * np.logaddexp(0, pairwise)
                m = 1 / (1 + np.exp(z / temperature))
                kept = (m if soft else 1.0) if m > threshold else 0.0
                keep[b, 0, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch] = kept
    return keep, logits, energy


def arguments(seed, batch, channels, height, width, patch, dtype=torch.float64) -> Any:
    """x, weight, bias, threshold, temperature, lam, gamma."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, height, width, generator=random, dtype=dtype)
    weight = torch.randn(1, channels * patch**2, 1, 1, generator=random, dtype=dtype)
    bias = torch.randn(1, generator=random, dtype=dtype)
    return [x, weight, bias, *(torch.tensor(v, dtype=dtype) for v in (0.45, 1.3, 0.7, 0.4))]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 2),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 4),
    st.booleans(),
)
def test_op_follows_the_paper(seed, batch, channels, height, width, patch, soft):
    given_ = arguments(seed, batch, channels, height, width, patch)
    got = energy_mask(*given_, patch, soft)
    expected = reference([a.numpy() for a in given_], patch, soft)
    for tensor, array in zip(got, expected, strict=True):
        np.testing.assert_allclose(tensor.numpy(), array, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_tokens_are_in_the_order_of_space_to_depth_and_fold_back(channels, height, width, patch):
    x = torch.arange(2 * channels * height * width, dtype=torch.float32).reshape(2, channels, height, width)
    tokens = to_tokens(x, patch)
    dy, dx, c = patch - 1, 0, channels - 1
    row = dy if dy < height else None
    expected = x[1, c, row, dx] if row is not None else torch.tensor(0.0)
    assert tokens[1, (dy * patch + dx) * channels + c, 0, 0] == expected
    assert torch.equal(from_tokens(tokens, patch, height, width), x)


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_gradients_are_exact_where_nothing_is_thresholded(patch):
    x, weight, bias, _, *choices = arguments(patch, 2, 2, 4, 5, patch)
    inputs = [v.requires_grad_() for v in (x, weight, bias, *choices)]

    def call(x, weight, bias, *choices):
        return energy_mask(x, weight, bias, torch.tensor(-1.0), *choices, patch, True)

    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)


def test_hard_threshold_has_the_gradient_of_the_probability():
    hard, soft = arguments(0, 1, 3, 6, 6, 2), arguments(0, 1, 3, 6, 6, 2)
    soft[3] = torch.tensor(-1.0, dtype=torch.float64)  # keeps everything: keep is m itself
    gradients = []
    for values, is_soft in ((hard, False), (soft, True)):
        values[0].requires_grad_()
        energy_mask(*values, 2, is_soft)[0].sum().backward()
        gradients.append(values[0].grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_zero_features_have_finite_gradients():
    values = arguments(1, 1, 2, 4, 4, 2, torch.float32)
    values[0].zero_().requires_grad_()
    keep, logits, energy = energy_mask(*values, 2, False)
    (keep.sum() + logits.sum() + energy.sum()).backward()
    assert values[0].grad.isfinite().all()


def test_op_is_registered_completely():
    values = arguments(2, 2, 3, 5, 7, 2, torch.float32)
    for value in values[:3]:
        value.requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.foveate.energy_mask.default, (*values, 2, False), test_utils=checks)


def test_half_precision_features_are_scored_in_float32():
    layer = EnergyMaskLayer(4)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        keep = layer(x.bfloat16())
    assert keep.dtype == torch.bfloat16
    assert layer.logits is not None and layer.logits.dtype == torch.float32
    (keep * x).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32


def test_layer_starts_open_and_has_the_papers_loss():
    layer = EnergyMaskLayer(3, patch=2, gamma=0.02)
    x = torch.randn(2, 3, 9, 9)
    assert layer(x).eq(1).all()
    assert layer.active_fraction().tolist() == [1.0, 1.0]
    assert layer.logits is not None and layer.energy is not None
    m = torch.sigmoid(-layer.logits)
    torch.testing.assert_close(layer.energy_loss(), (m * layer.energy).mean())


def test_active_fraction_counts_positions_of_each_image():
    layer = EnergyMaskLayer(1)
    with torch.no_grad():
        layer.weight.fill_(10.0)
        layer.bias.fill_(0.0)
    x = torch.full((2, 1, 4, 4), 1.0)  # z = 10: dropped
    x[1, :, :2] = -1.0  # z = −10: kept
    layer(x)
    assert layer.active_fraction().tolist() == [0.0, 0.5]


def test_layer_can_be_copied_after_a_forward_pass():
    layer = EnergyMaskLayer(3)
    layer(torch.randn(1, 3, 4, 4))
    assert copy.deepcopy(layer).logits is None
    with pytest.raises(RuntimeError, match="forward pass first"):
        copy.deepcopy(layer).energy_loss()
