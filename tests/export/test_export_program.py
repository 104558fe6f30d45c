"""torch -> program -> stock onnxruntime."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from foveate.export import export_program, insert_energy_mask, small_resnet
from foveate.export.domain import DOMAIN
from foveate.pipeline.metadata import read_labels
from foveate.runtime.errors import InputError, ProgramError
from foveate.runtime.manifest import Preprocess
from torch import nn

NAMES = ["road", "sky"]
SAMPLE = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))


def two_masks():
    """Two masks; each keeps about half of the sample's tokens."""
    torch.manual_seed(0)
    net = insert_energy_mask(small_resnet((8, 12), (1, 1), 5, stem=8), "stem", sample=SAMPLE, gamma=0.02)
    net = insert_energy_mask(net, "layer1", sample=SAMPLE, patch=3, soft=True).eval()
    with torch.no_grad():
        for mask in net.masks:
            mask.weight.normal_()
            net(SAMPLE)
            mask.threshold.copy_(mask.probability().quantile(0.4) + 1e-4)
    return net


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    net = two_masks()
    preprocess = Preprocess(size=(64, 48), mean=(0.5, 0.4, 0.3))
    path = tmp_path_factory.mktemp("program") / "net.onnx"
    assert export_program(net, SAMPLE, path, name="net", preprocess=preprocess, labels=NAMES) == path
    return net, path


def run(path, feeds) -> Any:
    return onnxruntime.InferenceSession(str(path)).run(["output"], feeds)[0]


@pytest.mark.parametrize("shape", [(1, 3, 64, 48), (3, 3, 51, 77)])
def test_answers_equal_torch_at_any_size(exported, shape):
    net, path = exported
    image = torch.randn(shape)
    got = run(path, {"images": image.numpy()})
    with torch.no_grad():
        expected = net(image).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_a_choice_is_fed_at_run_time_without_a_new_export(exported):
    net, path = exported
    image = {"images": SAMPLE.numpy()}
    before = run(path, image)
    default = float(net.masks[0].threshold)
    with torch.no_grad():
        net.masks[0].threshold.fill_(0.0)
        expected = net(SAMPLE).numpy()
        net.masks[0].threshold.fill_(default)
    got = run(path, {**image, "mask0.threshold": np.array(0.0, np.float32)})
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.abs(got - before).max() > 1e-3
    assert np.array_equal(run(path, {**image, "mask0.threshold": np.array(default, np.float32)}), before)


def test_decisions_are_named_whole_and_own_their_choices(exported):
    net, path = exported
    model = onnx.load(path)
    onnx.checker.check_model(model)
    nodes = [n for n in model.graph.node if n.domain == DOMAIN]
    assert [n.name for n in nodes] == ["mask0", "mask1"]
    choices = ["threshold", "temperature", "lambda", "gamma"]
    values = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    for node, mask in zip(nodes, net.masks, strict=True):
        assert list(node.output) == [f"{node.name}.{o}" for o in ("keep", "logits", "energy")]
        assert list(node.input)[1:] == [f"{node.name}.{i}" for i in ("weight", "bias", *choices)]
        assert values[f"{node.name}.gamma"] == mask.gamma.numpy()
        assert values[f"{node.name}.threshold"].shape == ()
    inputs = [f"mask{i}.{c}" for i in (0, 1) for c in choices]
    assert [i.name for i in model.graph.input] == ["images", *inputs]
    assert [f.name for f in model.functions] == ["EnergyMask"]


def test_the_file_says_what_it_is_and_nothing_of_the_machine(exported):
    _, path = exported
    model = onnx.load(path)
    facts = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert facts["foveate.sample"] == {"images": [1, 3, 64, 48]}
    assert [d["name"] for d in facts["foveate.decisions"]] == ["mask0", "mask1"]
    assert facts["foveate.preprocess"]["mean"] == [0.5, 0.4, 0.3]
    assert facts["foveate.labels"] == NAMES and read_labels(path) == tuple(NAMES)
    assert (model.producer_name, model.graph.name) == ("foveate", "net")
    assert b"site-packages" not in path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["net.onnx"]  # no temporary file is left


def test_persistent_masks_are_stock_nodes(exported):
    _, path = exported
    ops = {n.op_type for n in onnx.load(path).graph.node}
    assert {"Mul", "MaxPool"} <= ops
    assert all(n.domain in ("", DOMAIN) for n in onnx.load(path).graph.node)


class Named(nn.Module):
    """Two inputs, a dict of outputs."""

    def forward(self, left, right):
        return {"sum": left + right, "mean": (left - right).mean((2, 3))}


def test_inputs_and_outputs_have_the_modules_names(tmp_path):
    pair = (torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16))
    path = export_program(Named(), pair, tmp_path / "named.onnx")
    model = onnx.load(path)
    assert [i.name for i in model.graph.input] == ["left", "right"]
    assert [o.name for o in model.graph.output] == ["sum", "mean"]


def test_axes_can_be_fixed(tmp_path):
    net = nn.Conv2d(3, 4, 3)
    path = export_program(net, torch.randn(2, 3, 16, 20), tmp_path / "net.onnx", dynamic=("batch",))
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, 16, 20]


class FixedSize(nn.Module):
    """The size of the map is a weight's size."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 3, 16, 16))

    def forward(self, x):
        return x + self.position


class Square(nn.Module):
    def forward(self, x):
        return x + x.transpose(2, 3)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_an_axis_that_comes_out_fixed_is_an_error(tmp_path):
    with pytest.raises(ProgramError, match=r"axis 2 \(height\).*fixed at 16"):
        export_program(FixedSize(), torch.randn(1, 3, 16, 16), tmp_path / "net.onnx")
    with pytest.raises(ProgramError, match=r"axis 3 \(width\) of input 'images': got tied to height"):
        export_program(Square(), torch.randn(1, 3, 16, 16), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
    export_program(FixedSize(), torch.randn(1, 3, 16, 16), tmp_path / "net.onnx", dynamic=("batch",))


def test_what_torch_cannot_export_is_named(tmp_path):
    with pytest.raises(ProgramError, match="torch cannot export Branching"):
        export_program(Branching(), torch.randn(1, 3, 16, 16), tmp_path / "net.onnx")
    with pytest.raises(InputError, match="does not fit the module"):
        export_program(nn.Conv2d(3, 4, 3), torch.randn(1, 5, 16, 16), tmp_path / "net.onnx")
    with pytest.raises(InputError, match="batch, height, width"):
        export_program(nn.Conv2d(3, 4, 3), SAMPLE, tmp_path / "net.onnx", dynamic=("depth",))


def test_export_leaves_the_module_in_its_mode(tmp_path):
    net = small_resnet((4,), (1,), 2, stem=4).train()
    export_program(net, SAMPLE, tmp_path / "net.onnx")
    assert net.training
