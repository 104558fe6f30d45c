"""Masks inserted into backbones that know nothing of them."""

from __future__ import annotations

import copy
import operator

import pytest
import torch
import torch.nn.functional as F
from foveate.export import energy_regularizer, import_timm, insert_energy_mask, small_resnet
from foveate.export.insert import _PERSIST
from foveate.runtime.errors import InputError, ProgramError
from torch import nn

SAMPLE = torch.zeros(1, 3, 64, 64)


class FunctionalNet(nn.Module):
    """A shared ReLU, F.relu, functional dropout, an odd number of channels, and a module that never runs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 12, 3, 2, 1)
        self.relu = nn.ReLU(inplace=True)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = self.relu(self.stem(x))
        y = self.relu(self.bn1(self.conv1(x)))
        y = F.dropout(self.bn2(self.conv2(y)), 0.5, self.training)
        x = F.relu(x + y)
        x = F.relu(self.down(x), inplace=True)
        return self.head(x.mean((2, 3)))


def timm_net(name: str = "resnet18") -> nn.Module:
    torch.manual_seed(0)
    return import_timm().create_model(name, num_classes=7).eval()


def persistent_products(model) -> list:
    return [n for n in model.graph.nodes if n.meta.get(_PERSIST)]


def values_at(model, nodes, image) -> dict:
    """The tensors at those nodes."""
    found = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n):
            result = super().run_node(n)
            if n in nodes:
                found[n] = result
            return result

    with torch.no_grad():
        Recorder(model).run(image)
    return found


def half_open(model, mask, image) -> None:
    """Give the mask random weights, and the threshold that leaves half of this image's tokens active."""
    torch.manual_seed(1)
    with torch.no_grad():
        mask.weight.normal_()
        model(image)
        mask.threshold.copy_(mask.probability().median())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_open_mask_changes_no_answer_and_no_key_of_a_timm_resnet(name):
    net = timm_net(name)
    keys, image = set(net.state_dict()), torch.randn(2, 3, 65, 97)
    expected = net(image)
    masked = insert_energy_mask(net, after="layer1", sample=SAMPLE).eval()
    torch.testing.assert_close(masked(image), expected, rtol=0, atol=0)
    added = set(masked.state_dict()) - keys
    assert keys <= set(masked.state_dict())
    assert {k.partition(".")[0] for k in added} == {"mask0"}
    masked.load_state_dict(net.state_dict(), strict=False)


def test_persistent_mask_is_applied_once_behind_each_conv_of_resnet18():
    masked = insert_energy_mask(timm_net(), after="layer1", sample=SAMPLE)
    # 3 layers × 2 blocks × (after the first ReLU, after the one behind the add); shortcut convs end in the latter
    assert len(persistent_products(masked)) == 12
    pools = [n for n in masked.graph.nodes if n.target is F.max_pool2d]
    assert len(pools) == 3  # one for each resolution


def test_block_masks_only_behind_residual_adds_and_none_nowhere():
    assert (
        len(persistent_products(insert_energy_mask(timm_net(), "layer1", persist="block", sample=SAMPLE)))
        == 6
    )
    assert not persistent_products(insert_energy_mask(timm_net(), "layer1", persist=None, sample=SAMPLE))


@pytest.mark.parametrize("soft", [False, True])
def test_masked_activations_are_zero_outside_the_mask(soft):
    masked = insert_energy_mask(timm_net(), after="layer1", sample=SAMPLE, soft=soft).eval()
    mask, image = masked.masks[0], torch.randn(2, 3, 65, 97)
    half_open(masked, mask, image)
    products = [n for n in masked.graph.nodes if n.target is operator.mul]
    found = values_at(masked, products, image)
    assert 0.4 < mask.active_fraction().mean() < 0.6
    keep = mask.probability() > mask.threshold
    for value in found.values():
        at = keep.float()
        while at.shape[2:] != value.shape[2:]:
            at = F.max_pool2d(at, 2, 2, ceil_mode=True)
        assert value[at.expand_as(value) == 0].eq(0).all()
        assert value[at.expand_as(value) == 1].ne(0).any()


def test_second_mask_narrows_the_first():
    masked = insert_energy_mask(timm_net(), after="layer1", sample=SAMPLE)
    masked = insert_energy_mask(masked, after="layer2", patch=2, sample=SAMPLE).eval()
    assert [i["name"] for i in masked.insertions] == ["mask0", "mask1"]
    assert len(masked.masks) == 2
    assert len(persistent_products(masked)) == 12  # replaced, not stacked
    first, second = masked.masks
    image = torch.zeros(1, 3, 128, 128)
    image[:, :, 32:64, 32:64] = torch.randn(3, 32, 32)
    half_open(masked, first, image)
    layer2 = [n for n in masked.graph.nodes if "layer2" in n.meta.get("foveate.modules", ())]
    value = values_at(masked, layer2, image)[layer2[0]]  # the second mask is open
    keep = F.max_pool2d((first.probability() > first.threshold).float(), 2, 2, ceil_mode=True)
    assert 0 < keep.mean() < 1
    assert value[keep.expand_as(value) == 0].eq(0).all()
    second.threshold.fill_(2.0)  # the second drops everything
    last = persistent_products(masked)[-1]
    assert values_at(masked, [last], image)[last].eq(0).all()


def test_functional_net_keeps_its_unused_state_and_its_training_switch():
    net = FunctionalNet()
    masked = insert_energy_mask(net, after="stem", sample=SAMPLE)
    assert set(net.state_dict()) <= set(masked.state_dict())
    assert len(persistent_products(masked)) == 3
    image = torch.randn(1, 3, 33, 47)
    masked.eval()
    net.eval()
    torch.testing.assert_close(masked(image), net(image))
    masked.train()
    first, second = masked(image.repeat(2, 1, 1, 1)), masked(image.repeat(2, 1, 1, 1))
    assert not torch.equal(first, second)


def test_masks_learn_through_the_whole_network():
    masked = insert_energy_mask(small_resnet((8, 12), (1, 1), 3, stem=8), after="stem", sample=SAMPLE)
    loss = masked(torch.randn(2, 3, 64, 64)).square().sum() + energy_regularizer(masked)
    loss.backward()
    for parameter in masked.masks[0].parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


def test_tracing_leaves_batch_norm_and_modes_alone():
    net = small_resnet((8, 12), (1, 1), 3, stem=8)
    before = copy.deepcopy(net.state_dict())
    masked = insert_energy_mask(net, after="stem", sample=torch.randn(1, 3, 64, 64))
    assert masked.training and net.training and all(m.training for m in masked.modules())
    for key, value in before.items():
        torch.testing.assert_close(masked.state_dict()[key], value)


def test_copies_have_their_own_masks():
    masked = insert_energy_mask(small_resnet((8,), (1,), 3, stem=8), after="stem", sample=SAMPLE)
    masked(torch.randn(1, 3, 64, 64))
    twin = copy.deepcopy(masked)
    twin.masks[0].threshold.fill_(2.0)
    assert masked.masks[0].threshold == 0.5 and twin.insertions == masked.insertions
    insert_energy_mask(twin, after="layer1", sample=SAMPLE)
    assert len(masked.masks) == 1


def test_unknown_place_lists_candidates():
    with pytest.raises(InputError, match=r"no module of that name.*layer1, layer2"):
        insert_energy_mask(timm_net(), after="stage1", sample=SAMPLE)
    with pytest.raises(InputError, match="runs 2 times"):
        insert_energy_mask(FunctionalNet(), after="relu", sample=SAMPLE)
    with pytest.raises(InputError, match=r"shape \[1, 7\]"):
        insert_energy_mask(timm_net(), after="fc", sample=SAMPLE)


def test_wrong_arguments_are_named():
    net = small_resnet((8,), (1,), 3, stem=8)
    with pytest.raises(InputError, match="'conv', 'block' or None"):
        insert_energy_mask(net, after="stem", persist="all", sample=SAMPLE)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="choose another name"):
        insert_energy_mask(net, after="stem", name="layer1", sample=SAMPLE)
    with pytest.raises(InputError, match="does not fit the network"):
        insert_energy_mask(net, after="stem", sample=torch.zeros(1, 5, 64, 64))


def test_a_branch_on_values_is_refused():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ProgramError, match="cannot be traced"):
        insert_energy_mask(Branching(), after="layer1")


def test_a_map_that_halving_does_not_reach_is_refused():
    up = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3, 1, 1))
    with pytest.raises(InputError, match=r"a map of 64 × 64; expected 32 × 32 halved"):
        insert_energy_mask(up, after="0", sample=SAMPLE)
    insert_energy_mask(up, after="0", sample=SAMPLE, persist=None)
