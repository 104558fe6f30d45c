"""Target strings, and what each becomes."""

from __future__ import annotations

import pytest
from foveate.pipeline.targets import target_config
from foveate.runtime.engine import PRECISIONS, NullConfig, OrtConfig, TensorRTConfig
from foveate.runtime.errors import InputError
from hypothesis import given
from hypothesis import strategies as st


@given(st.sampled_from(["", *PRECISIONS]), st.lists(st.sampled_from(["sm75", "sm89", "sm120"]), unique=True))
def test_a_target_says_precision_and_gpus(precision, compute):
    target = (
        "tensorrt" + (f":{precision}" if precision else "") + (f"@{','.join(compute)}" if compute else "")
    )
    assert target_config(target) == TensorRTConfig(precision=precision or "fp32", compute=tuple(compute))


def test_other_targets_are_names():
    assert target_config("cpu") == OrtConfig() and target_config("null") == NullConfig()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("tensorr", "Did you mean 'tensorrt'"),
        ("tensorr:fp16@sm89", "Did you mean 'tensorrt'"),
        ("", "one of cpu, cuda, tensorrt, null"),
        ("cpu:fp16", "precisions and GPUs are tensorrt's"),
        ("null@sm89", "precisions and GPUs are tensorrt's"),
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
