"""What is calibrated: a program (one ONNX file) or a bundle, seen alike."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..pipeline.files import write_text
from ..pipeline.masks import Mask
from ..pipeline.metadata import read_labels, read_preprocess
from ..runtime.bundle import hash_file, open_bundle
from ..runtime.errors import InputError
from ..runtime.manifest import Decision, Manifest, Preprocess
from .choices import Choices

if TYPE_CHECKING:
    import onnx

THRESHOLD, TEMPERATURE = 3, 4  # of the node's inputs


@dataclass(frozen=True)
class Source:
    """`program` is what stock onnxruntime runs, `sha256` that of the file given; `choices` are values by name, `built`
    those of its masks that the program itself has; `earlier` maps a decision to the keep tensor, pooled to its
    resolution, that narrows it."""

    path: Path
    program: Path
    sha256: str
    masks: tuple[Mask, ...]
    choices: dict[str, Any]
    earlier: dict[str, str]
    preprocess: Preprocess | None
    built: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    manifest: Manifest | None = None  # of a bundle
    folder: Any = field(default=None, repr=False, compare=False)  # keeps `program` while this lives


def open_source(path: Path) -> Source:
    """Raises BundleError or ProgramError."""
    from ..export.program import load_program, save_program

    if path.is_dir():
        bundle = open_bundle(path, verify=False)
        program = bundle.file(bundle.manifest.program)
        source = _source(path, program, hash_file(program), load_program(program))
        values = {choice.name: choice.value for choice in bundle.manifest.choices}
        return dataclasses.replace(
            source,
            choices={**source.choices, **values},
            preprocess=bundle.manifest.preprocess,
            labels=bundle.manifest.labels,
            manifest=bundle.manifest,
        )
    model = load_program(path)
    folder = tempfile.TemporaryDirectory(prefix="foveate-")
    program = save_program(model, Path(folder.name) / "program.onnx")  # in form, whoever made the file
    source = _source(path, program, hash_file(path), model)
    said = {"preprocess": read_preprocess(path), "labels": read_labels(path)}
    return dataclasses.replace(source, **said, folder=folder)


def _source(path: Path, program: Path, sha256: str, model: onnx.ModelProto) -> Source:
    from onnx import numpy_helper

    from ..export.normalize import decisions

    initial = {i.name: i for i in model.graph.initializer}
    nodes = [(node, op) for node, op in decisions(model) if op.kind == "energy_mask"]
    masks, choices, earlier = [], {}, {}
    for node, op in nodes:
        keeps = {mask.decision.keep for mask in masks}
        patch = next((int(a.i) for a in node.attribute if a.name == "patch"), 1)
        decision = Decision(node.name, op.kind, *node.output[:3])
        masks.append(Mask(decision, node.input[THRESHOLD], node.input[TEMPERATURE], patch))
        for name in (node.input[index] for index in op.choices if node.input[index] in initial):
            choices[name] = float(np.asarray(numpy_helper.to_array(initial[name])).reshape(()))
        if narrower := _narrower(model.graph, node, keeps):
            earlier[node.name] = narrower
    return Source(path, program, sha256, tuple(masks), choices, earlier, None, dict(choices))


def _narrower(graph: onnx.GraphProto, mask: onnx.NodeProto, earlier: set[str]) -> str | None:
    """The other factor where keep is multiplied by one of the `earlier` keeps rather than by features."""
    mask_tensors = _mask_tensors(graph, earlier)
    for node in graph.node:
        if node.op_type == "Mul" and mask.output[0] in node.input:
            other = next((name for name in node.input if name != mask.output[0]), None)
            if other in mask_tensors:
                return other
    return None


def _mask_tensors(graph: onnx.GraphProto, keeps: set[str]) -> set[str]:
    """`keeps` and what is computed from them alone, at other resolutions."""
    from ..pipeline.analyze.walk import ZERO_PRESERVING

    found = set(keeps)
    for node in graph.node:
        read = node.input if node.op_type in ("Mul", "Min", "Max") else node.input[:1]
        if node.op_type in ZERO_PRESERVING and read and found.issuperset(read):
            found.update(node.output)
    return found


def store(source: Source, found: Choices, out: Path | None = None) -> Path:
    """choices.json, and for a bundle, then, a manifest with the new values; nothing else of the bundle is touched."""
    if source.manifest is None:
        return found.write(out or source.path.with_suffix(".choices.json"))
    path = found.write(out or source.path / "choices.json")
    write_text(source.path / "manifest.json", with_choices(source.manifest, found).to_json())
    return path


def of_bundle(manifest: Manifest | None, path: str | Path) -> Manifest:
    """The manifest. Raises InputError for None: `path` is a program."""
    if manifest is None:
        raise InputError(
            f"model {path}", got="a program", expected="a bundle", fix="Build it first: foveate build."
        )
    return manifest


def with_choices(manifest: Manifest, found: Choices) -> Manifest:
    """The manifest with the values of its choices replaced by those found."""
    choices = tuple(
        dataclasses.replace(choice, value=found.choices.get(choice.name, choice.value))
        for choice in manifest.choices
    )
    policy = manifest.stream_policy if found.stream is None else dict(found.stream)
    # What depths other choices would give is not known.
    depths = found.depths or (manifest.depths if choices == manifest.choices else {})
    return dataclasses.replace(
        manifest,
        choices=choices,
        active_fraction=found.active_fraction,
        stream_policy=policy,
        depths=dict(depths),
    )
