"""Measuring a device: what calls on windows of each local segment cost there, on windows and on whole maps, and each
region's fallback, on a batch; and where they break even."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, cast

import numpy as np

from ..costs import DeviceCosts, guesses
from ..dims import resolve_shape, symbols_at
from ..manifest import LocalSegment, Region
from ..probes import (
    WHOLE,
    WHOLE_SHARE,
    Probe,
    RegionProbes,
    crossing,
    dense_ms,
    ellipse,
    fit_segments,
    lowered_costs,
    raised_costs,
    time_probes,
    warn_of_unknown,
)
from ..request import Request, Tensors
from .device import Device, TileGrid, Tiles
from .engine import DeviceEngine
from .reference import DeviceReference, DeviceScratch
from .regions import run_whole, run_windows
from .tiles import Most, bucket, choose_grids, predict_ms, split

if TYPE_CHECKING:
    from .executor import DeviceExecutor

_LOG = logging.getLogger("foveate")
_IMAGES = 4  # of a batch, for one alone does not fill a GPU
_SHARES = (8, 2)  # one of so many tiles are computed


@dataclass
class _DeviceProbes(RegionProbes):
    """`request`: with the region's inputs."""

    request: Request = dataclasses.field(kw_only=True)
    reference: DeviceReference = dataclasses.field(kw_only=True)
    scratch: DeviceScratch = dataclasses.field(kw_only=True)


def measure_on_device(
    executor: DeviceExecutor,
    shapes: Mapping[str, Sequence[int]],
    choices: Mapping[str, np.ndarray],
    fingerprint: dict[str, str],
    budget_ms: float,
) -> DeviceCosts:
    """Costs at these input shapes (one image each), on batches of four where the program takes any."""
    device, deadline = executor.device, perf_counter() + budget_ms / 1e3
    free = isinstance(executor.manifest.inputs[0].shape[0], str)
    batch = {name: (_IMAGES if free else shape[0], *shape[1:]) for name, shape in shapes.items()}
    found = [_prepare(executor, region, batch, choices) for region in executor.regions]
    regions = [probes for probes in found if probes is not None]
    time_ms = partial(_elapsed_ms, device)
    time_probes([p for r in regions for p in r.in_order], deadline - WHOLE_SHARE * budget_ms / 1e3, time_ms)
    segments = fit_segments(regions)
    dense = {r.region.name: dense_ms(r, segments) for r in regions if math.isfinite(r.fallback.ms)}
    first = tuple(int(n) for n in next(iter(batch.values())))
    costs = DeviceCosts(fingerprint, first, segments, dense, guesses=guesses(executor.manifest))
    known = [r for r in regions if r.region.name in dense and r.region.masks]
    executor.costs = costs
    trials = [_Trial(executor, probes) for probes in known]
    probes = [Probe(trial.run) for trial in trials]
    time_probes(probes, deadline, time_ms)
    ran = [(t.probes.region, p.ms, t.predicted_ms) for t, p in zip(trials, probes, strict=True)]
    replayed = [(*facts, t.calls_ms) for t, facts in zip(trials, ran, strict=True) if t.replayed]
    changed = raised_costs(ran, costs) | lowered_costs(replayed, costs)
    costs = dataclasses.replace(costs, segments=segments | changed)
    warn_of_unknown(regions, costs, budget_ms)
    for r in regions:
        executor.references.give_back(r.reference, r.scratch)
    predictions = [partial(_predict, executor, r, costs) for r in known]
    return dataclasses.replace(costs, break_even=crossing(math.fsum(dense.values()), predictions))


def _elapsed_ms(device: Device, run: Callable[[], object]) -> float:
    start = device.mark()
    run()
    return device.elapsed_ms(start, device.mark())


def _prepare(
    executor: DeviceExecutor,
    region: Region,
    shapes: Mapping[str, tuple[int, ...]],
    choices: Mapping[str, np.ndarray],
) -> _DeviceProbes | None:
    """The probes of a region; None where it runs densely at this resolution. What tensors hold does not matter for
    the time."""
    device, manifest = executor.device, executor.manifest
    images = next(iter(shapes.values()))[0]
    symbols = symbols_at(manifest, shapes)
    specs = {t.name: t for t in (*manifest.inputs, *manifest.tensors)}
    try:
        inputs = {
            name: device.put(np.full(resolve_shape(specs[name].shape, symbols), 0.5, specs[name].dtype))
            for name in region.inputs
        }
    except KeyError as symbol:  # of a dim that is known when it is there
        _LOG.warning("%s could not be measured: nothing tells the size of %s", region.name, symbol)
        return None
    batch = manifest.inputs[0].shape[0]
    if isinstance(batch, str):
        symbols[batch] = symbols[batch] / images
    request = Request(inputs, images, 0, "rects", choices, symbols=symbols)
    windows = executor.windows[region.name]
    reference = windows.reference(request)
    if reference is None or reference.grid is None:
        return None
    scratch = executor.references.borrow(reference)
    engine = executor.engines[region.fallback]
    feeds = {**executor.choice_feeds(engine, choices), **inputs}
    probes = _DeviceProbes(
        region,
        reference.grid,
        Probe(lambda: engine.run(feeds)),
        {},
        images,
        request=request,
        reference=reference,
        scratch=scratch,
    )
    inside = inputs | {n: a.view((images, *a.shape[1:])) for n, a in scratch.arrays.items()}
    most, groups = windows.most(reference.grid), reference.grid.dirtiness.segments
    for segment, group in zip(region.segments, groups, strict=True):
        tiles, limit = reference.tiles[group], most[group]
        probes.segments[segment.name] = _probe(executor, segment, tiles, limit, inside, probes)
    return probes


def _probe(
    executor: DeviceExecutor,
    segment: LocalSegment,
    grid: TileGrid,
    most: Most,
    inside: Tensors,
    probes: _DeviceProbes,
) -> list[Probe]:
    """Of a segment, on some of its tiles and on whole maps."""
    device, engine = executor.device, cast(DeviceEngine, executor.engines[segment.file])
    feeds = executor.choice_feeds(engine, probes.request.choices)
    there = probes.images * grid.count

    def run(tiles: Tiles, n: int, calls: Sequence[tuple[int, int]]) -> None:
        run_windows(device, engine, segment, feeds, inside, tiles, calls)
        for t in segment.outputs:
            device.restore_tiles(inside[t.name], probes.reference.arrays[t.name], tiles, t.positions, n)

    found = []
    for share in _SHARES if grid.tile != grid.cells else ():
        n = min(bucket(-(-there // share)), there)
        calls = split(n, min(most(grid.window) or there, there))
        tiles = _first_tiles(device, grid, probes.images, n)
        cells = math.prod(grid.window) * sum(size for _, size in calls)
        found.append(Probe(partial(run, tiles, n, calls), cells))
    whole = Probe(
        lambda: run_whole(engine, segment, feeds, dict(inside)), probes.images * math.prod(grid.cells)
    )
    return [*found, whole]


def _first_tiles(device: Device, grid: TileGrid, images: int, n: int) -> Tiles:
    """The first n tiles of a batch."""
    rows, columns = (range(0, cells, tile) for cells, tile in zip(grid.cells, grid.tile, strict=True))
    last = grid.cells[0] - grid.tile[0], grid.cells[1] - grid.tile[1]
    places = [
        (image, min(y, last[0]), min(x, last[1])) for image in range(images) for y in rows for x in columns
    ]
    return Tiles(grid, device.put(np.array(places, np.int32)), device.put(np.array([n], np.int32)))


class _Trial:
    """A whole run of one region on windows, as a request makes it."""

    def __init__(self, executor: DeviceExecutor, probes: _DeviceProbes):
        self._device, self.probes = executor.device, probes
        self._windows = executor.windows[probes.region.name]
        given = probes.request
        masks = {
            name: np.broadcast_to(ellipse(probes.grid.sizes[name], WHOLE), given.tensors[name].shape)
            for name in probes.region.masks
        }
        put = {n: self._device.put(mask.astype(given.tensors[n].dtype)) for n, mask in masks.items()}
        self._request = dataclasses.replace(given, tensors=given.tensors | put)
        self.predicted_ms = self.calls_ms = 0.0
        self._before = self._windows.replayed

    @property
    def replayed(self) -> bool:
        return self._windows.replayed > self._before

    def run(self) -> None:
        plan = self._windows.draft(self._request)
        assert plan is not None  # its reference is there
        plan.count([int(n[0]) for n in self._device.get([tiles.count for tiles in plan.distinct])])
        self._windows.run(plan, self._request, self.probes.scratch)
        self.probes.reference.restore(self.probes.scratch)
        self.predicted_ms, self.calls_ms = plan.predicted_ms, plan.calls_ms


def _predict(executor: DeviceExecutor, probes: _DeviceProbes, costs: DeviceCosts, fraction: float) -> float:
    grid = probes.grid.priced(costs)
    most = executor.windows[probes.region.name].most(grid)
    grids = choose_grids(grid, most, executor.active_fraction)
    return predict_ms(grid, grids, most, probes.images, fraction)
