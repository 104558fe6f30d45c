"""Verify --equivariance: does the built bundle answer turned images as its network does (arXiv 2603.26657)?

Every engine that runs here, selective and dense, gets each image and what each element g of the group makes of it. Its
error is compared with that of what it was made of: the bundle's program in stock onnxruntime, or a torch checkpoint or
program that is given, such as the one before quantization. Each softened layer's weights are compared with the bound
that the export wrote of them.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..export.groups import Element, Group
from ..runtime import load
from ..runtime.bundle import open_bundle
from ..runtime.errors import BackendWarning, InputError
from ..runtime.manifest import Manifest, Region
from .data import Dataset, Sample
from .dense import Dense
from .equivariance_layers import layer_errors, off_center
from .equivariance_report import ElementError, EngineErrors, EquivarianceReport
from .metadata import read_equivariance
from .reference import Reference
from .turns import disc, is_exact, swaps_sides, turned, turned_back
from .verify import RANDOM_IMAGES, random_images, strategies_of

TOLERANCE = 0.01  # of the relative error
GROUP = "C4"  # where neither the user nor the program names one

Arrays = Mapping[str, np.ndarray]
Answer = tuple[Arrays, Arrays]  # outputs, and keep masks, by name
Answers = Callable[[np.ndarray], Answer]


def verify_equivariance(
    bundle: str | Path,
    data: Dataset | None = None,
    *,
    group: str | None = None,
    tolerance: float = TOLERANCE,
    against: Any = None,
    limit: int | None = None,
    threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> EquivarianceReport:
    """Measures the bundle on `data` (its first `limit` images), or on 8 seeded random ones.

    group: "C4", "D4" or "C<n>"; by default the one that the program was softened to, else C4. against: what the engines
    must not be worse than by more than `tolerance`: a program's path, a checkpoint's, or a torch module; by default the
    bundle's program in stock onnxruntime. `tick` is called after each image. Returns the report, passed or not; its
    `require` raises. Raises InputError, BundleError.
    """
    start, bundle = time.monotonic(), Path(bundle)
    manifest = open_bundle(bundle, verify=False).manifest
    program = bundle / manifest.program
    softened = read_equivariance(program)
    chosen = Group(group or (softened[0]["group"] if softened else GROUP))
    images, first = 0, None
    with contextlib.ExitStack() as stack:
        engines, notes = _engines(bundle, manifest, threads, stack)
        reference = Reference(bundle, manifest, threads or 0)
        dense = {"the program in onnxruntime": lambda image: _of_reference(reference, image)}
        given = {} if against is None else {"what it was made of": _opened(against, manifest, threads)}
        (name, *_), answers = list(given or dense), {**dense, **given, **engines}
        tallies = {each: _Tally(chosen) for each in answers}
        axes = (1, 2) if manifest.preprocess and manifest.preprocess.layout == "nhwc" else (2, 3)
        for sample in _samples(data, manifest, limit):
            _check_square(sample, manifest, chosen, axes)
            for each, answer in answers.items():
                tallies[each].add(sample.image, answer, axes)
            images, first = images + 1, sample.image if first is None else first
            tick()
    found = {each: EngineErrors(each, tally.means()) for each, tally in tallies.items()}
    return EquivarianceReport(
        bundle=str(bundle),
        data=data.spec if data else "seeded random images",
        images=images,
        group=chosen.name,
        tolerance=tolerance,
        baseline=found.pop(name),
        engines=tuple(found.values()),
        layers=layer_errors(program),
        off_center=off_center(program, first) if first is not None else (),
        notes=tuple(notes),
        seconds=time.monotonic() - start,
    )


class _Tally:
    """Sums over images of what one engine does to each element."""

    def __init__(self, group: Group):
        self._found: dict[Element, list[ElementError]] = {element: [] for element in group.elements()}

    def add(self, image: np.ndarray, answer: Answers, axes: tuple[int, int]) -> None:
        outputs, keeps = answer(image)
        for element, found in self._found.items():
            found.append(_compare(element, outputs, keeps, *answer(turned(image, element, axes))))

    def means(self) -> tuple[ElementError, ...]:
        return tuple(_mean(found) for found in self._found.values())


def _mean(found: Sequence[ElementError]) -> ElementError:
    def mean(field: str) -> float:
        return float(np.mean([getattr(each, field) for each in found]))

    masks = None if found[0].masks is None else mean("masks")
    return ElementError(found[0].element, mean("error"), mean("kl"), mean("consistency"), masks)


def _compare(
    element: Element, outputs: Arrays, keeps: Arrays, moved: Arrays, moved_keeps: Arrays
) -> ElementError:
    pairs = [_aligned(element, outputs[name], moved[name]) for name in outputs]
    first, other = (_log_softmax(scores) for scores in pairs[0])
    masks = [_aligned(element, keeps[name], moved_keeps[name]) for name in keeps]
    return ElementError(
        element.name,
        max(_relative(*pair) for pair in pairs),
        float((np.exp(first) * (first - other)).sum(1).mean()),
        float((first.argmax(1) == other.argmax(1)).mean()),
        float(np.mean([np.mean((a != 0) == (b != 0)) for a, b in masks])) if masks else None,
    )


def _aligned(element: Element, upright: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two answers [N, K, positions], or [N, K] as they are; maps turned back, less what interpolation brought in."""
    if upright.ndim != 4:
        flat = upright.reshape(len(upright), -1), moved.reshape(len(moved), -1)
        return flat if flat[0].shape == flat[1].shape else (flat[0], np.full_like(flat[0], np.inf))
    moved = turned_back(moved, element)
    if moved.shape != upright.shape:
        return upright.reshape(*upright.shape[:2], -1), np.full_like(upright, np.inf).reshape(
            *upright.shape[:2], -1
        )
    inside = np.ones(upright.shape[2:], bool) if is_exact(element) else disc(*upright.shape[2:])
    return upright[:, :, inside], moved[:, :, inside]


def _relative(upright: np.ndarray, moved: np.ndarray) -> float:
    size = float(np.linalg.norm(upright.astype(np.float64)))
    return float(np.linalg.norm(moved.astype(np.float64) - upright)) / (size or 1.0)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    """Along axis 1; a single channel holds logits of class 1 against class 0."""
    scores = scores.astype(np.float64)
    scores = np.concatenate([np.zeros_like(scores), scores], 1) if scores.shape[1] == 1 else scores
    scores = scores - scores.max(1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(1, keepdims=True))


def _engines(
    bundle: Path, manifest: Manifest, threads: int | None, stack: contextlib.ExitStack
) -> tuple[dict[str, Answers], list[str]]:
    """The bundle by each backend and strategy that run here, and what does not."""
    selective = any(isinstance(step, Region) for step in manifest.steps)
    strategies = ("dense", *strategies_of(bundle)) if selective else ("auto",)
    found, notes = {}, []
    backends = dict.fromkeys((manifest.backend, "ort"))
    backends.pop("null", None)  # computes nothing
    for backend in backends:
        for strategy in strategies:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BackendWarning)  # told as a note
                model = load(bundle, backend=backend, strategy=strategy, threads=threads)
            stack.enter_context(model)
            if model.backend != backend:
                notes.append(f"backend {backend} does not run on this machine: not measured")
                break
            name = f"{backend}, {_precision(bundle, manifest, backend)}, {strategy}"
            found[name] = lambda image, model=model: _of_model(model, image)
    return found, notes


def _precision(bundle: Path, manifest: Manifest, backend: str) -> str:
    if backend != "ort" and manifest.engines:
        return "/".join(sorted({engine.precision for engine in manifest.engines}))
    program = onnx.load(bundle / manifest.program, load_external_data=False)
    return "int8" if any(n.op_type == "DequantizeLinear" for n in program.graph.node) else "fp32"


def _of_model(model: Any, image: np.ndarray) -> Answer:
    result = model(image)
    keeps = {name: np.asarray(decision.keep) for name, decision in result.decisions.items()}
    return {name: np.asarray(result[name]) for name in result}, keeps


def _of_reference(reference: Reference, image: np.ndarray) -> Answer:
    expected = reference(image)
    names = [decision.name for decision in reference.manifest.decisions]
    return expected.outputs, {
        name: np.asarray(keep.keep) for name, keep in zip(names, expected.keeps, strict=True)
    }


def _opened(against: Any, manifest: Manifest, threads: int | None) -> Answers:
    names = [output.name for output in manifest.outputs]
    if isinstance(against, str | Path) and str(against).endswith(".onnx"):
        dense = Dense(Path(against), threads or 0)
        return lambda image: ({name: value for name, value in dense(image).items() if name in names}, {})
    from .network import open_network

    module = open_network(against).module

    def answer(image: np.ndarray) -> Answer:
        import torch
        from torch.utils import _pytree as pytree

        with torch.inference_mode():
            values = pytree.tree_leaves(module(torch.from_numpy(image)))
        return {name: value.numpy() for name, value in zip(names, values, strict=True)}, {}

    return answer


def _samples(data: Dataset | None, manifest: Manifest, limit: int | None) -> Iterator[Sample]:
    return data.samples(limit) if data is not None else random_images(manifest, limit or RANDOM_IMAGES)


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
