"""soften and fold: networks of timm and plain ones."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from foveate.export import (
    export_program,
    fold,
    import_timm,
    insert_energy_mask,
    load_checkpoint,
    read_config,
    save_checkpoint,
    small_resnet,
    soft_tensors,
    soften,
)
from foveate.runtime.errors import InputError
from torch import Tensor, nn

RESNET = {
    "layers": [1, 1, 1, 1],
    "channels": [4, 4, 8, 8],
    "stem_type": "deep",
    "stem_width": 4,
    "in_chans": 1,
    "num_classes": 3,
}
VIT = {
    "img_size": 20,
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 12,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 3,
}


def timm_net(kind: str) -> nn.Module:
    name, args = {"resnet": ("resnet18", RESNET), "vit": ("vit_tiny_patch16_224", VIT)}[kind]
    torch.manual_seed(0)
    net = import_timm().create_model(name, **args)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
    for parameter in net.parameters() if kind == "vit" else ():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5)
    return net.eval()


def images(kind: str, count: int = 2) -> Tensor:
    side = {"resnet": 33, "vit": 20}[kind]
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(1))


KINDS = pytest.mark.parametrize("kind", ["resnet", "vit"])


@KINDS
@torch.no_grad()
def test_a_strict_network_answers_turned_images_alike(kind):
    plain, x = timm_net(kind), images(kind)
    upright = plain(x)
    turning, mirroring = soften(timm_net(kind), "C4", 0.0), soften(timm_net(kind), "D4", 0.0)
    for turns in (1, 2, 3):
        moved = x.rot90(turns, (2, 3))
        assert torch.allclose(turning(moved), turning(x), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(plain(moved), upright, rtol=1e-2, atol=1e-3)
    assert torch.allclose(mirroring(x.flip(3)), mirroring(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_strict_layer_is_not_where_its_stride_is_off_the_center():
    net = soften(timm_net("resnet"), "C4", 0.0)
    x = torch.randn(1, 1, 32, 32)
    assert not torch.allclose(net(x.rot90(1, (2, 3))), net(x), atol=1e-4)


@KINDS
@torch.no_grad()
def test_softness_one_changes_no_bit(kind):
    x = images(kind)
    assert torch.equal(soften(timm_net(kind), "C4", 1.0)(x), timm_net(kind)(x))


@KINDS
def test_folded_is_parametrized_in_plain_weights(kind):
    plain, net, x = timm_net(kind), soften(timm_net(kind), "D4", 0.3), images(kind)
    folded = fold(net)
    assert type(folded) is type(plain)
    assert {k: v.shape for k, v in folded.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
    assert all(type(a) is type(b) for a, b in zip(folded.modules(), plain.modules(), strict=True))
    with torch.no_grad():
        assert torch.allclose(folded(x), net(x), rtol=1e-5, atol=1e-6)
    before = net(x)
    before.sum().backward()  # the one that was folded trains on
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert not torch.allclose(net(x), before) and torch.allclose(folded(x), before, atol=1e-5)


@torch.no_grad()
def test_what_is_softened():
    assert [t.name for t in soft_tensors(soften(timm_net("vit")))] == ["pos_embed", "patch_embed.proj.weight"]
    net = timm_net("resnet")
    soften(net, layers=["layer1.*", "conv1.0"])
    soften(net, "D4", 0.0, layers="layer2.0.conv1")
    names = {t.name: t.softness.group for t in soft_tensors(net)}
    assert names == {
        "conv1.0.weight": "C4",
        "layer1.0.conv1.weight": "C4",
        "layer1.0.conv2.weight": "C4",
        "layer2.0.conv1.weight": "D4",
    }
    before = timm_net("vit").get_parameter("pos_embed")
    after = fold(soften(timm_net("vit"), softness=0.0)).get_parameter("pos_embed")
    assert torch.equal(after[:, :1], before[:, :1])  # the class token's
    assert not torch.allclose(after, before)


@torch.no_grad()
def test_vector_fields_turn_with_the_image():
    """A conv from a map to a field of vectors, and a linear layer of vectors behind it."""
    torch.manual_seed(0)
    conv, mix = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 1)
    soften(conv, "C4", 0.0, outputs="vector")
    soften(mix, "C4", 0.0, inputs="vector", outputs="vector")
    x = torch.randn(1, 1, 9, 9)
    field, moved = mix(conv(x))[0], mix(conv(x.rot90(1, (2, 3))))[0]
    right, down = field.unflatten(0, (3, 2)).unbind(1)
    expected = torch.stack([down, -right], 1).flatten(0, 1).rot90(1, (1, 2))
    assert torch.allclose(moved, expected, atol=1e-5) and field.abs().mean() > 0.02


@torch.no_grad()
def test_a_strict_transposed_conv_turns_with_the_image():
    torch.manual_seed(0)
    for up in (nn.ConvTranspose2d(2, 3, 2, stride=2), nn.ConvTranspose2d(2, 4, 3, 2, 1, groups=2)):
        x = torch.randn(1, 2, 7, 7)
        assert not torch.allclose(up(x.rot90(1, (2, 3))), up(x).rot90(1, (2, 3)), atol=1e-2)
        soften(up, "D4", 0.0)
        assert torch.allclose(up(x.rot90(1, (2, 3))), up(x).rot90(1, (2, 3)), atol=1e-6)
        assert torch.allclose(up(x.flip(3)), up(x).flip(3), atol=1e-6)


@torch.no_grad()
def test_a_linear_layer_of_vectors_turns_with_them():
    torch.manual_seed(0)
    layer = soften(nn.Linear(4, 6), "C8", 0.0, inputs="vector", outputs="vector")
    c = 0.5**0.5
    turn = torch.tensor([[c, c], [-c, c]])

    def turned(vectors: Tensor) -> Tensor:
        return (vectors.unflatten(1, (-1, 2)) @ turn.T).flatten(1)

    x = torch.randn(5, 4)
    assert torch.allclose(layer(turned(x)), turned(layer(x)), atol=1e-6)


@torch.no_grad()
def test_masks_of_strict_networks_turn_with_the_image():
    torch.manual_seed(0)
    net = insert_energy_mask(
        small_resnet([4], [1], 3, 4, 1), "stem", sample=torch.zeros(1, 1, 61, 61), patch=4, start=0.0
    )
    nn.init.normal_(net.masks[0].weight)
    soften(net.eval(), "C4", 0.0)
    assert "mask0.weight" in [t.name for t in soft_tensors(net)]
    x, keeps = torch.randn(1, 1, 61, 61), []
    net.masks[0].register_forward_hook(lambda module, inputs, keep: keeps.append(keep))
    for image in (x, x.rot90(1, (2, 3))):
        net(image)
    assert torch.equal(keeps[1], keeps[0].rot90(1, (2, 3))) and 0 < keeps[0].mean() < 1


def test_checkpoints_say_what_is_soft(tmp_path):
    config = {"model": "timm:resnet18", "args": RESNET, "sample": [1, 1, 33, 33]}
    net, x = soften(timm_net("resnet"), "C4", 0.2, ["conv1.*", "layer3.*"]), images("resnet")
    for module in (net, fold(net)):
        path = save_checkpoint(module, tmp_path / "net.safetensors", config)
        again = load_checkpoint(path)
        assert torch.allclose(again(x), net(x), atol=1e-6)
        assert [t.facts() for t in soft_tensors(again)] == [t.facts() for t in soft_tensors(module)]
    (call,) = read_config(path)["soft"]  # type: ignore[index]
    assert call["layers"] == ["conv1.0", "conv1.3", "conv1.6", "layer3.0.conv1", "layer3.0.conv2"]
    with pytest.raises(InputError, match="soften"):
        load_checkpoint(save_checkpoint(net, tmp_path / "a.safetensors"), timm_net("resnet"))


def test_the_program_has_no_trace_but_the_bounds(tmp_path):
    net, x = soften(timm_net("vit"), "C4", 0.3), images("vit", 1)
    plain = timm_net("vit")
    plain.load_state_dict(fold(net).state_dict())
    soft, hard = (
        onnx.load(export_program(n, x, tmp_path / f"{i}.onnx", dynamic=("batch",)))
        for i, n in enumerate((net, plain))
    )
    weights = [{i.name: onnx.numpy_helper.to_array(i) for i in m.graph.initializer} for m in (soft, hard)]
    assert weights[0].keys() == weights[1].keys()
    assert all(
        np.allclose(value, weights[1][name], rtol=1e-5, atol=1e-6) for name, value in weights[0].items()
    )
    assert list(soft.graph.node) == list(hard.graph.node)
    entries = json.loads({p.key: p.value for p in soft.metadata_props}["foveate.equivariance"])
    assert [e["tensor"] for e in entries] == [t.name for t in soft_tensors(net)]
    assert all(e["group"] == "C4" and e["softness"] == 0.3 and 0 < e["bound"] < 3 for e in entries)
    assert not any(p.key == "foveate.equivariance" for p in hard.metadata_props)
    assert "parametrizations" in str(list(net.state_dict()))  # the module itself was not folded


def test_what_cannot_be_softened_is_refused():
    net = timm_net("resnet")
    for arguments, match in [
        ({"softness": 1.5}, "0 \\(strict\\) to 1"),
        ({"layers": "layer9"}, "layer1.0.conv1"),
        ({"layers": "fc"}, "nothing can be softened"),
        ({"group": "C5x"}, "another C<n>"),
        ({"inputs": "tensor"}, "scalar or vector"),
        ({"outputs": "vector", "layers": "fc"}, "pairs of channels"),
    ]:
        with pytest.raises(InputError, match=match):
            soften(net, **arguments)
    with pytest.raises(InputError, match="so small a grid"):
        soften(nn.Conv2d(1, 1, 4), "C8", 0.0)
    assert not soft_tensors(net)
    soften(nn.Conv2d(1, 1, 4), "C8", 0.1)
