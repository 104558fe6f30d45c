"""The example's committed checkpoint is what its README says, and its stream answers as the dense engines do."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLE = Path(__file__).parent.parent / "examples" / "digit"


@pytest.fixture(scope="module")
def example():
    """The example's modules, importable as its scripts see them."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield {name: import_module(name) for name in ("digits", "shift", "train_digits")}
    finally:
        sys.path.remove(str(EXAMPLE))


@pytest.fixture(scope="module")
def network(example):
    from foveate.export import load_checkpoint

    return load_checkpoint(example["digits"].CHECKPOINT, example["digits"].network())


def test_the_checkpoint_is_small_and_knows_digits(example, network):
    assert example["digits"].CHECKPOINT.stat().st_size <= 5e6
    assert example["train_digits"].accuracy(network, seed=1) >= 0.89


def test_a_digit_goes_from_the_left_to_the_right(example):
    digit = torch.rand(20, 20) + 0.1
    clip = example["digits"].shifted(digit)
    assert clip.shape == (10, 1, 1, 64, 64)
    lefts = [int(np.flatnonzero(frame.any(axis=(0, 1, 2)))[0]) for frame in clip]
    assert lefts[0] == 0 and lefts[-1] == 44 and set(np.diff(lefts)) <= {4, 5, 6}
    assert all(np.isclose(frame.sum(), digit.sum().item()) for frame in clip)


def test_training_and_test_digits_are_different(example):
    train, test = (example["digits"].load_digits(train=flag)[0] for flag in (True, False))
    assert (len(train), len(test)) == (1437, 360)
    assert float(train.min()) == 0.0 and float(train.max()) == 1.0
    assert not any(torch.equal(test[0], digit) for digit in train)


def test_training_learns(example, capsys):
    torch.manual_seed(0)
    net = example["digits"].network((4, 8), 16)
    images, labels = example["digits"].load_digits(train=True)
    canvas = example["digits"].place(images[:64], [20] * 64, [20] * 64)
    before = torch.nn.functional.cross_entropy(net(canvas), labels[:64]).item()
    example["train_digits"].train(net, steps=25, seed=0)
    assert torch.nn.functional.cross_entropy(net(canvas), labels[:64]).item() < before


def test_the_stream_answers_as_dense_engines_do(example, tmp_path):
    clip = example["digits"].shifted(example["digits"].load_digits(train=False)[0][2])
    rows = example["shift"].measure(tmp_path, clip, threads=[1], rounds=1)
    assert [row["engine"] for row in rows] == ["torch, eager", "ONNX Runtime, dense", "stream", "stream, on"]
    assert max(row["max_rel_error"] for row in rows) <= 1e-4
    assert 0.15 < rows[3]["work"] < rows[2]["work"] < 0.4
    assert "stream" in example["shift"].table(rows)
