"""What is calibrated: a program (one ONNX file) or a bundle, seen alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.files import write_text
from ..pipeline.masks import Mask
from ..runtime.bundle import open_bundle
from ..runtime.errors import MissingExtraError, ProgramError
from ..runtime.manifest import Decision, Manifest, Preprocess
from .choices import Choices

DOMAIN = "ai.foveate"
SCALARS = (3, 4, 5, 6)  # the node's inputs threshold, temperature, lambda, gamma


@dataclass(frozen=True)
class Source:
    """`choices` by name; `earlier`: decision name -> the keep tensor, pooled to its resolution, that narrows it."""

    path: Path
    program: Path
    masks: tuple[Mask, ...]
    choices: dict[str, Any]
    earlier: dict[str, str]
    preprocess: Preprocess | None
    manifest: Manifest | None = None  # of a bundle


def open_source(path: Path) -> Source:
    """Raises BundleError or ProgramError."""
    if path.is_dir():
        bundle = open_bundle(path, verify=False)
        program = bundle.file(bundle.manifest.program)
        values = {choice.name: choice.value for choice in bundle.manifest.choices}
        source = _read(path, program)
        choices = {**source.choices, **values}
        return dataclasses.replace(
            source, choices=choices, preprocess=bundle.manifest.preprocess, manifest=bundle.manifest
        )
    return _read(path, path)


def _read(path: Path, program: Path) -> Source:
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "export", "reading a program") from error
    try:
        graph = onnx.load(program, load_external_data=False).graph
    except Exception as error:  # protobuf's errors have no root that onnx exports
        raise ProgramError(
            f"program {program}",
            got=f"{type(error).__name__}: {error}",
            expected="an ONNX file or a bundle",
            fix="Export it with `foveate export`.",
        ) from error
    initial = {i.name: i for i in graph.initializer}
    masks, choices, earlier = [], {}, {}
    for node in graph.node:
        if node.domain != DOMAIN or node.op_type != "EnergyMask":
            continue
        patch = next((int(a.i) for a in node.attribute if a.name == "patch"), 1)
        decision = Decision(node.name or node.output[0].rpartition(".")[0], "energy_mask", *node.output[:3])
        masks.append(Mask(decision, node.input[3], node.input[4], patch))
        for name in (node.input[i] for i in SCALARS if node.input[i] in initial):
            choices[name] = float(np.asarray(onnx.numpy_helper.to_array(initial[name])).reshape(()))
        if narrower := _narrower(graph.node, node):
            earlier[decision.name] = narrower
    return Source(path, program, tuple(masks), choices, earlier, _preprocess(program))


def _narrower(nodes: Any, mask: Any) -> str | None:
    """The other factor where keep is multiplied by an earlier mask's keep rather than by the features."""
    for node in nodes:
        if node.op_type == "Mul" and mask.output[0] in node.input:
            other = next((name for name in node.input if name != mask.output[0]), None)
            if other != mask.input[0]:
                return other
    return None


def _preprocess(program: Path) -> Preprocess | None:
    from ..pipeline.metadata import read_preprocess

    return read_preprocess(program)


def store(source: Source, found: Choices, out: Path | None = None) -> Path:
    """choices.json, and for a bundle a manifest with the new values; nothing else of the bundle is touched."""
    if source.manifest is not None:
        manifest = with_choices(source.manifest, found.choices, found.active_fraction)
        write_text(source.path / "manifest.json", manifest.to_json())
        return found.write(out or source.path / "choices.json")
    return found.write(out or source.path.with_suffix(".choices.json"))


def with_choices(manifest: Manifest, values: Mapping[str, float], active_fraction: float | None) -> Manifest:
    """The manifest with these choices' values replaced."""
    choices = tuple(
        dataclasses.replace(choice, value=values.get(choice.name, choice.value))
        for choice in manifest.choices
    )
    return dataclasses.replace(manifest, choices=choices, active_fraction=active_fraction)
