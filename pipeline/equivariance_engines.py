"""Whom verify --equivariance asks: the bundle by each backend and strategy that run here, its program in stock
onnxruntime, and what it was made of."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from ..runtime import load
from ..runtime.engine import Config, TensorRTConfig, TorchTensorRTConfig, config_for
from ..runtime.errors import BackendWarning, EngineError
from ..runtime.manifest import Manifest, Region
from ..runtime.nvidia import able, why_not
from .dense import Dense
from .reference import Reference
from .verify import strategies_of

BACKENDS = ("ort", "cuda", "torch")  # tried beside the bundle's own: they need no engines
_LOW = {"fp8": TensorProto.FLOAT8E4M3FN, "int8": TensorProto.INT8, "fp16": TensorProto.FLOAT16}

Arrays = Mapping[str, np.ndarray]
Answer = tuple[Arrays, Arrays]  # outputs, and keep masks, by name
Answers = Callable[[np.ndarray], Answer]


@dataclass
class Engines:
    """Those of a bundle by name. `not_run`: why TensorRT runs none of its engines; "". `notes`: what else is amiss."""

    answers: dict[str, Answers] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    not_run: str = ""


def open_engines(
    bundle: Path,
    manifest: Manifest,
    backends: Sequence[str | Config] | None,
    threads: int | None,
    stack: contextlib.ExitStack,
) -> Engines:
    """By the `backends`, or else by all that run here. In the place of engines that TensorRT cannot run here answers
    the model that the whole program's was built from, rounded as its precision is."""
    found = Engines()
    names = [name for name in dict.fromkeys((manifest.backend, *BACKENDS)) if name != "null"]
    for named in names if backends is None else backends:
        config = config_for(named, threads) if isinstance(named, str) else named
        if isinstance(config, TensorRTConfig | TorchTensorRTConfig) and (why := why_not(manifest, config)):
            found.not_run = why
            if manifest.engines:
                found.answers |= _stand_in(bundle, manifest, threads or 0)
        elif _runs(config, manifest):
            _open(bundle, manifest, config, found, stack)
        elif backends is not None or config.backend == manifest.backend:
            found.notes.append(f"backend {config.backend} does not run on this machine: not measured")
    return found


def open_reference(bundle: Path, manifest: Manifest, threads: int) -> Answers:
    """The bundle's program in stock onnxruntime."""
    reference = Reference(bundle, manifest, threads)
    names = [decision.name for decision in manifest.decisions]

    def answer(image: np.ndarray) -> Answer:
        expected = reference(image)
        keeps = (np.asarray(keep.keep) for keep in expected.keeps)
        return expected.outputs, dict(zip(names, keeps, strict=True))

    return answer


def open_original(what: Any, manifest: Manifest, threads: int) -> Answers:
    """A program's path, a checkpoint's, or a torch module. Its masks are not told."""
    names = [output.name for output in manifest.outputs]
    if isinstance(what, str | Path) and str(what).endswith(".onnx"):
        dense = Dense(Path(what), threads)
        return lambda image: ({name: value for name, value in dense(image).items() if name in names}, {})
    import torch
    from torch.utils import _pytree as pytree

    from .network import open_network

    module = open_network(what).module

    def answer(image: np.ndarray) -> Answer:
        with torch.inference_mode():
            values = pytree.tree_leaves(module(torch.from_numpy(image)))
        return {name: value.numpy() for name, value in zip(names, values, strict=True)}, {}

    return answer


def _runs(config: Config, manifest: Manifest) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BackendWarning)
        return type(able(config, manifest)) is type(config)


def _open(
    bundle: Path, manifest: Manifest, config: Config, found: Engines, stack: contextlib.ExitStack
) -> None:
    selective = any(isinstance(step, Region) for step in manifest.steps)
    for strategy in ("dense", *strategies_of(bundle, config)) if selective else ("auto",):
        try:
            model = stack.enter_context(load(bundle, backend=config, strategy=strategy))
        except EngineError as error:  # an op that this backend lacks
            found.notes.append(f"backend {config.backend} does not open the bundle: {error.got}")
            return
        name = f"{config.backend}, {_precision(bundle, manifest, config)}, {strategy}"
        found.answers[name] = lambda image, model=model: _of_model(model, image)


def _of_model(model: Any, image: np.ndarray) -> Answer:
    result = model(image)
    keeps = {name: np.asarray(decision.keep) for name, decision in result.decisions.items()}
    return {name: np.asarray(result[name]) for name in result}, keeps


def _stand_in(bundle: Path, manifest: Manifest, threads: int) -> dict[str, Answers]:
    from .tensorrt.stand_in import open_stand_in

    engine = next(each for each in manifest.engines if each.program == manifest.one_engine)
    program = onnx.load(bundle / manifest.program, load_external_data=False)
    session = open_stand_in(bundle, program, engine, threads)
    choices = {choice.name: np.asarray(choice.value, np.float32) for choice in manifest.choices}
    taken = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    outputs = {output.name for output in manifest.outputs}
    keeps = {decision.keep: decision.name for decision in manifest.decisions}

    def answer(image: np.ndarray) -> Answer:
        feeds = {manifest.inputs[0].name: image, **{k: v for k, v in choices.items() if k in taken}}
        values = dict(zip(names, session.run(None, feeds), strict=True))
        return (
            {name: value for name, value in values.items() if name in outputs},
            {keeps[name]: value for name, value in values.items() if name in keeps},
        )

    return {f"{manifest.backend}, {engine.precision}, its model in onnxruntime": answer}


def _precision(bundle: Path, manifest: Manifest, config: Config) -> str:
    """Of its engines, or else the lowest of the program's tensors."""
    if isinstance(config, TensorRTConfig | TorchTensorRTConfig):
        return "/".join(sorted({engine.precision for engine in manifest.engines}))
    graph = onnx.load(bundle / manifest.program, load_external_data=False).graph
    kinds = {tensor.data_type for tensor in graph.initializer}
    return next((name for name, kind in _LOW.items() if kind in kinds), "fp32")
