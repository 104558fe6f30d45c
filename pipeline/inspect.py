"""Describe a program or a bundle: what goes in and out, how it is cut, what is decided, how much work stays dense."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.bundle import open_bundle
from ..runtime.costs import parse_costs
from ..runtime.dims import resolve_shape, symbols_at
from ..runtime.errors import FoveateError
from ..runtime.geometry import count_cells
from ..runtime.manifest import (
    CHAIN,
    ONNX,
    DenseSegment,
    EngineFile,
    ExitChain,
    LocalSegment,
    Manifest,
    Pair,
    Region,
    Step,
)
from ..runtime.native.plan import SpanPlan
from ..runtime.spans import read_plan
from .stream_bytes import stream_bytes

Facts = dict[str, Any]
_SHOWN = 8  # numbers of a choice


def inspect(path: str | Path) -> Facts:
    """The facts as plain data (docs/cli.md lists them). A program is planned, not built, to be described.

    Raises BundleError or ProgramError.
    """
    path = Path(path)
    if path.is_dir():
        manifest = open_bundle(path, verify=False).manifest
        stream = read_plan(path / manifest.stream.spans) if manifest.stream else None
        return describe(manifest, "bundle", path, stream)
    return _planned(path)


def _planned(program: Path) -> Facts:
    """What `build` would write, without its files."""
    from .assemble import assemble
    from .build import plan_model
    from .metadata import read_labels, read_preprocess
    from .spans import no_place

    preprocess = read_preprocess(program)
    planned = plan_model(program, preprocess=preprocess)
    facts = {"backend": "ort", "active_fraction": None, "labels": read_labels(program), "created_by": ""}
    made = assemble(planned, program.stem, preprocess=preprocess, **facts)
    stream = made.plans[made.manifest.stream.spans](no_place) if made.manifest.stream else None
    return describe(made.manifest, "program", program, stream)


def describe(manifest: Manifest, kind: str, path: Path, stream: SpanPlan | None) -> Facts:
    """Work is in MACs (multiply-accumulates) at the sample's resolution, for one image. `stream`: its plan."""
    sizes = _Sizes(manifest)
    steps = [_step(step, sizes) for step in manifest.steps]
    exits = any(step["kind"] == "exits" for step in steps)
    total = sum(step["macs"] for step in steps)
    dense = sum(step["macs"] for step in steps if step["kind"] == "dense")
    return {
        "kind": kind,
        "path": str(path),
        "name": manifest.name,
        "backend": manifest.backend,
        "inputs": [dataclasses.asdict(t) for t in manifest.inputs],
        "outputs": [dataclasses.asdict(t) for t in manifest.outputs],
        "sample": manifest.sample,
        "min_size": list(manifest.min_size),
        "multiple": list(manifest.multiple),
        "preprocess": dataclasses.asdict(manifest.preprocess),
        "labels": list(manifest.labels),
        "decisions": [dataclasses.asdict(d) for d in manifest.decisions],
        "choices": [dataclasses.asdict(c) for c in manifest.choices],
        "active_fraction": manifest.active_fraction,
        "depths": manifest.depths,
        "steps": steps,
        "layout": manifest.layout,
        "layouts": [CHAIN, *manifest.layouts] if exits else [],
        "layout_ms": _layout_ms(path) if exits else {},
        "macs": total,
        "dense_share": dense / total if total else None,
        "stream": dataclasses.asdict(manifest.stream) if manifest.stream else None,
        "stream_bytes": stream_bytes(manifest, stream) if stream else None,
        "stream_refused": manifest.stream_refused,
        "crops": dataclasses.asdict(manifest.crops) if manifest.crops else None,
        "crops_refused": manifest.crops_refused,
        "barriers": list(manifest.barriers),
        "notes": list(manifest.notes),
        "engines": [_engine(engine, manifest, path) for engine in manifest.engines],
        "lowered": list(manifest.lowered),
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "created_by": manifest.created_by,
    }


def _layout_ms(bundle: Path) -> dict[str, float]:
    """As its device.json has them, for whatever device."""
    try:
        return parse_costs((bundle / "device.json").read_text(encoding="utf-8")).layouts
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _engine(engine: EngineFile, manifest: Manifest, bundle: Path) -> Facts:
    """`profiles` and `layers` as its sidecar has them; an ONNX file takes any shape."""
    facts = json.loads((bundle / engine.sidecar).read_text(encoding="utf-8")) if engine.sidecar else {}
    return {
        **dataclasses.asdict(engine),
        "bytes": manifest.files[engine.plan].bytes,
        "profiles": facts.get("profiles", []),
        "layers": len(facts["layers"]) if facts else None,
        "seconds": facts.get("seconds"),
    }


def _step(step: Step, sizes: _Sizes) -> Facts:
    if isinstance(step, Region):
        return _region(step, sizes)
    if isinstance(step, ExitChain):
        return _exits(step)
    assert isinstance(step, DenseSegment)  # other layouts are not among the manifest's own steps
    return _dense(step)


def _exits(chain: ExitChain) -> Facts:
    stages = [{"exit": stage.exit, "macs": stage.macs} for stage in chain.stages]
    return {
        "kind": "exits",
        "name": chain.name,
        "depth": chain.depth,
        "first": chain.first,
        "macs": sum(stage.macs for stage in chain.stages),
        "stages": stages,
        "reason": f"images leave behind {', '.join(str(n) for n in chain.exits)} layers",
    }


def _dense(segment: DenseSegment) -> Facts:
    return {"kind": "dense", "name": segment.name, "macs": segment.macs, "reason": segment.reason}


def _region(region: Region, sizes: _Sizes) -> Facts:
    segments = [_local(segment, sizes) for segment in region.segments]
    return {
        "kind": "region",
        "name": region.name,
        "masks": list(region.masks),
        "macs": sum(segment["macs"] for segment in segments),
        "reason": region.reason,
        "native": bool(region.spans),
        "native_refused": region.spans_refused,
        "segments": segments,
    }


def _local(segment: LocalSegment, sizes: _Sizes) -> Facts:
    cells = sizes.cells(segment)
    return {
        "name": segment.name,
        "strategy": segment.strategy,
        "positions_per_cell": list(segment.outputs[0].positions) if segment.outputs else None,
        "halo": [list(segment.halo_low), list(segment.halo_high)],
        "cells": list(cells),
        "macs": segment.macs_per_cell * math.prod(cells),
        "nodes": len(segment.nodes),
        "reason": segment.reason,
    }


class _Sizes:
    """Sizes of the manifest's tensors at its sample's resolution."""

    def __init__(self, manifest: Manifest):
        self._specs = {spec.name: spec for spec in (*manifest.inputs, *manifest.tensors, *manifest.outputs)}
        self._symbols = symbols_at(manifest, manifest.sample)

    def cells(self, segment: LocalSegment) -> Pair:
        """(0, 0) where the sample does not tell."""
        for tensor in (*segment.outputs, *segment.inputs):
            spec = self._specs.get(tensor.name)
            try:
                shape = resolve_shape(spec.shape, self._symbols) if spec else ()
                return count_cells((shape[tensor.axes[0]], shape[tensor.axes[1]]), tensor.positions)
            except (KeyError, IndexError, FoveateError):
                continue
        return 0, 0


def lines(facts: Facts) -> list[str]:
    """The same for people."""
    shown = [
        f"{facts['kind']} {facts['path']}"
        + (f", backend {facts['backend']}" if facts["kind"] == "bundle" else "")
    ]
    for role in ("inputs", "outputs"):
        shown += [f"{role[:-1]:<10} {_tensor(t)}" for t in facts[role]]
    if facts["multiple"] != [1, 1]:
        multiple, least = ("×".join(map(str, facts[key])) for key in ("multiple", "min_size"))
        shown.append(f"sizes      multiples of {multiple} from {least} on; others with load(…, pad=True)")
    shown += _preprocess_lines(facts)
    shown += _decision_lines(facts)
    shown += _step_lines(facts)
    shown += _layout_lines(facts)
    shown += _engine_lines(facts)
    shown.append(f"stream     {_stream(facts)}")
    if facts["stream_bytes"] is not None:
        shown.append(
            f"memory     {facts['stream_bytes'] / 2**20:.1f} MiB for each stream of the sample's size"
        )
    cell = "×".join(str(n) for n in facts["crops"]["image"]["positions"]) if facts["crops"] else ""
    shown.append(f"regions    {f'cut along cells of {cell}' if cell else 'none: ' + facts['crops_refused']}")
    shown += [f"barrier    {text}" for text in facts["barriers"]]
    shown += [f"note       {text}" for text in facts["notes"]]
    return shown


def _stream(facts: Facts) -> str:
    if not facts["stream"]:
        return f"none: {facts['stream_refused']}"
    share, ends = facts["stream"]["share"], facts["stream"]["ends"]
    text = f"saves at most {share:.1%} of the work"
    return f"{text}; {1 - share:.1%} lie behind: {'; '.join(ends)}" if ends else text


def _tensor(spec: Facts) -> str:
    return f"{spec['name']}: {spec['dtype']} [{', '.join(str(d) for d in spec['shape'])}]"


def _preprocess_lines(facts: Facts) -> list[str]:
    p = facts["preprocess"]
    size = f"{p['size'][0]}×{p['size'][1]}" if p["size"] else "any size"
    fit = ", letterboxed" if p["letterbox"] else ""
    text = (
        f"{size}{fit}, {p['color']}, × {p['scale']:.4g}, mean {_numbers(p['mean'])}, std {_numbers(p['std'])}"
    )
    return [f"{'preprocess':<10} {text}, {p['layout']}"]


def _numbers(values: list[float] | tuple[float, ...]) -> str:
    return ", ".join(f"{v:.4g}" for v in values)


def _choice(values: list[float]) -> str:
    return _numbers(values) if len(values) <= _SHOWN else f"{len(values)} numbers"


def _decision_lines(facts: Facts) -> list[str]:
    shown = [f"decision   {d['name']} ({d['kind']}): {d['keep']}" for d in facts["decisions"]]
    shown += [
        f"choice     {c['name']} = {_choice(np.atleast_1d(c['value']).tolist())}" for c in facts["choices"]
    ]
    if facts["active_fraction"] is not None:
        shown.append(f"active     {facts['active_fraction']:.1%} in the mean over the calibration images")
    if facts["depths"]:
        images = sum(facts["depths"].values())
        took = ", ".join(f"{n / images:.0%} took {depth} layers" for depth, n in facts["depths"].items())
        shown.append(f"depths     of the calibration images {took}")
    return shown


def _step_lines(facts: Facts) -> list[str]:
    total = facts["macs"] or 1.0
    at = "; ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in facts["sample"].items())
    shown = ["", f"{'step':<28} {'strategy':<9} {'MMACs':>9} {'share':>6}  cells, halo, reason   (at {at})"]
    for step in facts["steps"]:
        shown.append(_row(step["name"], step["kind"], step["macs"], total, _reason(step)))
        for stage in step.get("stages", ()):
            shown.append(_row(f"  to {stage['exit']} layers", "exit", stage["macs"], total, ""))
        for segment in step.get("segments", ()):
            (top, left), (bottom, right) = segment["halo"]
            grid = f"{segment['cells'][0]}×{segment['cells'][1]} cells, halo {top},{left}…{bottom},{right}"
            text = ", ".join(part for part in (grid, segment["reason"]) if part)
            shown.append(_row(f"  {segment['name']}", segment["strategy"], segment["macs"], total, text))
    share = f", {facts['dense_share']:.1%} of it stays dense" if facts["dense_share"] is not None else ""
    return [*shown, f"{'total':<38} {facts['macs'] / 1e6:>9.1f}{share}", ""]


def _layout_lines(facts: Facts) -> list[str]:
    if not facts["layouts"]:
        return []
    ms = facts["layout_ms"]
    each = ", ".join(f"{name} {ms[name]:.2f} ms" if name in ms else name for name in facts["layouts"])
    why = "measured, the mean of the first exit and the last" if ms else "not measured on this device"
    return [f"layout     {facts['layout']} of {each} ({why})"]


def _engine_lines(facts: Facts) -> list[str]:
    shown = []
    files = [engine for engine in facts["engines"] if engine["flavour"] == ONNX]
    if files:
        told = f"{len(files)} ONNX files in {files[0]['precision']}, for backends cuda and torch"
        shown.append(f"engines    {told}; float16 between them: {', '.join(facts['lowered']) or 'nothing'}")
    for engine in (engine for engine in facts["engines"] if engine not in files):
        made = f"{engine['flavour']} {engine['version']}, {engine['precision']} for {engine['compute']}"
        size = f"{engine['bytes'] / 2**20:.1f} MiB, {engine['layers']} layers"
        shapes = " or ".join(map(_profile_shown, engine["profiles"]))
        shown.append(f"engine     {engine['plan']}: {made}, {size}; {shapes}")
    return shown


def _profile_shown(profile: Facts) -> str:
    return "; ".join(
        f"{name} {' … '.join('×'.join(map(str, shape)) for shape in dict.fromkeys(map(tuple, shapes)))}"
        for name, shapes in profile.items()
    )


def _reason(step: Facts) -> str:
    if "native" not in step:
        return step["reason"]
    kernels = "run by native kernels" if step["native"] else f"no native kernels: {step['native_refused']}"
    return f"{step['reason']}; {kernels}"


def _row(name: str, strategy: str, macs: float, total: float, text: str) -> str:
    return f"{name:<28} {strategy:<9} {macs / 1e6:>9.1f} {macs / total:>6.1%}  {text}".rstrip()
