"""Verify --equivariance: does the built bundle answer turned images as its network does (arXiv 2603.26657)?

Every engine that runs here, selective and dense, gets each image and what each element g of the group makes of it. Its
error is compared with that of what it was made of: the bundle's program in stock onnxruntime, or a torch checkpoint or
program that is given, such as the one before quantization. Each softened layer's weights are compared with the bound
that the export wrote of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..export.groups import Element, Group, Space
from ..runtime.bundle import open_bundle
from ..runtime.engine import Config
from ..runtime.errors import InputError
from ..runtime.manifest import Manifest
from .data import Dataset, Sample
from .equivariance_engines import Answers, open_engines, open_original, open_reference
from .equivariance_layers import layer_errors, off_center
from .equivariance_report import ElementError, EngineErrors, EquivarianceReport
from .metadata import read_equivariance
from .turns import disc, is_exact, swaps_sides, turned, turned_back
from .verify import RANDOM_IMAGES, random_images

TOLERANCE = 0.01  # of the relative error
GROUP = "C4"  # where neither the user nor the program names one


def verify_equivariance(
    bundle: str | Path,
    data: Dataset | None = None,
    *,
    group: str | None = None,
    tolerance: float = TOLERANCE,
    against: Any = None,
    vectors: Collection[str] = (),
    backends: Sequence[str | Config] | None = None,
    limit: int | None = None,
    threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> EquivarianceReport:
    """Measures the bundle on `data` (its first `limit` images), or on 8 seeded random ones.

    group: "C4", "D4" or "C<n>"; by default the one that the program was softened to, else C4. against: what the engines
    must not be worse than by more than `tolerance`: a program's path, a checkpoint's, or a torch module; by default the
    bundle's program in stock onnxruntime. vectors: outputs whose channels are vectors, x (to the right) before y
    (downwards). backends: as `foveate.load` takes one; by default the bundle's and all that need no engines and run
    here. `tick` is called after each image. Returns the report, passed or not; its `require` raises. Raises InputError,
    BundleError.
    """
    start, bundle = time.monotonic(), Path(bundle)
    manifest = open_bundle(bundle, verify=False).manifest
    program = bundle / manifest.program
    softened = read_equivariance(program)
    chosen = Group(group or (softened[0]["group"] if softened else GROUP))
    _check_vectors(vectors, manifest)
    images, first = 0, None
    with contextlib.ExitStack() as stack:
        engines = open_engines(bundle, manifest, backends, threads, stack)
        dense = {"the program in onnxruntime": open_reference(bundle, manifest, threads or 0)}
        given = (
            {} if against is None else {"what it was made of": open_original(against, manifest, threads or 0)}
        )
        (name, *_), answers = list(given or dense), {**dense, **given, **engines.answers}
        tallies = {each: _Tally(chosen, vectors) for each in answers}
        axes = (1, 2) if manifest.preprocess and manifest.preprocess.layout == "nhwc" else (2, 3)
        for sample in _samples(data, manifest, limit):
            _check_square(sample, manifest, chosen, axes)
            for each, answer in answers.items():
                tallies[each].add(sample.image, answer, axes)
            images, first = images + 1, sample.image if first is None else first
            tick()
    found = {each: EngineErrors(each, tally.means()) for each, tally in tallies.items()}
    layers = layer_errors(program)
    missing = {entry["tensor"] for entry in softened} - {layer.tensor for layer in layers}
    if missing:
        engines.notes.append(
            f"no longer in the program, so not held to their bounds: {', '.join(sorted(missing))}"
        )
    return EquivarianceReport(
        bundle=str(bundle),
        data=data.spec if data else "seeded random images",
        images=images,
        group=chosen.name,
        tolerance=tolerance,
        baseline=found.pop(name),
        engines=tuple(found.values()),
        layers=layers,
        off_center=off_center(program, first) if first is not None else (),
        notes=tuple(engines.notes),
        not_run=engines.not_run,
        seconds=time.monotonic() - start,
    )


class _Tally:
    """Sums over images of what one engine does to each element."""

    def __init__(self, group: Group, vectors: Collection[str]):
        self._found: dict[Element, list[ElementError]] = {element: [] for element in group.elements()}
        self._vectors = vectors

    def add(self, image: np.ndarray, answer: Answers, axes: tuple[int, int]) -> None:
        outputs, keeps = answer(image)
        for element, found in self._found.items():
            moved, moved_keeps = answer(turned(image, element, axes))
            pairs = [_aligned(element, outputs[n], moved[n], n in self._vectors) for n in outputs]
            masks = [_aligned(element, keeps[n], moved_keeps[n]) for n in keeps]
            found.append(_compare(element, pairs, masks))

    def means(self) -> tuple[ElementError, ...]:
        return tuple(_mean(found) for found in self._found.values())


def _mean(found: Sequence[ElementError]) -> ElementError:
    def mean(field: str) -> float:
        return float(np.mean([getattr(each, field) for each in found]))

    masks = None if found[0].masks is None else mean("masks")
    return ElementError(found[0].element, mean("error"), mean("kl"), mean("consistency"), masks)


Pair = tuple[np.ndarray, np.ndarray]  # F(x), and F(gx) turned back: [N, K, positions], or [N, K]


def _compare(element: Element, outputs: Sequence[Pair], masks: Sequence[Pair]) -> ElementError:
    first, other = (_log_softmax(scores) for scores in outputs[0])
    return ElementError(
        element.name,
        max(_relative(*pair) for pair in outputs),
        float((np.exp(first) * (first - other)).sum(1).mean()),
        float((first.argmax(1) == other.argmax(1)).mean()),
        float(np.mean([np.mean((a != 0) == (b != 0)) for a, b in masks])) if masks else None,
    )


def _aligned(element: Element, upright: np.ndarray, moved: np.ndarray, vectors: bool = False) -> Pair:
    """Of maps without what interpolation brought in."""
    upright, moved = _as_scores(upright, moved)
    if upright.ndim == 4:
        moved = turned_back(moved, element)
    if vectors:
        back = Space("vector").action(element).T.astype(moved.dtype)  # the inverse of a turn, or mirror image
        pairs = moved.reshape(len(moved), -1, 2, *moved.shape[2:])
        moved = np.einsum("ij,nkj...->nki...", back, pairs).reshape(moved.shape)
    if moved.shape != upright.shape:
        moved = np.full_like(upright, np.inf)
    if upright.ndim != 4:
        return upright.reshape(len(upright), -1), moved.reshape(len(upright), -1)
    inside = np.ones(upright.shape[2:], bool) if is_exact(element) else disc(*upright.shape[2:])
    return upright[:, :, inside], moved[:, :, inside]


def _as_scores(upright: np.ndarray, moved: np.ndarray) -> Pair:
    """Maps of classes, integers [N, H, W], as scores [N, K, H, W] of 0 and 1; else as they are."""
    if upright.ndim != 3 or upright.dtype.kind not in "iu":
        return upright, moved
    classes = np.arange(max(upright.max(), moved.max()) + 1)[:, None, None]
    return (upright[:, None] == classes).astype(np.float32), (moved[:, None] == classes).astype(np.float32)


def _relative(upright: np.ndarray, moved: np.ndarray) -> float:
    size = float(np.linalg.norm(upright.astype(np.float64)))
    return float(np.linalg.norm(moved.astype(np.float64) - upright)) / (size or 1.0)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    """Along axis 1; a single channel holds logits of class 1 against class 0."""
    scores = scores.astype(np.float64)
    scores = np.concatenate([np.zeros_like(scores), scores], 1) if scores.shape[1] == 1 else scores
    scores = scores - scores.max(1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(1, keepdims=True))


def _samples(data: Dataset | None, manifest: Manifest, limit: int | None) -> Iterator[Sample]:
    return data.samples(limit) if data is not None else random_images(manifest, limit or RANDOM_IMAGES)


def _check_vectors(vectors: Collection[str], manifest: Manifest) -> None:
    pairs = [
        o.name
        for o in manifest.outputs
        if len(o.shape) > 1 and isinstance(o.shape[1], int) and o.shape[1] % 2 == 0
    ]
    for name in vectors:
        if name not in pairs:
            raise InputError(
                "vectors",
                got=repr(name),
                expected="an output with pairs of channels: " + (", ".join(pairs) or "there is none"),
                fix="`foveate inspect` lists the outputs.",
            )


def _check_square(sample: Sample, manifest: Manifest, group: Group, axes: tuple[int, int]) -> None:
    height, width = (sample.image.shape[axis] for axis in axes)
    fixed = any(isinstance(manifest.inputs[0].shape[axis], int) for axis in axes)
    turns = [element for element in group.elements() if swaps_sides(element) or not is_exact(element)]
    if height != width and fixed and turns:
        raise InputError(
            f"image {sample.name}",
            got=f"{height} × {width}, for a program that takes this size alone",
            expected=f"a square, that {group.name} turns into itself",
            fix="Export the program with free sizes, or for a square --size, or take --group C2.",
        )
