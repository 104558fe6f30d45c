"""Checkpoints that say how their module is built."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from foveate.export import (
    insert_energy_mask,
    load_checkpoint,
    read_config,
    resnet34_body,
    save_checkpoint,
    small_resnet,
)
from foveate.runtime.errors import InputError
from safetensors.torch import save_file

SAMPLE = torch.zeros(1, 3, 64, 64)
ARGS = {"widths": [8, 12], "blocks": [1, 1], "num_classes": 3, "stem": 8}
CONFIG = {"model": "small_resnet", "args": ARGS, "sample": [1, 3, 64, 64], "labels": ["a", "b", "c"]}


def masked():
    net = insert_energy_mask(small_resnet(**ARGS), "stem", sample=SAMPLE, gamma=0.02, patch=2)
    net = insert_energy_mask(net, "layer1", sample=SAMPLE, persist="block", name="late")
    net.masks[0].threshold.fill_(0.25)
    return net.eval()


def test_a_masked_network_comes_back_whole(tmp_path):
    net, image = masked(), torch.randn(2, 3, 51, 60)
    path = save_checkpoint(net, tmp_path / "net.safetensors", CONFIG)
    again = load_checkpoint(path)
    assert not again.training
    assert torch.equal(again(image), net(image))
    config = read_config(path)
    assert config is not None and config["labels"] == ["a", "b", "c"]
    assert [m["name"] for m in config["masks"]] == ["mask0", "late"]
    assert os.listdir(tmp_path) == ["net.safetensors"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_backbones_own_weights_get_a_mask(tmp_path, suffix):
    net, path = small_resnet(**ARGS).eval(), tmp_path / f"net{suffix}"
    save_checkpoint(net, path) if suffix == ".safetensors" else torch.save(net.state_dict(), path)
    again = load_checkpoint(path, lambda: small_resnet(**ARGS), after="layer1")
    assert torch.equal(again(SAMPLE + 1), net(SAMPLE + 1))  # the mask starts open
    assert "mask0.threshold" in again.state_dict()


def test_timm_architectures_need_no_file():
    net = load_checkpoint("timm:resnet18", after="layer2")
    assert "mask0.weight" in net.state_dict() and not net.training
    with pytest.raises(InputError, match="did you mean timm:resnet18"):
        load_checkpoint("timm:resnet81")


def test_tensors_that_do_not_fit_are_counted_and_named(tmp_path):
    path = save_checkpoint(masked(), tmp_path / "net.safetensors")
    with pytest.raises(InputError, match=r"tensors do not fit, 'late.bias' first"):
        load_checkpoint(path, small_resnet(**ARGS))
    with pytest.raises(InputError, match=r"got no such tensor; expected \[1\]"):
        load_checkpoint(save_checkpoint(small_resnet(**ARGS), tmp_path / "a.safetensors"), masked())


def test_nothing_is_unpickled(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "net.pth"
    torch.save({"weight": Payload()}, path)
    with pytest.raises(InputError, match="safetensors"):
        load_checkpoint(path, small_resnet(**ARGS))
    path.write_bytes(pickle.dumps(Payload(), protocol=2))
    with pytest.raises(InputError, match="safetensors"):
        load_checkpoint(path, small_resnet(**ARGS))
    assert not (tmp_path / "executed").exists()


def test_unreadable_files_and_missing_descriptions_are_named(tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(InputError, match="expected safetensors"):
        load_checkpoint(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="expected safetensors"):
        load_checkpoint(path)
    save_checkpoint(masked(), path)
    with pytest.raises(InputError, match="no config in it"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "os:system"}, "small_resnet, resnet34_body or timm:NAME"),
        ({"args": {"colour": 3}}, "args of small_resnet"),
        ({"masks": [{"after": "nowhere"}]}, "no module of that name"),
    ],
)
def test_a_config_that_builds_nothing_is_named(tmp_path, change, message):
    config = json.dumps({**CONFIG, **change})
    save_file(small_resnet(**ARGS).state_dict(), tmp_path / "net.safetensors", {"foveate": config})
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "net.safetensors")


def test_reference_models_stay_finite_and_are_repeatable():
    state = torch.random.get_rng_state()
    body = resnet34_body()
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        features = body(torch.randn(1, 3, 128, 96))
    assert features.shape == (1, 512, 4, 3)
    assert 0.1 < features.std() < 100
    again = resnet34_body().state_dict()
    assert all(torch.equal(value, again[key]) for key, value in body.state_dict().items())


def test_importing_the_package_imports_neither_torch_nor_onnx():
    code = "import sys, foveate.export; print(sorted({'torch', 'onnx', 'timm', 'onnxscript'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_resolve():
    import foveate.export

    assert set(foveate.export.__all__) == set(foveate.export._PUBLIC)
    for name in foveate.export.__all__:
        assert getattr(foveate.export, name) is not None
    with pytest.raises(AttributeError, match="public"):
        foveate.export.nothing  # noqa: B018
