"""The loss terms of energy masks, against their formulas."""

from __future__ import annotations

import pytest
import torch
from foveate.export import EnergyMaskLayer, energy_regularizer, location_loss
from foveate.export.mask_losses import wanted_tokens
from torch import nn


def two_masks() -> tuple[nn.Module, list[EnergyMaskLayer]]:
    """A network, after a pass, and its masks of 4 × 4 and of 8 × 8 tokens."""
    masks = [EnergyMaskLayer(3, patch=2), EnergyMaskLayer(1)]
    for mask in masks:
        nn.init.normal_(mask.weight)
    net = nn.Sequential(*masks)
    net(torch.randn(2, 3, 8, 8))
    return net, masks


def test_the_regularizer_is_the_sum_over_masks():
    net, masks = two_masks()
    expected = masks[0].energy_loss() + masks[1].energy_loss()
    torch.testing.assert_close(energy_regularizer(net), expected)


@pytest.mark.parametrize("loss", [energy_regularizer, lambda net: location_loss(net, torch.zeros(1, 4, 4))])
def test_a_loss_needs_a_mask(loss):
    with pytest.raises(ValueError, match="insert_energy_mask"):
        loss(nn.Conv2d(1, 1, 1))


def test_a_token_is_wanted_if_it_holds_more_than_a_share():
    where = torch.zeros(1, 32, 48)
    where[0, :5, 16:22] = 1  # 30 px of 256
    where[0, 16:21, :5] = 1  # 25 px
    assert wanted_tokens(where, (2, 3), 0.1)[0, 0].tolist() == [[0, 1, 0], [0, 0, 0]]


def test_location_loss_is_the_weighted_cross_entropy_of_keep():
    net, masks = two_masks()
    where = torch.zeros(2, 32, 32)
    where[0, :16, :16] = 1
    expected = torch.tensor(0.0)
    for mask, side in zip(masks, (4, 8), strict=True):
        m = mask.probability()[:, 0].double()
        target = torch.zeros(2, side, side, dtype=torch.double)
        target[0, : side // 2, : side // 2] = 1
        expected = expected + (-3 * target * m.log() - (1 - target) * (1 - m).log()).mean()
    torch.testing.assert_close(location_loss(net, where, miss=3), expected.float())


def test_location_loss_finds_the_object():
    """Bright squares on dark noise: after some steps, the mask keeps them and little else."""
    torch.manual_seed(0)
    x, where = torch.rand(16, 4, 16, 16), torch.zeros(16, 16, 16)
    where[:, 4:8, 8:12] = 1
    x[:, 0] += 3 * where
    mask = EnergyMaskLayer(4, patch=2)
    optimizer = torch.optim.Adam(mask.parameters(), lr=0.3)
    for _ in range(80):
        mask(x)
        optimizer.zero_grad()
        location_loss(mask, where).backward()
        optimizer.step()
    keep = mask(x)[:, 0]
    assert keep[where == 1].all() and keep.mean() < 1.1 * where.mean()


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8)])
def test_where_must_fit_the_images(shape):
    with pytest.raises(ValueError, match=r"expected \[2, H, W\]"):
        location_loss(two_masks()[0], torch.zeros(shape))
