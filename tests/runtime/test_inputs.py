"""Bad input is refused by name before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foveate.runtime import Model, load
from foveate.runtime.errors import DecisionError, FoveateError, InputError
from foveate.runtime.inputs import ImageReader, input_shapes
from foveate.runtime.manifest import Manifest, Preprocess, TensorSpec


@pytest.fixture(scope="module")
def model(handmade: Path) -> Iterator[Model]:
    with load(handmade, threads=1) as opened:
        yield opened


def image(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


BAD = {
    "rank": (
        image(4, 32, 32),
        r"\[4, 32, 32\].*expected float32 \[batch, 4, height, width\].*\n.*images\[None\]",
    ),
    "rank 5": (image(1, 1, 4, 32, 32), "Reshape"),
    "channels": (image(1, 3, 32, 32), "Axis 1 is 3, the program takes 4"),
    "float64": (image(1, 4, 32, 32, dtype=np.float64), r"float64.*\n.*Cast to float32"),
    "int": (image(1, 4, 32, 32, dtype=np.int32), r"Cast to float32"),
    "empty batch": (image(0, 4, 32, 32), r"at least one image.*\n.*batch is empty"),
    "too small": (image(1, 4, 7, 32), r"at least 8×8"),
    "no array": ("picture.png", r"got a str"),
    "no images": ([], r"a list without images"),
    "uint8 with alpha": (image(9, 9, 4, dtype=np.uint8), r"uint8 \[9, 9, 4\].*\n.*alpha"),
    "uint8 of two sizes": ([image(9, 9, 3, dtype=np.uint8), image(8, 9, 3, dtype=np.uint8)], "one size"),
    "another name": ({"image": image(1, 4, 32, 32)}, r"\['image'\]; expected \['images'\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(model: Model, case: str):
    value, message = BAD[case]
    with pytest.raises(InputError, match=message):
        model(value)
    with pytest.raises(InputError, match=message):
        model.dense(value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_its_image(model: Model, bad: float):
    images = image(3, 4, 32, 32)
    images[1, 2, 5, 5] = bad
    with pytest.raises(InputError, match=r"image 1 of input 'images': got 1 values that are NaN or infinite"):
        model(images)


def test_a_shape_that_was_good_does_not_excuse_what_comes_in_it(model: Model):
    good = np.random.default_rng(0).random((1, 4, 32, 32), np.float32)
    expected = model(good)
    broken = good.copy()
    broken[0, 1, 2, 3] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        model(broken)
    with pytest.raises(InputError, match="Cast to float32"):
        model(good.astype(np.float64))
    turned = np.ascontiguousarray(good.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    for name, value in model(turned).items():  # the same image, otherwise laid out
        np.testing.assert_array_equal(value, expected[name])


def test_large_finite_values_are_no_error(model: Model):
    images = image(1, 4, 32, 32)
    images[0, :3] = 3e38  # their sum is infinite, they are not
    images[0, 3] = 0.0
    assert model(images).decisions["mask0"].active_fraction[0] == 0


@pytest.mark.parametrize("strategy", ["auto", "rects", "dense"])
def test_a_decision_that_is_not_finite_names_itself_and_its_image(
    handmade: Path, make_image: Callable[..., np.ndarray], strategy: str
):
    images = np.concatenate([make_image(np.zeros((32, 32), bool)) for _ in range(3)])
    images[2, 3, 4, 4] = 1e30  # squared by the hand-made decision
    with (
        load(handmade, threads=1, strategy=strategy) as model,
        pytest.raises(DecisionError, match=r"decision 'mask0' of image 2: got 1 of 256 logits"),
    ):
        model(images)


def test_more_memory_than_allowed(handmade: Path):
    with load(handmade, threads=1, memory_bytes=2**20) as model:
        model(image(1, 4, 32, 32))
        with pytest.raises(InputError, match=r"needs about \d+ MiB; expected at most 1 MiB"):
            model(image(1, 4, 512, 512))


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "backend": ({"backend": "tensort"}, "backend"),
    "strategy": ({"strategy": "fast"}, r"expected one of auto, dense, rects"),
    "threads": ({"threads": -2}, "threads"),
    "cache_bytes": ({"cache_bytes": -1}, "cache_bytes"),
    "unknown choice": ({"choices": {"mask0.treshold": 0.1}}, r"Did you mean 'mask0\.threshold'\?"),
    "choice not finite": ({"choices": {"gain": float("nan")}}, r"'gain': got nan; expected a finite number"),
    "choice of another shape": ({"choices": {"gain": [1.0, 2.0]}}, "a finite number"),
    "choice that is no number": ({"choices": {"gain": "much"}}, "a finite number"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_options(handmade: Path, case: str):
    options, message = OPTIONS[case]
    with pytest.raises(FoveateError, match=message):
        load(handmade, **options)


def test_a_refused_choice_changes_nothing(model: Model):
    with pytest.raises(InputError):
        model.set_choices({"gain": 3.0, "no such": 1.0})
    assert model.choices == {"mask0.threshold": 0.5, "gain": 1.0}


def test_images_of_one_size_and_layout_are_stacked(make_bundle: Callable[..., Path]):
    """A uint8 list goes through the bundle's preprocess: here to the size that it fixes."""
    bundle = make_bundle(preprocess=Preprocess(size=(16, 24)))
    with (
        load(bundle, threads=1) as model,
        pytest.raises(InputError, match="Axis 1 is 3, the program takes 4"),
    ):
        model([image(9, 9, 3, dtype=np.uint8), image(8, 30, 3, dtype=np.uint8)])


def two_inputs() -> Manifest:
    image = TensorSpec("images", "float32", ("batch", 3, "height", "width"))
    hint = TensorSpec("hint", "float32", ("batch", 1, "height/4", "width/4"))
    return Manifest(
        "two", (image, hint), (), (), (), sample={"images": [1, 3, 64, 64], "hint": [1, 1, 16, 16]}
    )


def test_shapes_of_several_inputs_follow_from_the_first():
    manifest = two_inputs()
    assert input_shapes(manifest, ()) == [{"images": (1, 3, 64, 64), "hint": (1, 1, 16, 16)}]
    expected = {"images": (2, 3, 30, 40), "hint": (2, 1, 8, 10)}
    for shapes in ([(2, 3, 30, 40)], [[(2, 3, 30, 40)]], [{"images": [2, 3, 30, 40]}]):
        assert input_shapes(manifest, shapes) == [expected]
    with pytest.raises(InputError, match="leaves 'height' open"):
        input_shapes(manifest, [{"hint": (1, 1)}, {}])


def test_inputs_must_agree():
    reader = ImageReader(two_inputs(), None)
    fitting = reader({"images": image(2, 3, 30, 40), "hint": image(2, 1, 8, 10)})
    assert fitting.images == 2 and fitting.symbols["batch"] == 1 and fitting.symbols["height"] == 30
    with pytest.raises(InputError, match="one batch size"):
        reader({"images": image(2, 3, 30, 40), "hint": image(1, 1, 8, 10)})
    with pytest.raises(InputError, match=r"a dict with images, hint"):
        reader(image(2, 3, 30, 40))
