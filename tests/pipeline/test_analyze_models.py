"""Real backbones from timm, masked and exported as users would: analysed, built, and exact when run selectively."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from foveate.export import export_program, import_timm, insert_energy_mask
from foveate.export.program import load_program
from foveate.pipeline.analyze import LOCAL, analyze
from foveate.pipeline.build import build
from foveate.runtime.bundle import open_bundle
from foveate.runtime.manifest import Region

import foveate

SHAPE = (1, 3, 96, 96)


def exported(name: str, after: str, path: Path) -> Path:
    torch.manual_seed(0)
    backbone = import_timm().create_model(name, pretrained=False, num_classes=10).eval()
    sample = torch.randn(SHAPE)
    masked = insert_energy_mask(backbone, after=after, sample=sample)
    with torch.no_grad():
        masked(sample)
        torch.nn.init.normal_(masked.get_parameter("mask0.weight"), std=20.0)
        torch.nn.init.constant_(masked.get_parameter("mask0.bias"), 2.0)
    return export_program(masked, sample, path)


def max_relative_error(bundle: Path, *shapes: tuple[int, ...]) -> float:
    found = []
    with foveate.load(bundle, strategy="rects") as model:
        for shape in shapes:
            images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            got, expected = model(images)["output"], model.dense(images)["output"]
            found.append(np.abs(got - expected).max() / np.abs(expected).max())
    return max(found)


def test_resnet18(tmp_path):
    program = exported("resnet18", "layer1", tmp_path / "resnet18.onnx")
    analysis = analyze(load_program(program), {"images": SHAPE})
    assert analysis.notes == ()
    assert [b.split(": ")[1] for b in analysis.barriers] == ["reduces over height or width"]
    manifest = open_bundle(build(program, tmp_path / "bundle", sample=SHAPE)).manifest
    assert [s.kind for s in manifest.steps] == ["dense", "region", "dense"]
    region = manifest.steps[1]
    assert (
        isinstance(region, Region) and region.outputs and len(region.masks) == 4
    )  # at strides 4, 8, 16 and 32
    assert max_relative_error(tmp_path / "bundle", SHAPE, (2, 3, 65, 127)) <= 1e-5


def test_mobilenetv3(tmp_path):
    """Squeeze-and-excite pools the whole map and scales it by one value per image: a barrier in most blocks."""
    program = exported("mobilenetv3_small_100", "blocks.0", tmp_path / "mobilenet.onnx")
    analysis = analyze(load_program(program), {"images": SHAPE})
    reasons = [b.split(": ")[1] for b in analysis.barriers]
    assert reasons.count("reduces over height or width") == 10  # nine squeezes, one head
    assert sum("one value per image" in r for r in reasons) == 9
    depthwise = [n for n in analysis.nodes if n.op == "Conv" and n.kind == LOCAL]
    assert len(depthwise) > 20
    manifest = open_bundle(build(program, tmp_path / "bundle", sample=SHAPE)).manifest
    assert sum(isinstance(s, Region) for s in manifest.steps) >= 8
    assert max_relative_error(tmp_path / "bundle", SHAPE, (1, 3, 70, 101)) <= 1e-5
