"""Target strings, and what each becomes."""

from __future__ import annotations

import sys

import pytest
from foveate.pipeline.build import build
from foveate.pipeline.targets import in_precision, is_built_for, target_config, target_of
from foveate.runtime.bundle import open_bundle
from foveate.runtime.engine import PRECISIONS, CudaConfig, NullConfig, OrtConfig, TensorRTConfig, TorchConfig
from foveate.runtime.errors import EngineError, InputError
from foveate.runtime.manifest import ONNX, EngineFile, Manifest
from hypothesis import given
from hypothesis import strategies as st

from ..operator_programs import operator_program


@given(st.sampled_from(["", *PRECISIONS]), st.lists(st.sampled_from(["sm75", "sm89", "sm120"]), unique=True))
def test_a_target_says_precision_and_gpus(precision, compute):
    target = (
        "tensorrt" + (f":{precision}" if precision else "") + (f"@{','.join(compute)}" if compute else "")
    )
    assert target_config(target) == TensorRTConfig(precision=precision or "fp32", compute=tuple(compute))


def test_other_targets_are_names_with_the_precisions_that_they_have():
    assert target_config("cpu") == OrtConfig() and target_config("null") == NullConfig()
    assert target_config("cuda") == CudaConfig() and target_config("cuda:fp16") == CudaConfig(
        precision="fp16"
    )
    assert target_config("torch:bf16") == TorchConfig(precision="bf16")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("tensorr", "Did you mean 'tensorrt'"),
        ("tensorr:fp16@sm89", "Did you mean 'tensorrt'"),
        ("", "one of cpu, cuda, tensorrt, torch_tensorrt, torch, null"),
        ("cpu:fp16", "computes float16 in float32(.|\n)*--precision int8"),
        ("cuda:bf16", "not all operators in bfloat16(.|\n)*torch:bf16"),
        ("cuda:int8", "one of fp32, fp16"),
        ("torch:fp61", "Did you mean 'fp16'"),
        ("torch:fp16@sm89", "Pass --target torch:fp16; GPUs are tensorrt's"),
        ("null:fp16", "--target null, which has no other"),
        ("null@sm89", "GPUs are tensorrt's"),
        ("tensorrt:", "one of fp32"),
        ("tensorrt:fp61", "Did you mean 'fp16'"),
        ("tensorrt@", "RTX 4090"),
        ("tensorrt@8.9", "RTX 4090"),
        ("tensorrt:fp16@sm89,", "RTX 4090"),
    ],
)
def test_a_target_that_is_none_is_named(target, said):
    with pytest.raises(InputError, match=said):
        target_config(target)


def engines(*computes: str, precision: str = "fp16", flavour: str = "tensorrt_rtx") -> tuple[EngineFile, ...]:
    return tuple(EngineFile("p", "p.plan", "p.json", flavour, "1.7", c, precision) for c in computes)


@pytest.mark.parametrize(
    ("backend", "made", "target"),
    [
        ("ort", (), "cpu"),
        ("torch", (), "torch"),
        ("torch", engines("any", flavour=ONNX, precision="bf16"), "torch:bf16"),
        ("cuda", engines("any", flavour=ONNX), "cuda:fp16"),
        ("tensorrt", engines("sm120", "sm89"), "tensorrt:fp16@sm120,sm89"),
        ("tensorrt", engines("any"), "tensorrt:fp16"),
        ("tensorrt", engines("sm90", flavour="tensorrt", precision="fp32"), "tensorrt:fp32"),
    ],
)
def test_the_target_of_a_bundle_builds_another_one_like_it(backend, made, target):
    manifest = Manifest("x", (), (), (), (), backend=backend, engines=made)
    assert target_of(manifest) == target
    assert is_built_for(manifest, target)


@pytest.mark.parametrize("target", ["torch", "torch:fp16"])
def test_what_torch_does_not_know_is_told_at_build(target, tmp_path):
    program = operator_program("c = Conv (x, w)  y = Softsign (c)", tmp_path)
    with pytest.raises(EngineError, match=r"node .* in torch(.|\n)*ai.onnx::Softsign(.|\n)*--target cuda"):
        build(program, tmp_path / "bundle", sample=(1, 4, 16, 16), target=target)
    assert not (tmp_path / "bundle").exists()
    build(program, tmp_path / "bundle", sample=(1, 4, 16, 16), target=target.replace("torch", "cuda"))


@pytest.mark.parametrize("target", ["torch", "torch:fp16"])
def test_without_torch_a_build_says_that_it_did_not_look(target, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "foveate.runtime.onnx_torch.tape", None)
    program = operator_program("c = Conv (x, w)  y = Softsign (c)", tmp_path)
    bundle = build(program, tmp_path / "bundle", sample=(1, 4, 16, 16), target=target)
    assert any("torch is not here" in note for note in open_bundle(bundle).manifest.notes)


@pytest.mark.parametrize("target", ["cpu", "tensorrt:fp32", "tensorrt:fp16@sm75", "torch"])
def test_a_bundle_for_another_target(target):
    manifest = Manifest("x", (), (), (), (), backend="tensorrt", engines=engines("sm89"))
    assert not is_built_for(manifest, target)
    assert is_built_for(manifest, "tensorrt:fp16")


@pytest.mark.parametrize(
    ("target", "other"),
    [
        ("cpu", "cpu"),
        ("cuda:fp16", "cuda"),
        ("tensorrt:fp16@sm89,sm120", "tensorrt:int8@sm89,sm120"),
        ("tensorrt:fp32", "tensorrt:int8"),
    ],
)
def test_a_target_in_another_precision(target, other):
    assert in_precision(target, "int8") == other


def test_a_bundle_in_float16_is_none_in_float32_and_the_other_way_round():
    lowered = Manifest("x", (), (), (), (), backend="cuda", engines=engines("any", flavour=ONNX))
    assert not is_built_for(lowered, "cuda") and not is_built_for(lowered, "torch:fp16")
    assert not is_built_for(Manifest("x", (), (), (), (), backend="cuda"), "cuda:fp16")
