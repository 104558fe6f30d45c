"""Regions that are replayed answer what the dense program does, whatever was replayed before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foveate.runtime import Model, load
from foveate.runtime.costs import DeviceCosts, SegmentCost
from foveate.runtime.device import replay
from foveate.runtime.device.host import HostDevice
from foveate.runtime.device.recording import Recording
from foveate.runtime.errors import EngineError, InternalError
from hypothesis import given, settings
from hypothesis import strategies as st

MakeImage = Callable[..., np.ndarray]
REGION = "region0"


def costs(fixed_ms: float = 0.01, ms_per_cell: float = 1e-3) -> DeviceCosts:
    segments = {name: SegmentCost(fixed_ms, ms_per_cell) for name in "abcd"}
    return DeviceCosts({}, (1, 4, 64, 64), segments, {REGION: 1e3}, 0.3, guesses=segments)


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may be replayed is, from the second run of a kind on."""
    monkeypatch.setattr(replay, "_GAIN", 1e9)
    monkeypatch.setattr(replay, "_AFTER", 2)
    monkeypatch.setattr(replay, "_ROUNDS", 1)


@pytest.fixture
def model(handmade: Path, hosted: Any) -> Iterator[Model]:
    with load(handmade, backend=hosted(), strategy="rects") as opened:
        opened.executor.costs = costs()
        yield opened


@pytest.fixture(scope="module")
def cpu(handmade: Path) -> Iterator[Model]:
    with load(handmade, threads=1) as opened:
        yield opened


@pytest.fixture
def dense(cpu: Model) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    cpu.set_choices({"gain": 1.0})
    return lambda images: dict(cpu.dense(images))


def replayed(model: Model) -> int:
    return model.stats()["replayed"].get(REGION, 0)


def device_of(model: Model) -> Any:
    return model.device


def references(model: Model) -> list[Any]:
    return list(model.executor.references._entries.values())


def assert_restored(model: Model) -> None:
    for reference in references(model):
        for scratch in reference.pool:
            assert not scratch.restores
            for name, array in scratch.arrays.items():
                expected = np.broadcast_to(reference.arrays[name].values, array.shape)
                np.testing.assert_array_equal(array.values, expected)


Requests = st.lists(
    st.tuples(
        st.sampled_from([32, 32, 32, 48]),  # the height; the width is 40
        st.sampled_from(
            [(0.01, 0.01), (0.01, 0.0), (0.012, 0.02), (0.0, 0.0), (0.3, 0.01), (1.0,)]
        ),  # active
        st.sampled_from([1.0, 1.0, 1.0, 0.5]),  # the choice `gain`
    ),
    min_size=6,
    max_size=12,
)


@settings(deadline=None, max_examples=10)
@given(requests=Requests, seed=st.integers(0, 2**16), most=st.sampled_from([0, 3]))
def test_replays_are_dense(models, cpu, close, make_image: MakeImage, requests, seed, most):
    """Any masks, sizes, batches and choices, one after the other: counts that grow and shrink, and come to nothing."""
    rng, model = np.random.default_rng(seed), models[most]
    model.executor.references.clear()
    model.executor.costs = costs(1e-3 * (seed % 2))
    for height, active, gain in requests:
        masks = [rng.random((height, 40)) < share for share in active]
        images = np.concatenate([make_image(mask, int(rng.integers(1000))) for mask in masks])
        for each in (model, cpu):
            each.set_choices({"gain": gain})
        close(model(images), cpu.dense(images))
        assert_restored(model)


@pytest.fixture(scope="module")
def models(handmade: Path, hosted: Any) -> Iterator[dict[int, Model]]:
    """By the largest batch of an engine."""
    opened = {most: load(handmade, backend=hosted(most=most), strategy="rects") for most in (0, 3)}
    yield opened
    for model in opened.values():
        model.close()


def blobs(make_image: MakeImage, *sides: int, seed: int = 0, size: int = 64) -> np.ndarray:
    """Images with an active square each, of these sides."""
    masks = np.zeros((len(sides), size, size), bool)
    for mask, side in zip(masks, sides, strict=True):
        mask[4 : 4 + side, 4 : 4 + side] = True
    return np.concatenate([make_image(mask, seed + n) for n, mask in enumerate(masks)])


def test_what_comes_back_is_replayed_with_other_values(model: Model, dense, close, make_image: MakeImage):
    for seed in range(5):
        images = blobs(make_image, 9, 20, seed=10 * seed)
        close(model(images), dense(images))
    assert replayed(model) == 4
    assert model.stats()["references"]["built"] == 1


def test_nothing_of_one_request_is_left_in_the_next(model: Model, dense, close, make_image: MakeImage):
    """Answers that were handed out stay as they are, too."""
    kept = []
    for seed in range(6):
        images = blobs(make_image, 9, seed=seed)
        found = model(device_of(model).put(images))
        kept.append((found, dense(images)))
    assert replayed(model) > 0
    for found, expected in kept:
        close({name: value.values for name, value in found.items()}, expected)


def test_fewer_windows_are_replayed_by_a_graph_of_more(model: Model, dense, close, make_image: MakeImage):
    larger = blobs(make_image, 48)
    for _ in range(2):
        model(larger)
    before, kept = replayed(model), len(references(model)[0].replays._runs.keys)
    images = blobs(make_image, 46, seed=3)
    close(model(images), dense(images))
    assert replayed(model) == before + 1 and len(references(model)[0].replays._runs.keys) == kept
    small = blobs(make_image, 5)
    close(model(small), dense(small))
    assert replayed(model) == before + 1, "a graph of so many windows would take too long"
    assert_restored(model)


def test_more_windows_than_were_captured_are_not_replayed(model: Model, dense, close, make_image: MakeImage):
    for _ in range(3):
        model(blobs(make_image, 20))
    before = replayed(model)
    images = blobs(make_image, 50)
    close(model(images), dense(images))
    assert replayed(model) == before
    close(model(images), dense(images))
    assert replayed(model) == before + 1
    assert_restored(model)


def test_empty_masks_run_nothing(model: Model, dense, close, make_image: MakeImage):
    empty = blobs(make_image, 0)
    for _ in range(4):
        close(model(empty), dense(empty))
    assert replayed(model) == 0


def test_other_costs_are_another_tiling(model: Model, dense, close, make_image: MakeImage):
    for fixed_ms in (0.01, 1.0, 0.0):
        model.executor.costs = costs(fixed_ms)
        for seed in range(3):
            images = blobs(make_image, 9, 20, seed=seed)
            close(model(images), dense(images))
    assert replayed(model) == 6


def test_a_failure_forgets_the_scratch_and_its_replays(
    model: Model, dense, close, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch
):
    images = blobs(make_image, 9)
    for _ in range(3):
        model(images)
    before, put, calls = replayed(model), HostDevice.put_windows, []

    def fails_at_the_last(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise EngineError("d", got="a failure", expected="none", fix="Wait.")
        put(*arguments)

    with monkeypatch.context() as patch, pytest.raises(EngineError):
        patch.setattr(HostDevice, "put_windows", fails_at_the_last)
        model(images)
    for _ in range(3):
        elsewhere = images[..., ::-1, ::-1].copy()
        close(model(elsewhere), dense(elsewhere))
    assert replayed(model) > before
    assert_restored(model)


def test_what_cannot_be_captured_runs_as_before(
    model: Model, dense, close, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch, caplog
):
    def refuse(*_: object) -> None:
        raise EngineError("a capture", got="a refusal", expected="none", fix="None.")

    for window in model.executor.windows.values():
        monkeypatch.setattr(window, "_capture", refuse)
    images = blobs(make_image, 9)
    with caplog.at_level(logging.DEBUG, "foveate"):
        for _ in range(3):
            close(model(images), dense(images))
    assert "no CUDA graph" in caplog.text and replayed(model) == 0
    assert_restored(model)


def test_engines_that_cannot_be_captured_leave_a_region_as_it_was(
    handmade: Path, hosted: Any, dense, close, make_image: MakeImage
):
    with load(handmade, backend=hosted(graph=False), strategy="rects") as model:
        for _ in range(4):
            images = blobs(make_image, 9)
            close(model(images), dense(images))
        assert replayed(model) == 0 and all(reference.replays is None for reference in references(model))


def test_memory_of_replays_is_bounded(handmade: Path, hosted: Any, dense, close, make_image: MakeImage):
    with load(handmade, backend=hosted(), strategy="rects") as model:
        for _ in range(4):
            model(blobs(make_image, 9))
        (reference,) = references(model)
        nbytes, used = reference.replays.nbytes, model.executor.references.nbytes
        assert nbytes > 0 and replayed(model) > 0
        assert used == reference.held_bytes + reference.scratch_bytes > nbytes
    with load(handmade, backend=hosted(), strategy="rects", cache_bytes=used - 1) as model:
        for _ in range(4):
            images = blobs(make_image, 9)
            close(model(images), dense(images))
        (reference,) = references(model)
        assert reference.replays.nbytes < nbytes and model.executor.references.nbytes <= used - 1


def test_a_try_is_no_evidence_for_the_guard(
    handmade: Path, hosted: Any, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch
):
    with load(handmade, backend=hosted()) as model:
        model.executor.costs = costs()
        judged: list[bool] = []
        monkeypatch.setattr(model.executor.guard, "saw_selective", lambda *_: judged.append(True))
        seen = []
        for _ in range(4):
            model(blobs(make_image, 9))
            seen.append(len(judged))
        assert seen == [0, 0, 1, 2]  # the first builds a reference, the second tries


def test_recorded_work_has_the_same_memory_each_time():
    device = HostDevice()
    source, made = device.put(np.ones((1, 2), np.float32)), []

    def work() -> None:
        made.append((device.copy(source), device.copy(source, 3)))

    recording = Recording(device, work, device.capture)
    source.values[:] = 2
    recording.launch()
    first, last = made[0], made[-1]
    assert [array.pointer for array in first] == [array.pointer for array in last]
    assert (last[1].values == 2).all() and recording.nbytes == 8 + 24 and device.recording is None


def test_work_that_changes_or_waits_is_no_work_to_record():
    device, sizes, calls = HostDevice(), iter(range(1, 9)), iter(range(1, 9))
    with pytest.raises(InternalError, match="took"):
        Recording(device, lambda: device.empty((next(sizes),), np.uint8), device.capture)
    with pytest.raises(InternalError, match="took \\[\\] before"):
        Recording(device, lambda: [device.empty((1,), np.uint8) for _ in range(next(calls))], device.capture)
    for wait in (lambda: device.put(np.zeros(1)), lambda: device.get([])):
        with pytest.raises(InternalError, match="host"):
            Recording(device, wait, device.capture)
    assert device.recording is None
