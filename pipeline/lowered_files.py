"""A bundle's ONNX files in float16 or bfloat16, for backends that compute in the types of their files.

They lie in engines/, beside one file of weights. programs/ stays as it is: the reference, and what a CPU runs. What one
engine makes in float16 and others read crosses between them as such. Of bfloat16, which numpy has not, nothing does,
and inputs and outputs of the whole are float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from ..runtime.bundle import dense_files
from ..runtime.manifest import ONNX, EngineFile, ExitChain, Manifest, Region
from .lower_precision import between, decision_tensors, locations, lower_precision, tensors_made_lower
from .weights import FILE, WeightFile

FOLDER = "engines"


def lower_files(folder: Path, manifest: Manifest, precision: str) -> tuple[tuple[EngineFile, ...], set[str]]:
    """Writes them into the bundle in `folder`, whose programs are there; and which of the manifest's tensors are
    float16 between them."""
    whole = onnx.load(folder / manifest.one_engine)
    read, made = decision_tensors(onnx.load(folder / manifest.program, load_external_data=False))
    kept = between(whole.graph, read, made) | set(locations(whole.graph))
    low = _crossing(manifest, tensors_made_lower(whole, precision, kept)) if precision == "fp16" else set()
    (folder / FOLDER).mkdir()
    engines = []
    with WeightFile(folder / FOLDER) as weights:
        for file in dict.fromkeys(_files(manifest)):
            model = onnx.load(folder / file)
            own = kept | between(model.graph, read, made)
            name = f"{Path(file).stem}.{precision}.onnx"
            weights.save(lower_precision(model, precision, own, low, plugins=()), name)
            engines.append(EngineFile(file, f"{FOLDER}/{name}", "", ONNX, "", "any", precision))
    return tuple(engines), low


def weights_of(engines: tuple[EngineFile, ...]) -> tuple[str, ...]:
    """The file that they refer to."""
    return (f"{FOLDER}/{FILE}",) if any(engine.flavour == ONNX for engine in engines) else ()


def _files(manifest: Manifest) -> Iterator[str]:
    """What steps of any layout run, whole and on windows, and the whole program."""
    yield manifest.one_engine
    for step in (step for steps in (manifest.steps, *manifest.layouts.values()) for step in steps):
        yield from dense_files(step)
        if isinstance(step, Region):
            yield from (segment.file for segment in step.segments)


def _crossing(manifest: Manifest, made: set[str]) -> set[str]:
    """Of what is made in the lower precision, the tensors between engines. Images leave a chain with answers of one
    type, so these are all of it or none."""
    low = made & {spec.name for spec in manifest.tensors}
    for step in manifest.steps:
        if isinstance(step, ExitChain):
            answers = {step.shallow, step.chosen, *(stage.outputs[0] for stage in step.stages)}
            low -= answers if not answers <= low else set()
    return low
