"""Exits: the torch ops, their ONNX bodies in stock onnxruntime, and a whole encoder behind a gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from foveate.export import EarlyExitModel, export_program
from foveate.export.early_exit import exit_gate, exit_select
from foveate.export.early_exit_model import forcing
from foveate.runtime.errors import InputError
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

EXITS, CHANNELS = [2, 3, 5], 8


class Mixer(nn.Module):
    """A residual layer over tokens [B, N, D]; position embeddings are its context."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        mixed = self.linear(self.norm(tokens + positions))
        return tokens + torch.tanh(mixed) + mixed.mean(1, keepdim=True)


class Tokens(nn.Module):
    """A convolution as stem, five mixers, and a convolution over the tokens' map as head."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, 4, 4)
        self.layers = nn.ModuleList(Mixer() for _ in range(5))
        self.classes = nn.Linear(CHANNELS, 4)

    def stem(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return tokens, (torch.sin(tokens),)

    def pooled(self, tokens: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        return tokens.mean(1)

    def head(self, tokens: Tensor, context: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"classes": self.classes(tokens)}


def make_model() -> EarlyExitModel:
    torch.manual_seed(0)
    model = EarlyExitModel(Tokens(), EXITS, CHANNELS).eval()
    with torch.no_grad():
        model.gate.weight.copy_(torch.randn(len(EXITS) * CHANNELS))
        model.gate.bias.zero_()
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[EarlyExitModel, Path]:
    model, folder = make_model(), tmp_path_factory.mktemp("exits")
    return model, export_program(model, torch.randn(2, 3, 16, 24), folder / "exits.onnx")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(2, 5), st.integers(0, 10**6))
def test_the_gate_takes_the_first_best_score(batch, channels, count, seed):
    random = np.random.default_rng(seed)
    exits = np.cumsum(random.integers(1, 3, count)).tolist()
    features, weight = random.standard_normal((batch, channels)), random.standard_normal((count, channels))
    weight[1] = weight[0]  # equal scores
    bias = np.zeros(count)
    offset = random.integers(-1, 2, count).astype(float)
    given_ = [torch.tensor(a) for a in (features, weight.ravel(), bias, offset)]
    depth, scores = exit_gate(*given_, exits)
    wanted = features @ weight.T
    np.testing.assert_allclose(scores.numpy(), wanted, atol=1e-12)
    np.testing.assert_array_equal(
        depth.numpy(), np.asarray(exits)[np.argmax(scores.numpy() + offset, axis=1)]
    )


def test_the_ops_gradients():
    weight = torch.randn(3 * 4, dtype=torch.float64, requires_grad=True)
    features = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    bias, offset = (
        torch.randn(3, dtype=torch.float64, requires_grad=True),
        torch.zeros(3, dtype=torch.float64),
    )
    assert torch.autograd.gradcheck(lambda *a: exit_gate(*a, offset, [1, 2, 4])[1], (features, weight, bias))
    depth = torch.tensor([1, 3, 2])
    pair = [torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda a, b: exit_select(depth, a, b, 2), tuple(pair))


def run(path: Path, images: Tensor, **choices: list[float]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {"images": images.numpy()} | {f"gate.{k}": np.array(v, np.float32) for k, v in choices.items()}
    arrays = [np.asarray(value) for value in session.run(None, feeds)]
    return dict(zip([o.name for o in session.get_outputs()], arrays, strict=True))


@pytest.mark.parametrize("size", [(16, 24), (8, 40)])
@pytest.mark.parametrize("batch", [1, 4])
def test_every_exit_is_the_truncated_network(exported, size, batch):
    """In stock onnxruntime, at any size and batch: the exported dims are free."""
    model, path = exported
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))
    for depth in EXITS:
        found = run(path, images, offset=forcing(EXITS, depth))
        with torch.no_grad():
            wanted = model.truncated(images, depth)
        assert found["depth"].tolist() == [depth] * batch
        np.testing.assert_allclose(found["classes"], wanted["classes"].numpy(), atol=1e-5)


def test_a_batch_of_mixed_depths(exported):
    """Each image has its own depth, and the answer that it has alone."""
    model, path = exported
    images = torch.randn(16, 3, 16, 24, generator=torch.Generator().manual_seed(2))
    found = run(path, images)
    assert set(found["depth"]) == set(EXITS)
    with torch.no_grad():
        np.testing.assert_array_equal(found["depth"], model(images)["depth"].numpy())
        for i, depth in enumerate(found["depth"].tolist()):
            alone = model.truncated(images[i : i + 1], depth)["classes"].numpy()
            np.testing.assert_allclose(found["classes"][i : i + 1], alone, atol=1e-5)


def test_the_gates_numbers_are_choices(exported):
    """Inputs with default values: another gate is no other program."""
    _, path = exported
    program = onnx.load(path)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in program.graph.input[1:]}
    assert shapes == {"gate.weight": [3 * CHANNELS], "gate.bias": [3], "gate.offset": [3]}
    assert [n.op_type for n in program.graph.node if n.domain] == ["ExitGate", "ExitSelect", "ExitSelect"]
    images = torch.randn(3, 3, 16, 24)
    found = run(path, images, weight=[0.0] * 3 * CHANNELS, bias=[0.0, 1.0, 0.0])
    assert found["depth"].tolist() == [3, 3, 3]


def test_a_new_gate_takes_all_layers():
    model = EarlyExitModel(Tokens(), EXITS, CHANNELS).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        answer = model(images)
        assert answer["depth"].tolist() == [5, 5]
        torch.testing.assert_close(answer["classes"], model.truncated(images, 5)["classes"])


@pytest.mark.parametrize("exits", [[], [5], [0, 5], [3, 2, 5], [2, 2, 5], [2, 4], [2, 6]])
def test_exits_that_an_encoder_has_not(exits):
    with pytest.raises(InputError, match="exits"):
        EarlyExitModel(Tokens(), exits, CHANNELS)


def test_a_depth_that_is_no_exit():
    with pytest.raises(InputError, match=r"one of \[2, 3, 5\]"):
        make_model().truncated(torch.zeros(1, 3, 8, 8), 4)
    with pytest.raises(InputError, match=r"one of \[2, 3, 5\]"):
        forcing(EXITS, 6)
