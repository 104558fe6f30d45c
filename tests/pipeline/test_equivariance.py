"""verify --equivariance: small networks, strict and not, and bundles that break what their network promises."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from foveate.calibration.layers import layers_of
from foveate.calibration.quantized import measure_ranges, quantized
from foveate.export import export_program, insert_energy_mask, small_resnet, soften
from foveate.export.groups import Element, Group
from foveate.export.program import load_program, save_program
from foveate.pipeline.build import build
from foveate.pipeline.cli.main import main
from foveate.pipeline.data import Dataset, Sample
from foveate.pipeline.equivariance import verify_equivariance
from foveate.pipeline.equivariance_engines import open_engines, open_reference
from foveate.pipeline.equivariance_layers import layer_errors
from foveate.pipeline.turns import disc, turned, turned_back
from foveate.pipeline.verify import strategies_of
from foveate.runtime.bundle import open_bundle
from foveate.runtime.engine import TorchConfig
from foveate.runtime.errors import CheckFailed, EngineError, InputError
from foveate.runtime.manifest import EngineFile
from torch import nn

SIZE = 33  # 33, 17, 9, 5: every stride of the network leaves positions centered


def network(softness: float | None = 0.0, persist: Literal["conv"] | None = None) -> nn.Module:
    """A classifier with a mask."""
    torch.manual_seed(0)
    net = small_resnet([6, 8], [1, 1], 4, 6, 1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
    if softness is not None:
        soften(net, "C4", softness)
    net = insert_energy_mask(net, "stem", sample=torch.zeros(1, 1, SIZE, SIZE), start=0.0, persist=persist)
    nn.init.zeros_(net.get_parameter("fc.bias"))
    (mask,) = net.eval().masks
    nn.init.normal_(mask.weight)
    net(images_of(1, SIZE))
    mask.bias.data -= mask.last_logits().median()  # half of the positions are kept
    return net


class Segmenter(nn.Sequential):
    """[N, 1, H, W] -> class scores [N, 3, H, W]."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 5, padding=2))


def images_of(count: int, size: int) -> torch.Tensor:
    coarse = torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(0))
    return nn.functional.avg_pool2d(coarse, 5, 1, 2) * 5


def images(count: int = 3, size: int = SIZE) -> Dataset:
    def read():
        for number, image in enumerate(images_of(count, size)):
            yield Sample(str(number), image[None].numpy())

    return Dataset("noise", count, read)


@pytest.fixture(scope="module")
def strict(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("strict")
    return export_program(network(), torch.randn(1, 1, SIZE, SIZE), folder / "strict.onnx")


@pytest.fixture(scope="module")
def bundle(strict) -> Path:
    return build(strict, strict.with_name("bundle"))


def test_a_strict_network_stays_strict_on_every_engine(bundle):
    report = verify_equivariance(bundle, images(), against=network())
    assert report.passed and report.group == "C4" and report.images == 3
    assert {"dense", "rects", "auto"} <= {engine.name.split(", ")[-1] for engine in report.engines}
    for engine in report.engines:
        assert [e.element for e in engine.elements] == ["90°", "180°", "-90°"]
        assert engine.error < 1e-5 and all(e.consistency == 1 and e.masks == 1 for e in engine.elements)
    assert len(report.layers) == 6 and all(layer.error <= 1e-6 for layer in report.layers)
    assert not report.off_center
    assert report.to_dict()["passed"] and json.dumps(report.to_dict())


def test_strides_off_the_center_are_named(bundle):
    report = verify_equivariance(bundle, images(2, 28))  # 28 → 14 → 7: 7 is odd again
    assert [layer.layer for layer in report.off_center] == ["stem.0", "stem.3"]
    assert report.engines[0].error > 1e-4 and report.passed  # the program is no better
    assert any("stem.0 (Conv 3 × 3, stride 2 × 2, on 28 × 28)" in line for line in report.lines())


def test_a_broken_engine_fails(strict, tmp_path, capsys):
    model = onnx.load(strict)
    weight = next(i for i in model.graph.initializer if i.name == "layer2.0.conv1.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:, :, 0] *= 3
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    broken = build(save_program(model, tmp_path / "broken.onnx"), tmp_path / "bundle")
    report = verify_equivariance(broken, images(), against=strict, tolerance=1e-3)
    assert not report.passed
    assert any("layer2.0.conv1.weight" in what for what in report.broken)
    assert any(what.startswith("ort, fp32, auto exceeds") for what in report.broken)
    with pytest.raises(CheckFailed, match="exceeds the error"):
        report.require()
    command = ["verify", str(broken), "--equivariance", "--against", str(strict), "--limit", "1"]
    assert main(command) == 1
    assert "broken: " in capsys.readouterr().err


def test_a_strict_network_stays_strict_in_int8(strict, tmp_path):
    """What is equal up to a turn is rounded alike."""
    program = load_program(strict)
    layers = layers_of(program)
    feeds = ({program.graph.input[0].name: image[None].numpy()} for image in images_of(3, SIZE))
    low = quantized(program, measure_ranges(program, layers, feeds), [layer.name for layer in layers], "int8")
    bundle = build(save_program(low, tmp_path / "int8.onnx"), tmp_path / "int8")
    report = verify_equivariance(bundle, images(), against=strict, tolerance=1e-5)
    assert report.passed and len(report.layers) == 6 and not report.notes
    names = {f"ort, int8, {strategy}" for strategy in ("dense", *strategies_of(bundle))}
    assert names < {engine.name for engine in report.engines}


def test_a_mask_off_the_center_is_held_against_the_network_without(tmp_path):
    """A persistent mask is halved off the center of odd sizes, where its strict network is centered."""
    plain, masked = network(), network(persist="conv")
    plain.get_buffer("mask0.threshold").zero_()  # keeps all
    program = export_program(masked, torch.randn(1, 1, SIZE, SIZE), tmp_path / "masked.onnx")
    report = verify_equivariance(build(program, tmp_path / "masked"), images(), against=plain)
    assert report.baseline.error < 1e-5 and not report.passed
    assert all(what.endswith(("90°", "180°")) for what in report.broken) and len(report.broken) > 2
    assert [layer.op for layer in report.off_center] == ["MaxPool"]


def test_the_command_measures_a_bundle(bundle, capsys):
    assert main(["verify", str(bundle), "--equivariance", "--group", "D4", "--limit", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["group"] == "D4" and len(facts["engines"][0]["elements"]) == 7


def test_maps_are_turned_back(tmp_path):
    for softness, below, above in ((0.0, 1e-5, -1.0), (None, 2.0, 1e-2)):
        net = Segmenter() if softness is None else soften(Segmenter(), "C4", softness)
        program = export_program(net, torch.randn(1, 1, 16, 16), tmp_path / "map.onnx")
        report = verify_equivariance(build(program, tmp_path / "map"), images(2, 16))
        for engine in report.engines:
            assert above < engine.error < below
            assert all((e.kl < 1e-9) == (softness == 0.0) and e.masks is None for e in engine.elements)


def test_interpolated_turns_are_compared_within_the_disc(tmp_path):
    """What looks the same whichever way it is turned, gives maps that do, but for interpolation."""
    program = export_program(soften(Segmenter(), "C4", 0.0), torch.randn(1, 1, 16, 16), tmp_path / "map.onnx")
    y, x = np.indices((33, 33)) - 16.0
    blob = Sample("blob", np.exp(-(x**2 + y**2) / 72).astype(np.float32)[None, None])
    data = Dataset("blob", 1, lambda: iter([blob]))
    report = verify_equivariance(build(program, tmp_path / "map"), data, group="C8")
    (engine,) = report.engines
    assert len(engine.elements) == 7 and 1e-6 < engine.error < 0.05


def test_oblong_images_of_one_size_are_refused(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16 * 12, 3))
    program = export_program(net, torch.randn(1, 1, 16, 12), tmp_path / "flat.onnx", dynamic=("batch",))
    with pytest.raises(InputError, match="16 × 12, for a program that takes this size alone"):
        verify_equivariance(build(program, tmp_path / "flat"))


def test_quantized_weights_are_measured_as_they_are_read(tmp_path):
    """Symmetric weights stay as equivariant as they were: equal numbers are rounded alike."""
    net = soften(Segmenter(), "C4", 0.0)
    program = export_program(net, torch.randn(1, 1, 16, 16), tmp_path / "map.onnx")
    model = onnx.load(program)
    for node in [n for n in model.graph.node if n.op_type == "Conv"]:
        weight = next(i for i in model.graph.initializer if i.name == node.input[1])
        values = onnx.numpy_helper.to_array(weight)
        scale = (np.abs(values).max((1, 2, 3)) / 127).astype(np.float32)
        rounded = np.round(values / scale[:, None, None, None]).astype(np.int8)
        if weight.name.startswith("2"):
            rounded[:, :, 0] = 0
        name = f"{weight.name}_quantized"
        model.graph.initializer.remove(weight)
        model.graph.initializer.append(onnx.numpy_helper.from_array(rounded, name))
        model.graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{name}_scale"))
        node.input[1] = f"{name}_float"
        dequantize = onnx.helper.make_node(
            "DequantizeLinear", [name, f"{name}_scale"], [f"{name}_float"], axis=0
        )
        model.graph.node.insert(0, dequantize)
    onnx.save(model, program)
    found = {layer.tensor: layer.error for layer in layer_errors(program)}
    assert found["0.weight"] < 1e-6 and found["2.weight"] > 0.1


@pytest.mark.parametrize("group", ["D4", "C8"])
def test_turning_back_undoes_turning(group):
    ramp = np.add.outer(np.arange(17.0), 2 * np.arange(17.0))[None, None]
    inside = np.pad(disc(9, 9), 4)
    for element in Group(group).elements():
        back = turned_back(turned(ramp, element), element)
        assert np.allclose(back[..., inside], ramp[..., inside])
    quarter = Element(np.pi / 2)
    assert np.array_equal(turned(ramp, quarter), np.rot90(ramp, axes=(2, 3)))
    eighth = turned(
        ramp, Element(np.pi / 4)
    )  # by 45°: the gradient, 2 to the right and 1 down, turns with it
    assert np.isclose(eighth[0, 0, 8, 9] - eighth[0, 0, 8, 8], (2 + 1) / 2**0.5, atol=1e-6)


def test_maps_of_classes_are_turned_back(tmp_path):
    class Classes(Segmenter):
        def forward(self, input):
            return super().forward(input).argmax(1)

    program = export_program(soften(Classes(), "C4", 0.0), torch.randn(1, 1, 16, 16), tmp_path / "map.onnx")
    (engine,) = verify_equivariance(build(program, tmp_path / "map"), images(2, 16)).engines
    assert engine.error < 0.05 and all(e.consistency > 0.99 for e in engine.elements)


def test_fields_of_vectors_turn_with_the_image(tmp_path):
    torch.manual_seed(0)
    net = soften(nn.Conv2d(1, 4, 3, padding=1), "D4", 0.0, outputs="vector")
    bundle = build(export_program(net, torch.randn(1, 1, 9, 9), tmp_path / "flow.onnx"), tmp_path / "flow")
    (name,) = (output.name for output in open_bundle(bundle).manifest.outputs)
    as_vectors, as_scalars = (
        verify_equivariance(bundle, images(2, 9), vectors=v).engines[0] for v in ([name], [])
    )
    assert as_vectors.error < 1e-5 < 0.1 < as_scalars.error
    with pytest.raises(InputError, match=f"pairs of channels: {name}"):
        verify_equivariance(bundle, images(1, 9), vectors=["nothing"])


def test_any_backend_is_measured(bundle):
    report = verify_equivariance(bundle, images(1), backends=[TorchConfig(device="cpu"), "tensorrt"])
    assert {"torch, fp32, dense", "torch, fp32, rects", "torch, fp32, auto"} == {
        e.name for e in report.engines
    }
    assert report.passed and all(engine.error < 1e-5 for engine in report.engines)
    assert "built without such engines" in report.not_run and report.require() is report
    with pytest.raises(EngineError, match="NOT RUN by TensorRT"):
        report.require(engines=True)


def test_the_precision_of_engines_that_do_not_run_here_is_measured(bundle, monkeypatch):
    monkeypatch.setattr("foveate.runtime.nvidia.compute_capability", lambda: "")
    manifest = open_bundle(bundle).manifest
    engine = EngineFile(manifest.one_engine, "-.plan", "-.json", "tensorrt_rtx", "1", "sm89", "bf16")
    with contextlib.ExitStack() as stack:
        low = dataclasses.replace(manifest, backend="tensorrt", engines=(engine,))
        found = open_engines(bundle, low, ["tensorrt"], 1, stack)
    (name,), (answer,) = found.answers, found.answers.values()
    assert name == "tensorrt, bf16, its model in onnxruntime" and "no NVIDIA GPU" in found.not_run
    image = images_of(1, SIZE).numpy()
    (scores, keeps), (expected, masks) = answer(image), open_reference(bundle, manifest, 1)(image)
    assert scores.keys() == expected.keys() and keeps.keys() == masks.keys() != set()
    for output, values in expected.items():
        assert 1e-4 < np.abs(scores[output] - values).max() / np.abs(values).max() < 0.2


def test_lost_tensors_are_told(strict, tmp_path):
    model = onnx.load(strict)
    for node in model.graph.node:
        node.input[:] = ["renamed" if name == "stem.0.weight" else name for name in node.input]
    next(i for i in model.graph.initializer if i.name == "stem.0.weight").name = "renamed"
    report = verify_equivariance(
        build(save_program(model, tmp_path / "net.onnx"), tmp_path / "net"), images(1)
    )
    assert report.notes == ("no longer in the program, so not held to their bounds: stem.0.weight",)


def test_weights_in_half_precision_are_measured(strict, tmp_path):
    model = onnx.load(strict)
    for tensor in model.graph.initializer:
        if tensor.name == "stem.0.weight":
            half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    onnx.save(model, tmp_path / "half.onnx")
    assert {layer.tensor for layer in layer_errors(tmp_path / "half.onnx")} == {
        layer.tensor for layer in layer_errors(strict)
    }


def test_transposed_convs_off_the_center_are_named(tmp_path):
    """17 positions between 9 turn with them, 18 do not."""
    torch.manual_seed(0)
    ups = [nn.ConvTranspose2d(n, 2, 3, stride=2, padding=1, output_padding=n - 1) for n in (1, 2)]
    program = export_program(
        soften(nn.Sequential(*ups), "C4", 0.0), torch.randn(1, 1, 9, 9), tmp_path / "up.onnx"
    )
    report = verify_equivariance(build(program, tmp_path / "up"), images(2, 9))
    assert [layer.tensor for layer in report.layers] == ["0.weight", "1.weight"]
    assert all(layer.error < 1e-6 for layer in report.layers)
    assert [layer.layer for layer in report.off_center] == ["1"] and report.engines[0].error > 1e-3
