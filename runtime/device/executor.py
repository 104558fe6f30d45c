"""Runs a bundle's steps for one batch on a device: dense segments and regions on whole batches, without a tensor that
leaves it before the answer does, and with one read-back for each step that decides."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import cast

import numpy as np

from ..costs import DeviceCosts
from ..decisions import not_finite_decision
from ..dims import resolve_shape
from ..engine import Border, Engine
from ..engines import Engines, decision_tensors
from ..exits import check_depths
from ..inputs import not_finite_input
from ..manifest import Decision, ExitStep, Manifest, Region
from ..request import Request, Tensors
from ..steps import Steps, Told
from .device import Device, DeviceArray
from .dispatch import Dispatch
from .engine import DeviceEngine
from .measure import measure_on_device
from .regions import DeviceRegion, WindowPlan
from .rows import DeviceRows

_ACTIVE = 0.1  # of an image, until calibration has counted
_FEATURES = ""  # no tensor has this name


class DeviceExecutor(Steps):
    """See `Steps`. Requests take turns: a device has one queue of work."""

    def __init__(
        self, manifest: Manifest, engines: Engines, costs: DeviceCosts, cache_bytes: int, device: Device
    ):
        super().__init__(manifest, engines, costs, cache_bytes)
        self.device, self.rows = device, DeviceRows(device)
        self.turn = threading.RLock()
        self._choice_arrays: dict[str, tuple[np.ndarray, DeviceArray]] = {}
        self._dispatch = Dispatch(device)  # of the request whose turn it is
        self._planned: dict[str, WindowPlan | None] = {}  # its regions; None: dense
        self.windows = {
            region.name: DeviceRegion(
                region, self, [cast(DeviceEngine, engines[s.file]) for s in region.segments]
            )
            for region in self.regions
        }

    def run(self, request: Request, first: int = 0, last: int | None = None) -> None:
        """All steps: what only later ones read is not kept."""
        with self._dispatching(request):
            super().run(request, first, last)

    def run_program(self, request: Request) -> None:
        with self._dispatching(request):
            super().run_program(request)
            self._own_tensors(request)

    def measure(
        self,
        shapes: Mapping[str, Sequence[int]],
        choices: Mapping[str, np.ndarray],
        fingerprint: dict[str, str],
        budget_ms: float,
    ) -> DeviceCosts:
        with self.turn:
            return measure_on_device(self, shapes, choices, fingerprint, budget_ms)

    def close(self) -> None:
        """Behind the request whose turn it is."""
        with self.turn:
            self._choice_arrays.clear()
            super().close()

    @property
    def replayed(self) -> dict[str, int]:
        return {name: windows.replayed for name, windows in self.windows.items()}

    @property
    def active_fraction(self) -> float:
        """Of the images to come, as far as we know."""
        known = self.manifest.active_fraction
        return _ACTIVE if known is None else known

    def own_outputs(self, request: Request) -> None:
        """They are: the answer is copied from the device, or on it."""

    def choice_feeds(self, engine: Border, choices: Mapping[str, np.ndarray]) -> Tensors:
        """The choices that this engine takes, which are put on the device once."""
        return {name: self._choice(name, choices[name]) for name in engine.optional if name in choices}

    def _choice(self, name: str, value: np.ndarray) -> DeviceArray:
        known = self._choice_arrays.get(name)
        if known is None or known[0] is not value:
            known = self._choice_arrays[name] = value, self.device.put(value)
        return known[1]

    @contextmanager
    def _dispatching(self, request: Request) -> Iterator[None]:
        """Its turn, with its inputs on the device."""
        with self.turn:
            self._dispatch = Dispatch(self.device, set(request.fed))
            try:
                for name, value in request.tensors.items():
                    if isinstance(value, np.ndarray):
                        request.tensors[name] = self.device.put(value)
                    if value.dtype.kind == "f":
                        tally = self.device.tally(request.tensors[name])
                        self._dispatch.ask([tally], partial(_check_input, name))
                yield
            finally:
                self._dispatch, self._planned = Dispatch(self.device), {}  # they hold its arrays

    @contextmanager
    def _timed(
        self, request: Request, phase: str = "", segment: str = "", told: Told | None = None
    ) -> Iterator[None]:
        start = self.device.mark()
        yield

        def tell(ms: float) -> None:
            request.note(phase, segment, ms)
            if told is not None:
                told(ms)

        self._dispatch.saw(start, tell)

    def _choices(self, engine: Engine, request: Request) -> Tensors:
        return self.choice_feeds(engine, request.choices)

    def _check(self, decision: Decision, request: Request) -> None:
        names = [decision.logits or decision.keep, decision.keep]
        arrays = [request.tensors[name] for name in names if name in request.tensors]
        sizes = [array.nbytes // array.dtype.itemsize // array.shape[0] for array in arrays]

        def answer(found: list[np.ndarray]) -> None:
            for index, (bad, _) in enumerate(found[0].tolist()):
                if bad:
                    raise not_finite_decision(decision, index, bad, sizes[0])
            if decision.keep in request.tensors:
                request.active[decision.name] = found[-1][:, 1] / max(1, sizes[-1])

        self._dispatch.ask([self.device.tally(array) for array in arrays], answer)

    def _ask_depth(self, step: ExitStep, request: Request) -> None:
        names = [step.depth, *([step.scores] if step.scores else [])]
        request.features = request.tensors.get(step.features)

        def answer(found: list[np.ndarray]) -> None:
            request.depth = check_depths(step, dict(zip(names, found, strict=True)))

        self._dispatch.ask([request.tensors[name] for name in names], answer)

    def _settle(self, request: Request) -> None:
        self._dispatch.read()

    def _run_region(self, region: Region, request: Request) -> None:
        if region.name not in self._planned:
            self._plan(region, request)
        plan = self._planned[region.name]
        request.strategies[region.name] = ("dense" if plan is None else "windows",) * request.batch
        if plan is None:
            self._run_fallback(region, request, request.tensors, request.batch)
            return
        scratch = self.references.borrow(plan.reference)
        request.leases.append((plan.reference, scratch))
        with self._timed(request, "compute", told=partial(self._judge, region, request, plan)):
            made = self.windows[region.name].run(plan, request, scratch)
            request.tensors.update(made)
            self._dispatch.lent |= {id(array) for array in made.values()}

    def _plan(self, region: Region, request: Request) -> None:
        """Decides on this region, and with the same read-back on those behind it whose masks are there already."""

        def told(ms: float) -> None:
            if plan := self._planned[region.name]:
                plan.plan_ms = ms

        with self._timed(request, "plan", told=told):
            drafts: list[tuple[Region, WindowPlan]] = []
            for other in self.regions[self.regions.index(region) :]:
                if other is region or self._is_foreseen(other, request):
                    self._planned[other.name] = None
                    budget = self._budget(other, request, request.batch)
                    if budget and (draft := self.windows[other.name].draft(request, *budget)):
                        drafts.append((other, draft))
            counts = [tiles.count for _, draft in drafts for tiles in draft.distinct]
            found = iter(self._dispatch.read(counts) if counts else [])
            for other, plan in drafts:
                plan.count([int(next(found)[0]) for _ in plan.distinct])
                self._planned[other.name] = plan if plan.predicted_ms < plan.budget_ms else None

    def _is_foreseen(self, region: Region, request: Request) -> bool:
        masks = all(name in request.tensors for name in region.masks)
        return (
            masks and not self.guard.demoted(region.name) and self.input_shapes(region, request) is not None
        )

    def input_shapes(self, region: Region, request: Request) -> dict[str, tuple[int, ...]] | None:
        """Of one image's inputs of a region; None while nothing tells them."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name in region.inputs:
            if name in request.tensors:
                shapes[name] = (1, *request.tensors[name].shape[1:])
                continue
            try:
                shapes[name] = (1, *resolve_shape(self._specs[name].shape, request.symbols)[1:])
            except KeyError:
                return None
        return shapes

    def dtype(self, name: str, request: Request) -> np.dtype:
        held = request.tensors.get(name)
        return np.dtype(self._specs[name].dtype) if held is None else held.dtype

    def _judge(self, region: Region, request: Request, plan: WindowPlan, ms: float) -> None:
        if request.observe and plan.dense_ms is not None:
            self.guard.saw_selective(region.name, plan.predicted_ms, ms + plan.plan_ms, plan.dense_ms)

    def _own_tensors(self, request: Request) -> None:
        """All is read from the device that is not to stay there; of the rest, what lies in scratch or is an input is
        copied."""
        tensors, lent = request.tensors, self._dispatch.lent
        specs = (*self.manifest.outputs, *decision_tensors(self.manifest))
        kept = {spec.name: tensors[spec.name] for spec in specs if spec.name in tensors}
        if request.features is not None:
            kept[_FEATURES] = request.features
        if request.stays:
            for name, array in kept.items():
                kept[name] = self.device.copy(array) if id(array) in lent else array
            self._dispatch.read()
        else:
            kept = dict(zip(kept, self._dispatch.read(list(kept.values())), strict=True))
        self._dispatch.finish()
        request.features = kept.pop(_FEATURES, None)
        tensors.clear()
        tensors.update(kept)

    def _release(self, request: Request) -> None:
        """Behind the answer: nobody waits for it."""
        while request.leases:
            self.references.give_back(*request.leases.pop())


def _check_input(name: str, found: list[np.ndarray]) -> None:
    for index, (bad, _) in enumerate(found[0].tolist()):
        if bad:
            raise not_finite_input(name, index, bad)
