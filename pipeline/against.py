"""A bundle against a program that it should answer like: the one in floats that its own was quantized from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ..runtime import Model, Result, load
from ..runtime.bundle import open_bundle
from ..runtime.errors import InputError
from ..runtime.manifest import ExitChain, Manifest
from .data import Dataset
from .dense import Dense, DenseSettings
from .deviation import Deviating, Deviation


def against(
    bundle: str | Path,
    program: str | Path,
    data: Dataset | None,
    metric: str | None = None,
    limit: int | None = None,
    threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Deviation:
    """How the bundle, under its choices, deviates from `program`, an ONNX file or another bundle's, run densely under
    the same. `metric`: a row of docs/data.md; by default what the labels allow. Raises InputError without data, and for
    a program that has other outputs or decisions."""
    if data is None:
        raise InputError(
            "verify", got="--against without data", expected="images: noise says nothing", fix="Add --data."
        )
    found = Deviating(metric)
    with load(bundle, threads=threads) as model:
        names = decided(model.manifest)
        dense = _open(_file(Path(program)), model, list(names.values()), threads or 0)
        for sample in data.samples(limit):
            result, expected = model(sample.image), dense(sample.image, model.choices)
            outputs = {spec.name: expected[spec.name] for spec in model.manifest.outputs}
            answers = {name: np.asarray(result[name]) for name in outputs}
            before = {name: expected[tensor] for name, tensor in names.items()}
            found.add(outputs, answers, before, decisions_of(result, before), sample.label)
            tick()
    return found.result()


def decided(manifest: Manifest) -> dict[str, str]:
    """Of each decision, masks and depths, the tensor that it is in the program."""
    masks = {decision.name: decision.keep for decision in manifest.decisions}
    gates = {step.gate: step.depth for step in manifest.steps if isinstance(step, ExitChain)}
    return masks | gates


def decisions_of(result: Result, names: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of a request, as `decided` names them."""
    masks = {name: decision.keep for name, decision in result.decisions.items()}
    return {name: np.asarray(masks.get(name, result.depth)) for name in names}


def _file(program: Path) -> Path:
    """The ONNX file, where it is a bundle's."""
    if not program.is_dir():
        return program
    bundle = open_bundle(program, verify=False)
    return bundle.file(bundle.manifest.program)


def _open(program: Path, model: Model, tensors: list[str], threads: int) -> Dense:
    from ..export.program import load_program

    made = {name for node in load_program(program).graph.node for name in node.output}
    wanted = [spec.name for spec in model.manifest.outputs] + tensors
    missing = next((name for name in wanted if name not in made), None)
    if missing is not None:
        raise InputError(
            f"program {program}",
            got=f"no {missing!r}",
            expected=f"outputs and decisions of {model.path}",
            fix="Give the program that the bundle's was made from.",
        )
    return Dense(program, threads, DenseSettings(exact=True, kernels=True), tensors)
