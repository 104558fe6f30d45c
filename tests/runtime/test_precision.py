"""Which files a config's engines are made of, and of which types what lies between them is."""

from __future__ import annotations

import pytest
from foveate.runtime.engine import CudaConfig, OrtConfig, TensorRTConfig, TorchConfig
from foveate.runtime.errors import InputError
from foveate.runtime.manifest import ONNX, EngineFile, Manifest, TensorSpec
from foveate.runtime.precision import as_built, files_for, with_types

TENSORS = tuple(TensorSpec(name, "float32", (1, 4)) for name in ("a", "b"))


def manifest(precision: str = "") -> Manifest:
    """Built in float32, or in `precision`."""
    lowered = EngineFile("programs/x.onnx", "engines/x.onnx", "", ONNX, "", "any", precision)
    engines = (lowered,) if precision else ()
    return Manifest(
        "net", (), (), TENSORS, (), engines=engines, lowered=("b",) if precision == "fp16" else ()
    )


@pytest.mark.parametrize(
    ("config", "built", "precision"),
    [
        (CudaConfig(), "", "fp32"),
        (CudaConfig(), "fp16", "fp16"),
        (CudaConfig(), "bf16", "fp32"),  # which it does not run
        (CudaConfig(precision="tf32"), "fp16", "tf32"),
        (TorchConfig(), "fp16", "fp16"),
        (TorchConfig(), "bf16", "bf16"),
        (TorchConfig(precision="fp32"), "bf16", "fp32"),
    ],
)
def test_a_config_takes_the_bundles_precision_or_has_its_own(config, built, precision):
    found = as_built(config, manifest(built))
    assert found.precision == precision  # type: ignore[union-attr]
    low = precision == built
    assert files_for(found, manifest(built)) == ({"programs/x.onnx": "engines/x.onnx"} if low else None)
    types = [spec.dtype for spec in with_types(found, manifest(built)).tensors]
    assert types == ["float32", "float16" if low and built == "fp16" else "float32"]


@pytest.mark.parametrize(
    "config", [OrtConfig(), TensorRTConfig(), CudaConfig(provider="tensorrt", precision="bf16")]
)
def test_other_backends_are_left_as_they_are(config):
    assert as_built(config, manifest("fp16")) is config
    assert with_types(config, manifest("fp16")).tensors == TENSORS


@pytest.mark.parametrize(
    ("config", "built", "said"),
    [
        (CudaConfig(precision="fp16"), "", "built for fp32(.|\n)*--target cuda:fp16"),
        (TorchConfig(precision="bf16"), "fp16", "built for fp16(.|\n)*--target torch:bf16"),
    ],
)
def test_a_precision_that_the_bundle_has_not_is_named(config, built, said):
    with pytest.raises(InputError, match=said):
        as_built(config, manifest(built))
