"""Hugging Face models behind a gate: equal to transformers' own at every depth and size, in torch and as programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from foveate.export.deformable_detr import BOXES, LOGITS, deformable_detr
from foveate.export.early_exit_model import EarlyExitModel, forcing
from foveate.export.huggingface import load_folder, read_folder, with_exits
from foveate.export.mask2former import CLASSES, MASKS, mask2former
from foveate.export.program import export_program
from foveate.runtime.backends.ort import use_kernels
from foveate.runtime.errors import InputError, MissingExtraError
from safetensors.torch import load_file, save_file

from ..huggingface_models import EXITS, small_deformable_detr, small_mask2former

MODELS: dict[str, tuple[Callable[[], Any], Callable[..., EarlyExitModel], tuple[str, str]]] = {
    "mask2former over resnet": (small_mask2former, mask2former, (CLASSES, MASKS)),
    "mask2former over swin": (lambda: small_mask2former("swin"), mask2former, (CLASSES, MASKS)),
    "deformable detr": (small_deformable_detr, deformable_detr, (LOGITS, BOXES)),
    "deformable detr with boxes refined": (
        lambda: small_deformable_detr(with_box_refine=True),
        deformable_detr,
        (LOGITS, BOXES),
    ),
}


def _own_answer(model: Any, images: torch.Tensor, depth: int, names: tuple[str, str]) -> list[torch.Tensor]:
    """transformers' own, with the encoder's layers cut off."""
    inner = model.model
    encoder = inner.encoder if hasattr(inner, "encoder") else inner.pixel_level_module.decoder.encoder
    layers, encoder.layers = encoder.layers, encoder.layers[:depth]
    try:
        with torch.no_grad():
            answer = model(images)
        return [getattr(answer, name) for name in names]
    finally:
        encoder.layers = layers


@pytest.mark.parametrize("name", MODELS)
def test_every_depth_is_the_truncated_network(name: str) -> None:
    make, adapter, outputs = MODELS[name]
    adapted, own = adapter(make(), EXITS), make()  # adapting changes what the layers of a Swin do
    least = adapted.least
    for height, width in (
        (least, least + 32),
        (448, least),
    ):  # 448: windows of 7 fill its maps, nothing is padded
        images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))
        for depth in EXITS:
            with torch.no_grad():
                answer = adapted.truncated(images, depth)
            for output, wanted in zip(outputs, _own_answer(own, images, depth, outputs), strict=True):
                torch.testing.assert_close(answer[output], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "mask2former over resnet",
        pytest.param("mask2former over swin", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
        "deformable detr",
    ],
)
def test_program_has_free_sizes_and_every_exit(name: str, tmp_path: Path) -> None:
    make, adapter, outputs = MODELS[name]
    model = adapter(make(), EXITS)
    least = model.least
    path = export_program(model, torch.randn(1, 3, least, least), tmp_path / "program.onnx")
    assert not any(module.training for module in model.modules())
    program = onnx.load(path)
    dims = [d.dim_param or d.dim_value for d in program.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, "height", "width"]
    said = {entry.key: entry.value for entry in program.metadata_props}
    assert json.loads(said["foveate.sizes"]) == {"multiple": 32, "least": least}
    sessions = []
    for kernels in (False, True):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if kernels:
            use_kernels(options)
        sessions.append(onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    for shape in ((1, 3, least, least + 64), (3, 3, 448 if "swin" in name else least + 32, least)):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(shape[0]))
        for depth in EXITS:
            offset = np.array(forcing(EXITS, depth), np.float32)
            with torch.no_grad():
                wanted = model.truncated(images, depth)
            for session in sessions:
                got = session.run([*outputs, "depth"], {"images": images.numpy(), "gate.offset": offset})
                np.testing.assert_array_equal(got[2], depth)
                for value, output in zip(got, outputs, strict=False):
                    np.testing.assert_allclose(np.asarray(value), wanted[output].numpy(), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mask2former")
    small_mask2former().save_pretrained(path)
    facts = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "rescale_factor": 0.25}
    (path / "preprocessor_config.json").write_text(json.dumps(facts))
    return path


def test_folder_loads_with_what_it_says(folder: Path) -> None:
    model, own = load_folder(folder), small_mask2former()
    assert model.gate.exits == [2, 3]
    images = torch.randn(1, 3, 64, 64)
    for output, wanted in zip((CLASSES, MASKS), _own_answer(own, images, 3, (CLASSES, MASKS)), strict=True):
        torch.testing.assert_close(model.truncated(images, 3)[output], wanted)
    facts = read_folder(folder)
    assert facts["labels"] == []  # transformers' own names say nothing
    assert read_folder(Path(__file__).resolve().parents[2] / "examples/eco_m2f/parent")["labels"][:2] == [
        "top",
        "trouser",
    ]
    assert facts["preprocess"] == {"scale": 0.25, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}


def _copy(folder: Path, to: Path) -> Path:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_folders_that_cannot_be_read_are_named(folder: Path, tmp_path: Path) -> None:
    broken = _copy(folder, tmp_path)
    weights, config = broken / "model.safetensors", broken / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(InputError, match="from_pretrained reads"):
        load_folder(broken)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    del tensors["class_predictor.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match="no class_predictor"):
        load_folder(broken)
    weights.unlink()
    with pytest.raises(InputError, match="as safetensors"):
        load_folder(broken)
    config.write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="model_type 'bert'"):
        load_folder(broken)
    config.write_text("{")
    with pytest.raises(InputError, match="expected JSON"):
        load_folder(broken)


def test_models_and_exits_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="Mask2FormerForUniversalSegmentation"):
        with_exits(torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="two-stage"):
        deformable_detr(small_deformable_detr(two_stage=True, with_box_refine=True), EXITS)
    with pytest.raises(InputError, match="behind all 3"):
        load_folder(folder, exits=(1, 2))


@pytest.mark.parametrize(("size", "said"), [((64, 100), "multiples of 32"), ((32, 64), "at least 64")])
def test_samples_of_other_sizes_are_refused(size: tuple[int, int], said: str, tmp_path: Path) -> None:
    model = mask2former(small_mask2former(), EXITS)
    with pytest.raises(InputError, match=said):
        export_program(model, torch.randn(1, 3, *size), tmp_path / "program.onnx")
    assert not list(tmp_path.iterdir())


def test_without_transformers_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"foveate\[transformers\]"):
        load_folder(folder)
