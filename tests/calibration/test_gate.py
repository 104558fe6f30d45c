"""Gates learn from features and qualities which exit an image needs; what they gain is told beside fixed depths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from foveate.calibration import ExitData, collect_exits, operating_point, trade_off, train_gates
from foveate.calibration.gate import _PENALTIES, TRAININGS, _ridge
from foveate.calibration.judged import explained, judge, judge_trainings
from foveate.calibration.operating import operating, oracle
from foveate.export import EarlyExitModel
from foveate.runtime.errors import InputError
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

EXITS = (1, 2, 4)


def make_data(count: int, seed: int, told: float = 3.0) -> ExitData:
    """Images of three kinds, each with an exit behind which layers bring nothing; features tell it, with noise."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, count)
    quality = np.where(np.arange(3) >= kind[:, None], 0.9, 0.4) + 0.01 * rng.standard_normal((count, 3))
    features = told * np.eye(3)[kind] + rng.standard_normal((count, 3))
    mixed = (
        features @ np.random.default_rng(99).standard_normal((3, 12)) + 5.0
    )  # on other axes, and far from 0
    return ExitData(np.concatenate([features, mixed], axis=1).astype(np.float32), quality, EXITS)


def test_a_gate_beats_fixed_and_random_depths():
    train, test = make_data(600, 0), make_data(400, 1)
    ((_, found),) = trade_off(train, test, [0.02])
    assert found.quality > found.fixed + 0.05 and found.quality > found.random + 0.1
    assert 1 < found.depth < 4 and sum(found.shares.values()) == pytest.approx(1)


@given(told=st.floats(0, 3), seed=st.integers(0, 99))
def test_with_a_regression_a_higher_price_sends_no_image_deeper(told: float, seed: int):
    data = make_data(40, seed, told)
    gates = train_gates(data, [0.0, 0.01, 0.02, 0.1, 0.5], "regression")
    depths = np.array([gate.depths(data.features) for gate in gates])
    assert (np.diff(depths, axis=0) <= 0).all()


def test_the_regression_has_the_penalty_of_the_least_leave_one_out_error():
    """As refitting without each image says."""
    data = make_data(40, 0, told=1.0)
    features = data.features - data.features.mean(axis=0)
    targets = data.quality - data.quality.mean(axis=0)

    def weight(rows: np.ndarray, penalty: float) -> np.ndarray:
        x, y = (values[rows] - values[rows].mean(axis=0) for values in (features, targets))
        covariance = x.T @ x / len(features) + penalty * np.eye(x.shape[1])
        return np.linalg.solve(covariance, x.T @ y / len(features)).T

    def left_out(image: int, penalty: float) -> np.ndarray:
        others = np.arange(len(features)) != image
        told = weight(others, penalty) @ (features[image] - features[others].mean(axis=0))
        return targets[image] - targets[others].mean(axis=0) - told

    def error(penalty: float) -> float:
        return float(np.square([left_out(image, penalty) for image in range(len(features))]).mean())

    found = _ridge(features.astype(np.float64), targets)
    best = min(_PENALTIES, key=error)
    np.testing.assert_allclose(found, weight(np.arange(len(features)), best), atol=1e-6)


@pytest.mark.parametrize(("told", "training"), [(3.0, "classification"), (0.3, "regression")])
def test_the_data_decides_how_a_gate_is_trained(told: float, training: str):
    data = make_data(300, 0, told)
    noisy = ExitData(
        data.features,
        data.quality + (0.0 if told > 1 else 0.5) * np.random.default_rng(0).standard_normal((300, 3)),
        EXITS,
    )
    assert judge_trainings(noisy, [0.0, 0.02]).training == training


def test_no_image_is_judged_by_a_gate_that_knows_it():
    """Features that name each image, with qualities that nothing else tells: what was learnt by heart is of no use."""
    rng = np.random.default_rng(0)
    data = ExitData(np.eye(80, dtype=np.float32), rng.standard_normal((80, 3)), EXITS)
    known = train_gates(data, [0.0], "classification")[0]
    assert operating_point(known, data).wins
    for name in TRAININGS:
        assert not operating(0.0, judge(data, [0.0], name).depths[0], data).wins
    assert explained(data) < 0.05 < 0.7 < explained(make_data(400, 0))


def test_an_oracle_bounds_all_gates():
    data = make_data(400, 0)
    best = oracle(data, 0.02)
    for name in TRAININGS:
        point = operating(0.02, judge(data, [0.02], name).depths[0], data)
        assert point.quality - 0.02 * point.depth <= best.quality - 0.02 * best.depth


def test_a_higher_price_gives_shallower_depths():
    """Down to the first exit, where no quality is worth a layer; at no price at all to where quality is best."""
    train, test = make_data(600, 0), make_data(400, 1)
    depths = [found.depth for _, found in trade_off(train, test, [0.0, 0.02, 0.2, 0.35, 10.0])]
    assert depths == sorted(depths, reverse=True) and depths[0] > 2 and depths[-1] == 1


def test_features_that_tell_nothing_gain_nothing():
    train, test = make_data(600, 0, told=0.0), make_data(2000, 1, told=0.0)
    ((_, found),) = trade_off(train, test, [0.02])
    assert abs(found.quality - found.random) < 0.03


def test_training_is_deterministic_and_scales_with_the_features():
    data = make_data(200, 0)
    again = train_gates(data, [0.02])[0]
    np.testing.assert_array_equal(train_gates(data, [0.02])[0].weight, again.weight)
    larger = ExitData(data.features * 1000 + 7, data.quality, EXITS)
    np.testing.assert_array_equal(
        train_gates(larger, [0.02])[0].depths(larger.features), again.depths(data.features)
    )


def test_the_controls():
    """Fixed depths are interpolated, random ones have the gate's shares."""
    data = ExitData(np.zeros((4, 2), np.float32), np.tile([0.1, 0.5, 0.7], (4, 1)), EXITS)
    gate = train_gates(data, [0.0])[0]
    assert operating_point(gate, data).fixed == pytest.approx(0.7)
    assert gate.choices("gate0").keys() == {"gate0.weight", "gate0.bias"}
    found = operating_point(train_gates(data, [0.3])[0], data)
    assert (found.depth, found.quality, found.fixed, found.random) == pytest.approx((2, 0.5, 0.5, 0.5))


class _Counter(nn.Module):
    """Tokens are the images' means; each layer adds one, and the head gives that."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(_AddOne() for _ in range(4))

    def stem(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return images.mean((2, 3)), ()

    def pooled(self, tokens: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        return 2 * tokens

    def head(self, tokens: Tensor, context: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"count": tokens}


class _AddOne(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + 1


def test_every_exit_of_every_image_is_collected(tmp_path: Path):
    model = EarlyExitModel(_Counter(), EXITS, 3)
    batches = [(torch.full((2, 3, 4, 4), float(n)), [10.0 * n, 10.0 * n + 1]) for n in range(3)]
    data = collect_exits(model, batches, lambda answer, label: float(answer["count"][0, 0] + label))
    np.testing.assert_array_equal(data.features[:, 0], [0, 0, 2, 2, 4, 4])
    np.testing.assert_array_equal(data.quality[2], [1 + 10 + k for k in EXITS])
    assert data.exits == EXITS and model.training
    data.save(tmp_path / "exits.npz")
    again = ExitData.load(tmp_path / "exits.npz")
    np.testing.assert_array_equal(again.quality, data.quality)
    assert again.exits == EXITS


def test_bad_data_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="at least one image"):
        ExitData(np.zeros((0, 2)), np.zeros((0, 3)), EXITS)
    with pytest.raises(InputError, match="NaN"):
        ExitData(np.zeros((1, 2)), np.array([[0.0, np.nan, 0.0]]), EXITS)
    with pytest.raises(InputError, match="beta"):
        train_gates(make_data(10, 0), [-0.1])
    with pytest.raises(InputError, match="at least one"):
        collect_exits(EarlyExitModel(_Counter(), EXITS, 3), [], lambda answer, label: 0.0)
    (tmp_path / "cut.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"ExitData\.save"):
        ExitData.load(tmp_path / "cut.npz")
