"""Programs with exits on a device: in every layout what the CPU answers, with the depths read once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foveate.pipeline.build import build
from foveate.runtime import Model, load
from foveate.runtime.errors import DecisionError
from foveate.runtime.exit_costs import ExitCosts
from foveate.runtime.manifest import ExitStep
from foveate.runtime.result import Result

from ...early_exits import exit_program

LAYOUTS = ("chain", "per-depth", "if")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a mask ahead of the exits."""
    folder = tmp_path_factory.mktemp("exits")
    program = exit_program(folder / "exits.onnx", mask=True)
    return build(program, folder / "bundle", sample=(1, 3, 32, 32))


@pytest.fixture(scope="module")
def cpu(bundle: Path) -> Iterator[Model]:
    with load(bundle, threads=1, strategy="rects", layout="chain") as model:
        yield model


@pytest.fixture(scope="module", params=LAYOUTS)
def model(request: pytest.FixtureRequest, bundle: Path, hosted: Any) -> Iterator[Model]:
    with load(bundle, backend=hosted(), strategy="rects", layout=request.param) as opened:
        yield opened


def images(contrasts: list[float], size: int = 32, seed: int = 0) -> np.ndarray:
    """The more contrast, the deeper."""
    noise = np.random.default_rng(seed).normal(size=(len(contrasts), 3, size, size))
    return (noise * np.array(contrasts)[:, None, None, None]).astype(np.float32)


def depths(result: Result) -> list[int]:
    assert result.depth is not None
    return result.depth.tolist()


def assert_alike(found: Result, expected: Result) -> None:
    """The depths, and what the gate read."""
    assert depths(found) == depths(expected)
    assert found.features is not None and expected.features is not None
    np.testing.assert_allclose(found.features, expected.features, rtol=1e-5, atol=1e-6)


BATCHES = ([0.2], [8.0], [0.2, 8.0, 1.0, 3.0, 0.2], [8.0, 8.0, 8.0], [3.0, 0.1, 0.1, 0.1, 0.1, 9.0])


@pytest.mark.parametrize("contrasts", BATCHES)
@pytest.mark.parametrize("size", [32, 64])
def test_every_layout_answers_as_the_cpu(model: Model, cpu: Model, close: Any, contrasts, size: int):
    batch = images(contrasts, size)
    found, expected = model(batch), cpu(batch)
    close(found, expected)
    assert_alike(found, expected)
    assert found.depth is not None and found.depth.dtype == np.int64
    if model.layout == "chain":
        assert set(found.segments) == set(expected.segments)


def test_one_read_back_for_the_mask_and_one_for_the_depths(model: Model, cpu: Model):
    batch = images([0.2, 8.0, 1.0, 3.0])
    assert len(set(depths(cpu(batch)))) > 1
    model(batch)
    device = model.executor.device
    for run, most in ((lambda: model(batch), 3), (lambda: model(device.put(batch)), 2)):
        before = device.gets
        run()
        # An engine with all exits inside of it is asked for nothing before the answer.
        assert device.gets - before == most - (model.layout == "if" and most == 3)


@pytest.mark.parametrize("pays", [True, False])
def test_compaction_changes_no_answer(
    bundle: Path, hosted: Any, cpu: Model, close: Any, pays: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ExitCosts, "division_pays", lambda *_: pays)
    batch = images([0.2, 8.0, 1.0, 3.0, 8.0])
    with load(bundle, backend=hosted(), strategy="rects", layout="chain") as model:
        last = model.executor.engines["programs/exits4.onnx"]
        run, seen = last.run, []
        last.run = lambda feeds: seen.append(next(iter(feeds.values())).shape[0]) or run(feeds)
        found = model(batch)
        close(found, cpu(batch))
        deep = depths(found).count(4)
        assert 0 < deep < 5 and seen[0] == (deep if pays else 5)


def test_images_that_come_one_by_one(model: Model, cpu: Model, close: Any):
    batch = images([0.2, 8.0, 1.0, 3.0])
    futures = [model.submit(image[None]) for image in batch]
    for image, future in zip(batch, futures, strict=True):
        found, expected = future.result(), cpu(image[None])
        close(found, expected)
        assert_alike(found, expected)


def test_scores_that_are_not_finite(model: Model, cpu: Model, close: Any, monkeypatch: pytest.MonkeyPatch):
    batch = images([0.2, 8.0])
    step = next(step for step in model.manifest.steps if isinstance(step, ExitStep))
    (gate,) = (e for e in model.executor.engines._open.values() if step.scores in e.outputs)
    run = gate.run

    def broken(feeds: Any) -> Any:
        made = run(feeds)
        made[gate.outputs.index(step.scores)].values[1, 0] = np.nan
        return made

    with monkeypatch.context() as patch:
        patch.setattr(gate, "run", broken)
        with pytest.raises(DecisionError, match="the gate's scores of image 1"):
            model(batch)
    close(model(batch), cpu(batch))


def test_layouts_are_measured(bundle: Path, hosted: Any, tmp_path: Path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    with load(copy, backend=hosted()) as model:
        costs = model.measure()
    assert set(costs.layouts) == set(LAYOUTS)
    assert costs.fingerprint["device"] == "host"
