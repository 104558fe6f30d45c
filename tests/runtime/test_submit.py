"""Images that come one by one: the same answers as one by one, in whatever batches they ran."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foveate.pipeline.build import build
from foveate.runtime import Batching, Model, Result, load
from foveate.runtime.errors import DecisionError, EngineError, FoveateError, InputError, QueueFullError
from foveate.runtime.exits import check_depths
from foveate.runtime.manifest import ExitChain
from hypothesis import given, settings
from hypothesis import strategies as st

from ..early_exits import CHANNELS, EXITS, exit_program
from .test_processes import run_python

WAIT = 60
SIZES = ((32, 48), (16, 16), (8, 40))
PATIENT = Batching(max_batch=4, max_delay_ms=1e9)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exits")
    return build(exit_program(folder / "exits.onnx"), folder / "bundle", sample=(2, 3, 32, 48))


@pytest.fixture(scope="module")
def model(bundle: Path) -> Iterator[Model]:
    with load(bundle, threads=1) as opened:
        yield opened


def make(size: tuple[int, int] = SIZES[0], seed: int = 0) -> np.ndarray:
    """Noise of a contrast between 0.1 and 10, on which the depth depends."""
    rng = np.random.default_rng(seed)
    return (10 ** rng.uniform(-1, 1) * rng.standard_normal((1, 3, *size))).astype(np.float32)


def not_finite_inside() -> np.ndarray:
    """Finite, but no gate's scores are."""
    image = make(seed=3)
    return image / np.abs(image).max() * np.float32(3e38)


def assert_same(found: Result, alone: Result) -> None:
    assert found.outputs.keys() == alone.outputs.keys()
    for name in found:
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.depth, alone.depth)
    for name, decision in alone.decisions.items():
        np.testing.assert_array_equal(found.decisions[name].keep, decision.keep)
        np.testing.assert_array_equal(found.decisions[name].active_fraction, decision.active_fraction)


@settings(max_examples=15, deadline=None)
@given(
    images=st.lists(st.tuples(st.sampled_from(SIZES), st.integers(0, 99)), min_size=1, max_size=20),
    max_batch=st.integers(1, 6),
    delay=st.sampled_from([0.0, 1.0]),
)
def test_answers_are_those_of_single_images(bundle: Path, model: Model, images, max_batch: int, delay: float):
    made = [make(size, seed) for size, seed in images]
    with load(bundle, threads=1, verify=False, batching=Batching(max_batch, delay, queue=9)) as batched:
        for future, image in zip([batched.submit(image) for image in made], made, strict=True):
            assert_same(future.result(WAIT), model(image))


def test_images_of_one_batch_part_by_depth_and_meet_at_the_head(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    images = [make(seed=seed) for seed in range(8)]
    with load(bundle, threads=1, batching=Batching(max_batch=8, max_delay_ms=1e9)) as model:
        depths = [int(model(image)["depth"][0]) for image in images]
        assert set(depths) == set(EXITS)
        runs: list[tuple[int, int]] = []
        advance = model._route.advance
        monkeypatch.setattr(
            model._route, "advance", lambda e, part, rs: runs.append((part, len(rs))) or advance(e, part, rs)
        )
        futures = [model.submit(image) for image in images]
        found = [future.result(WAIT) for future in futures]
    assert runs == [(0, 8), (1, sum(d > 1 for d in depths)), (2, sum(d > 2 for d in depths)), (3, 8)]
    assert [int(result["depth"][0]) for result in found] == depths
    for result, depth in zip(found, depths, strict=True):
        stages = [name for name in result.segments if name.startswith("exits.")]
        assert stages == [f"exits.{exit}" for exit in EXITS[1:] if exit <= depth]
        timing = result.timing
        assert 0 <= timing["wait"] < timing["total"] and timing["dense"] <= timing["total"] - timing["wait"]


@pytest.mark.parametrize("strategy", ["auto", "rects", "dense"])
def test_programs_without_exits_run_whole(
    handmade: Path, make_image: Callable[..., np.ndarray], strategy: str
):
    masks = [np.zeros((64, 48), bool), np.eye(64, 48, dtype=bool), np.ones((32, 64), bool)]
    images = [make_image(masks[i % 3], seed=i) for i in range(9)]
    with load(handmade, threads=1, strategy=strategy, batching=PATIENT) as model:
        futures = [model.submit(image) for image in images]
        model_alone = load(handmade, threads=1, strategy=strategy)
        model.close()
        with model_alone as alone:
            for future, image in zip(futures, images, strict=True):
                assert_same(future.result(WAIT), alone(image))


def test_a_masked_backbone_before_exits(tmp_path: Path):
    both = build(exit_program(tmp_path / "both.onnx", mask=True), tmp_path / "bundle", sample=(2, 3, 32, 48))
    images = [make(seed=seed) for seed in range(8)]
    with load(both, threads=1, strategy="spans", batching=PATIENT) as model:
        futures = [model.submit(image) for image in images]
        for future, image in zip(futures, images, strict=True):
            found = future.result(WAIT)
            assert_same(found, model(image))
            assert found.strategies == {"region0": ("spans",)}


def test_a_program_of_one_image_at_a_time(tmp_path: Path):
    """Its reshape holds the batch."""
    path = exit_program(tmp_path / "one.onnx", batch=1)
    program = onnx.load(path)
    flat = next(i for i in program.graph.initializer if i.name == "flat")
    flat.CopyFrom(onnx.numpy_helper.from_array(np.array([1, CHANNELS, -1]), "flat"))
    onnx.save(program, path)
    one = build(path, tmp_path / "bundle", sample=(1, 3, 32, 48))
    with load(one, threads=1, batching=PATIENT) as model:
        for seed in range(3):
            assert_same(model.submit(make(seed=seed)).result(WAIT), model(make(seed=seed)))


def test_answers_belong_to_their_callers(bundle: Path):
    with load(bundle, threads=1, batching=PATIENT) as model:
        image = make()
        found = [future.result(WAIT) for future in [model.submit(image) for _ in range(4)]]
        assert all(
            value.base is None for result in found for value in result.values()
        )  # not parts of a batch's
        for result in found[1:]:
            result["classes"][:] = np.nan
        assert_same(found[0], model(image))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (not_finite_inside(), DecisionError, "image 0"),
        (np.zeros((2, 3, 32, 48), np.float32), InputError, "2 images.*\n.*image by image"),
        (np.zeros((0, 3, 32, 48), np.float32), InputError, "at least one image"),
        (np.full((1, 3, 32, 48), np.nan, np.float32), InputError, "NaN"),
        ("picture.png", InputError, "got a str"),
    ],
)
def test_what_is_wrong_with_an_image_is_its_own(bundle: Path, image, error: type[Exception], message: str):
    good = [make(seed=seed) for seed in range(3)]
    with load(bundle, threads=1, batching=PATIENT) as model:
        futures = [model.submit(each) for each in (good[0], image, *good[1:])]
        model.close()
        with pytest.raises(error, match=message):
            futures.pop(1).result(WAIT)
        with load(bundle, threads=1) as alone:
            for future, each in zip(futures, good, strict=True):
                assert_same(future.result(WAIT), alone(each))


def test_an_engine_that_fails_on_one_image(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    """A stage fails where the fifth token of an image begins with more than its share."""
    images = [make(seed=seed) for seed in range(4)]
    with load(bundle, threads=1, batching=PATIENT) as model:
        model.set_choices({"gate0.offset": [0.0, 0.0, 1e6]})
        engine = model.executor.engines["programs/exits4.onnx"]
        run = engine.run

        def failing(feeds):
            if any(np.isin(image.ravel()[:4], marked).any() for image in feeds["t2"]):
                raise EngineError("a stage", got="one image", expected="others", fix="None.")
            return run(feeds)

        marks: list[np.ndarray] = []
        monkeypatch.setattr(engine, "run", lambda feeds: marks.append(feeds["t2"].copy()) or run(feeds))
        model(images[2])
        marked = marks[0].ravel()[:4]
        monkeypatch.setattr(engine, "run", failing)
        futures = [model.submit(image) for image in images]
        with pytest.raises(EngineError, match="a stage"):
            futures[2].result(WAIT)
        assert [futures[i].result(WAIT)["depth"].tolist() for i in (0, 1, 3)] == [[4]] * 3
        assert model.stats()["errors"] == 1 and model.stats()["images"] == 4


def test_a_depth_that_is_no_exit_names_its_image(model: Model):
    chain = next(step for step in model.manifest.steps if isinstance(step, ExitChain))
    tensors = {chain.depth: np.array([1, 3, 4]), chain.scores: np.zeros((3, 3), np.float32)}
    with pytest.raises(DecisionError, match="depth of image 1: got 3; expected one of 1, 2, 4"):
        check_depths(chain, tensors)
    with pytest.raises(DecisionError, match="scores of image 2"):
        check_depths(chain, tensors | {chain.scores: np.array([[0.0], [1.0], [np.nan]])})


def test_choices_hold_from_submission(bundle: Path):
    with load(bundle, threads=1, batching=PATIENT) as model:
        futures = []
        for at in range(len(EXITS)):
            model.set_choices({"gate0.offset": [1e6 if i == at else 0.0 for i in range(len(EXITS))]})
            futures.append(model.submit(make()))
        model.close()
        assert [future.result(WAIT)["depth"].tolist() for future in futures] == [[exit] for exit in EXITS]


def test_torch_in_torch_out(bundle: Path):
    torch = pytest.importorskip("torch")
    with load(bundle, threads=1) as model:
        found = model.submit(torch.from_numpy(make())).result(WAIT)
        assert isinstance(found["classes"], torch.Tensor)


def test_a_full_queue_is_told(bundle: Path):
    with load(bundle, threads=1, batching=Batching(max_delay_ms=1e9, queue=2)) as model:
        futures = [model.submit(make(seed=seed)) for seed in range(2)]
        with pytest.raises(QueueFullError, match="fewer than 2"):
            model.submit(make(), timeout=0)
        assert model.stats()["waiting"] == 2
        assert futures[0].cancel()
    assert futures[1].done() and futures[0].cancelled()


def test_a_closed_model_takes_nothing(bundle: Path):
    model = load(bundle, threads=1)
    model.close()
    for call in (model, model.submit, model.dense):
        with pytest.raises(EngineError, match=r"close\(\)"):
            call(make())
    with pytest.raises(EngineError, match=r"close\(\)"):
        next(model.map([make()]))


def test_closing_with_cancel(bundle: Path):
    model = load(bundle, threads=1, batching=PATIENT)
    futures = [model.submit(make(seed=seed)) for seed in range(3)]
    model.close(cancel=True)
    assert all(future.cancelled() for future in futures)


def test_map_keeps_order_and_reads_no_farther_than_the_queue(bundle: Path, model: Model):
    images = [make(SIZES[seed % 3], seed) for seed in range(12)]
    read = []

    def source() -> Iterator[np.ndarray]:
        for number, image in enumerate(images):
            read.append(number)
            yield image

    with load(bundle, threads=1, batching=Batching(queue=3)) as mapped:
        for number, found in enumerate(mapped.map(source())):
            assert_same(found, model(images[number]))
            assert len(read) <= number + 4
        assert len(read) == 12


def test_map_with_an_image_that_fails(model: Model):
    images = [make(seed=0), not_finite_inside(), make(SIZES[1], seed=1)]
    found = list(model.map(images, return_exceptions=True))
    assert isinstance(found[1], DecisionError)
    for result, image in ((found[0], images[0]), (found[2], images[2])):
        assert isinstance(result, Result)
        assert_same(result, model(image))
    answers = model.map(images)
    next(answers)
    with pytest.raises(DecisionError):
        next(answers)


def test_images_of_several_sizes_are_no_batch(model: Model):
    with pytest.raises(InputError, match=r"(?s)32×48.*model\.map"):
        model([np.zeros((32, 48, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)])


def test_from_asyncio(bundle: Path, model: Model):
    images = [make(SIZES[seed % 3], seed) for seed in range(10)]

    async def run(served: Model) -> list[Result | BaseException]:
        calls = [served.asubmit(image) for image in (*images, not_finite_inside())]
        return await asyncio.gather(*calls, return_exceptions=True)

    with load(bundle, threads=1, batching=Batching(queue=2)) as served:
        *found, bad = asyncio.run(run(served))
    assert isinstance(bad, DecisionError)
    for result, image in zip(found, images, strict=True):
        assert isinstance(result, Result)
        assert_same(result, model(image))


def test_a_cancelled_task_takes_its_image_back(bundle: Path):
    """One that waits for its answer, and one that waits for room."""

    async def run(served: Model) -> None:
        tasks = [asyncio.create_task(served.asubmit(make(seed=seed))) for seed in range(2)]
        while served.stats()["waiting"] < 1:
            await asyncio.sleep(1e-3)
        for task in tasks:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in found)
        served.close()

    with load(bundle, threads=1, batching=Batching(max_delay_ms=1e9, queue=1)) as served:
        asyncio.run(asyncio.wait_for(run(served), WAIT))
        assert served._stats.summary()["images"] <= 1


def _submit(model: Model, queue: Any) -> None:
    future = model.submit(make())
    model.close()
    queue.put(future.result(WAIT)["classes"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_queue_of_its_own(bundle: Path):
    """The parent's images stay the parent's."""
    with load(bundle, threads=1, batching=PATIENT) as model:
        waiting = model.submit(make(seed=1))
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        with model._queue()._changed:  # as another thread might hold it
            child = context.Process(target=_submit, args=(model, queue))
            child.start()
        child.join(WAIT)
        assert child.exitcode == 0
        np.testing.assert_allclose(queue.get(), model(make())["classes"], rtol=1e-5)
        assert not waiting.done()
    assert waiting.result(WAIT).depth is not None


def test_a_model_nobody_closed(bundle: Path):
    """It is collected when its images are done, and an interpreter that ends waits for them."""
    model = load(bundle, threads=1)
    model.submit(make()).result(WAIT)
    assert model._batcher is not None and model._batcher._thread is not None
    model._batcher._thread.join(WAIT)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    code = """
import foveate, numpy as np
model = foveate.load(sys.argv[1], threads=1)
future = model.submit(np.ones((1, 3, 32, 48), np.float32))
future.add_done_callback(lambda f: print(f.result()["depth"].shape))
"""
    assert run_python(code, str(bundle), blocked=("torch", "onnx")).strip() == "(1,)"


def test_errors_have_one_root():
    assert issubclass(QueueFullError, FoveateError)
