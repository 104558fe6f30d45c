"""Measured costs of a bundle on one device, kept in its device.json with the fingerprint they hold for."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .files import replacing
from .manifest import LocalSegment, Manifest, Region

SCHEMA_VERSION = 1
_LOG = logging.getLogger("foveate")
_GUESSED_MACS_PER_MS = 2e7  # of one core, until this device is measured
_GUESSED_FIXED_MS = 0.1


@dataclass(frozen=True)
class SegmentCost:
    """A call of a local segment costs fixed_ms + ms_per_cell × the cells of its window, gather and scatter included."""

    fixed_ms: float
    ms_per_cell: float


@dataclass(frozen=True)
class SpanCost:
    """A run of a region by the native kernels costs fixed_ms + ms_per_mega × its millions of multiply-adds."""

    fixed_ms: float
    ms_per_mega: float

    def ms(self, multiply_adds: float) -> float:
        return self.fixed_ms + self.ms_per_mega * multiply_adds / 1e6


@dataclass(frozen=True)
class DeviceCosts:
    """What device.json holds. `shape` is the [N, C, H, W] the costs were measured at, `regions` the ms of each
    region's dense fallback for such a batch, `break_even` the active fraction where both cost the same, `layouts` the
    ms of one image in each layout, the mean over all exits."""

    fingerprint: dict[str, str]
    shape: tuple[int, ...]
    segments: dict[str, SegmentCost]
    regions: dict[str, float]
    break_even: float = 0.0
    spans: dict[str, SpanCost] = field(default_factory=dict)
    layouts: dict[str, float] = field(default_factory=dict)
    measured: bool = True
    guesses: Mapping[str, SegmentCost] = field(default_factory=dict, repr=False, compare=False)

    def of(self, segment: str) -> SegmentCost:
        return self.segments.get(segment) or self.guesses[segment]

    def dense_ms(self, region: Region, elements: int) -> float | None:
        """Predicted ms of a region's fallback for a batch of `elements` input values; None if not measured.

        What the segments' calls cost beside their cells, the fallback pays too, whatever the resolution."""
        measured = self.regions.get(region.name)
        if measured is None:
            return None
        known = self.spans.get(region.name)
        calls = known.fixed_ms if known else math.fsum(self.of(s.name).fixed_ms for s in region.segments)
        fixed = min(calls, measured / 2)
        return fixed + (measured - fixed) * elements / max(1, math.prod(self.shape))

    def covers(self, regions: Iterable[Region]) -> bool:
        """Whether every region and every local segment was measured, of those that run as spans their runs instead."""
        regions = list(regions)
        segments = {s.name for region in regions if region.name not in self.spans for s in region.segments}
        return set(self.segments) == segments and set(self.regions) == {region.name for region in regions}

    def to_json(self) -> str:
        data = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": self.fingerprint,
            "shape": list(self.shape),
            "segments": {name: dataclasses.asdict(cost) for name, cost in self.segments.items()},
            "regions": {name: {"dense_ms": ms} for name, ms in self.regions.items()},
            "spans": {name: dataclasses.asdict(cost) for name, cost in self.spans.items()},
            "layouts": self.layouts,
            "break_even": self.break_even,
        }
        return json.dumps(data, indent=1)


def parse_costs(text: str) -> DeviceCosts:
    """Raises ValueError, KeyError or TypeError on anything else than costs of this schema version."""
    data: dict[str, Any] = json.loads(text)
    if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
        raise ValueError("device.json of another schema version")
    return DeviceCosts(
        fingerprint={str(k): str(v) for k, v in data["fingerprint"].items()},
        shape=tuple(int(n) for n in data["shape"]),
        segments={
            name: SegmentCost(_positive(cost["fixed_ms"]), _positive(cost["ms_per_cell"]))
            for name, cost in data["segments"].items()
        },
        regions={name: _positive(cost["dense_ms"]) for name, cost in data["regions"].items()},
        spans={
            name: SpanCost(_positive(cost["fixed_ms"]), _positive(cost["ms_per_mega"]))
            for name, cost in data.get("spans", {}).items()
        },
        layouts={name: _positive(ms) for name, ms in data.get("layouts", {}).items()},
        break_even=_positive(data["break_even"]),
    )


def guess_costs(manifest: Manifest, fingerprint: dict[str, str]) -> DeviceCosts:
    """Costs from multiply-accumulates alone: good enough to cut rectangles, never to choose between strategies."""
    return DeviceCosts(fingerprint, (), {}, {}, measured=False, guesses=guesses(manifest))


def guesses(manifest: Manifest) -> dict[str, SegmentCost]:
    """A guess for every local segment."""
    segments = [s for step in manifest.steps if isinstance(step, Region) for s in step.segments]
    return {s.name: _guess(s) for s in segments}


def _guess(segment: LocalSegment) -> SegmentCost:
    return SegmentCost(_GUESSED_FIXED_MS, max(segment.macs_per_cell, 1.0) / _GUESSED_MACS_PER_MS)


def read_costs(path: Path, expected: dict[str, str], manifest: Manifest) -> DeviceCosts | None:
    """The costs of device.json; None where there is none, it is damaged, or it holds for another device."""
    try:
        costs = parse_costs(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _LOG.warning("%s is unreadable (%s): measuring this device again", path, error)
        return None
    changed = sorted(
        k for k in {*costs.fingerprint, *expected} if costs.fingerprint.get(k) != expected.get(k)
    )
    if changed:
        was = ", ".join(f"{k} {costs.fingerprint.get(k)!r} → {expected.get(k)!r}" for k in changed)
        _LOG.info("%s was measured elsewhere (%s): measuring this device", path, was)
        return None
    if not costs.covers(step for step in manifest.steps if isinstance(step, Region)):
        _LOG.info("%s is of another build of this bundle: measuring this device", path)
        return None
    return dataclasses.replace(costs, guesses=guesses(manifest))


def write_costs(path: Path, costs: DeviceCosts) -> bool:
    """Writes device.json atomically. False where the folder is read-only: the costs then live in memory alone."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(costs.to_json(), encoding="utf-8")
    except OSError as error:
        _LOG.info("%s cannot be written (%s): measured costs are kept in memory", path, error)
        return False
    return True


def fingerprint(threads: int, backend: str = "ort", isa: str = "") -> dict[str, str]:
    """What measured costs hold for: processor, threads, libraries. isa: of the native kernels, where they are used."""
    return {
        "cpu": _cpu_model(),
        "cores": str(_usable_cores()),
        "arch": platform.machine(),
        "threads": str(threads),
        "backend": backend,
        "native": isa or "none",
        "onnxruntime": _version("onnxruntime", "onnxruntime-gpu"),
        "numpy": np.__version__,
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "cpu part")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _version(*packages: str) -> str:
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "none"


def _positive(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{value!r} is no cost")
    return number
