"""A loaded bundle: images in, answers out."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, overload

import numpy as np

from . import forks
from .answer import answer_of
from .batcher import Batcher, closed
from .bundle import Bundle, open_bundle
from .choices import change_choices, default_choices
from .costs import DeviceCosts, fingerprint, guess_costs, read_costs, write_costs
from .device.device import Device
from .device.executor import DeviceExecutor
from .device.opening import on_device, open_device
from .drift import Depths
from .engine import Config, NullConfig, OrtConfig, TensorRTConfig
from .engines import Engines
from .errors import FoveateError, InputError, did_you_mean
from .executor import Executor
from .inputs import Batch, ImageReader, Shape, input_shapes, one_image
from .lanes import Job
from .layout_times import measure_layouts
from .layouts import choose_layout
from .manifest import CHAIN, Manifest, Region
from .native.library import library, native_isa, why_missing
from .options import SELECTIVE, Options, cache_bytes
from .policy import StreamPolicy
from .precision import with_types
from .probes import BUDGET_MS
from .region_stream import RegionStream, open_regions
from .request import Request
from .result import Result
from .route import Route
from .spans import native_regions
from .stats import Stats
from .steps import Steps
from .stream import Stream
from .submitting import awaited, in_order
from .whole import prefers_whole, tell_guard

MODES = ("layers", "regions")  # of streams


class Model:
    """A bundle with its engines open; made by `load`. A context manager. Safe for concurrent callers.

    In a forked child the engines are opened anew at first use (sessions do not survive a fork). Such a child should
    end with os._exit, as those of multiprocessing do: onnxruntime's own exit handlers hang in it. A pickled model, as
    the start method "spawn" makes, opens its bundle again where it is unpickled.
    """

    def __init__(self, bundle: Bundle, options: Options):
        self._options = options
        bundle = replace(bundle, manifest=with_types(options.config, bundle.manifest))
        self._device = open_device(options.config) if on_device(options.config) else None
        self.fingerprint = _fingerprint(bundle.manifest, options.config, self._device)
        costs = read_costs(bundle.path / "device.json", self.fingerprint, bundle.manifest)
        known = costs.layouts if costs else {}
        self.layout = choose_layout(bundle.manifest, options.layout, known, options.config.backend)
        self._chain = bundle
        self._bundle = replace(bundle, manifest=bundle.manifest.in_layout(self.layout))
        self._choices = change_choices(default_choices(bundle.manifest), options.choices, bundle.manifest)
        self._read = ImageReader(bundle.manifest, options.memory_bytes, options.pad, self._device)
        by_depth = options.strategy != "dense" and self._device is None
        self._route = Route(self._bundle.manifest, by_depth, self._run_all)
        self._closed = False
        self.forget()
        self._live()
        forks.watch(self)

    def __call__(self, images: Any) -> Result:
        """Runs a batch: float32 [N, C, H, W], a dict of arrays by input name, uint8 images ([H, W, 3], [N, H, W, 3]
        or a list, through the bundle's preprocess), or torch tensors. The answer's arrays belong to the caller.

        Raises InputError before anything is computed, DecisionError where a decision is not finite.
        """
        with self._counted(), self._in_flight() as alone:
            start = perf_counter()
            executor = self._live()
            batch = self._read(images)
            if self._measure_once(executor, batch.feeds):
                start = perf_counter()
            request = self._request(batch, self._options.strategy)
            request.observe = alone and self._options.strategy == "auto"
            self._run_all(executor, request)
            return self._conclude(batch, request, start)

    def submit(self, image: Any, *, timeout: float | None = None) -> Future[Result]:
        """Queues one image, [1, C, H, W] or uint8 [H, W, 3], and gives the future of its answer, which is that of
        `model(image)`. Images of one size run as one batch (see `Batching`), behind a gate with those that take the
        same stage next; the answer's `timing` has the ms that it waited, as "wait". A float array is not copied: it
        must stay as it is until then.

        timeout: seconds to wait for room in the queue; 0 not at all, None for as long as it takes. What is wrong with
        the image, also before it is queued, its future raises, and no other. Until there is an answer, the future can
        be cancelled. Raises QueueFullError, and EngineError after close()."""
        start, queue = perf_counter(), self._queue()
        try:
            with self._counted():
                batch = one_image(
                    self._read(image), "submit", "Submit image by image, or call model(images)."
                )
                if batch.on_device:
                    raise InputError(
                        "submit",
                        got="an array in a GPU's memory",
                        expected="one in this machine's",
                        fix="Call model(images), which takes it as it is.",
                    )
        except FoveateError as error:
            failed: Future[Result] = Future()
            failed.set_exception(error)
            return failed
        return queue.submit(Job(batch, self._request(batch, self._options.strategy), start), timeout)

    async def asubmit(self, image: Any) -> Result:
        """`submit`, to be awaited: it waits for room and for the answer without holding up the event loop. A task that
        is cancelled takes its image out of the queue."""
        return await awaited(self.submit, image)

    @overload
    def map(
        self, images: Iterable[Any], *, return_exceptions: Literal[False] = False
    ) -> Iterator[Result]: ...
    @overload
    def map(self, images: Iterable[Any], *, return_exceptions: bool) -> Iterator[Result | FoveateError]: ...
    def map(
        self, images: Iterable[Any], *, return_exceptions: bool = False
    ) -> Iterator[Result | FoveateError]:
        """The answers of images of any sizes, in their order, each a Result of one image; at most the queue's length
        are read ahead. An image that fails raises its error when its turn comes; with `return_exceptions` the error
        stands in its place, and the others go on."""
        return in_order(self.submit, images, self._options.batching.queue, return_exceptions)

    def dense(self, images: Any) -> Result:
        """Runs the whole program in one engine: the dense reference. Decisions are there if the program gives them."""
        start = perf_counter()
        batch = self._read(images)
        request = self._request(batch, "dense")
        self._live().run_program(request)
        return answer_of(request, batch, self.manifest, start)

    def warmup(self, *shapes: Shape | Sequence[Shape]) -> None:
        """Pays first-run costs now: opens every engine, measures the device if need be, and computes the reference
        states of these input shapes: [N, C, H, W] of the first input, a dict by input name, or a list of either.
        Without any, at the shape that the plan was made at. The first two shapes of one image get dense engines of
        their own, which are 2 to 10 % faster and hold the weights again. Raises InputError."""
        executor = self._live()
        if self._options.strategy not in SELECTIVE:
            _ = executor.engines.program  # opens it: not in the midst of serving
        specs = {spec.name: spec for spec in self.manifest.inputs}
        random = np.random.default_rng(0)
        for feeds in input_shapes(self.manifest, shapes):
            batch = self._read(
                {name: random.random(n).astype(specs[name].dtype) for name, n in feeds.items()}
            )
            self._measure_once(executor, batch.feeds)
            if batch.images == 1 and self._device is None:
                executor.engines.fix(batch.shapes)
            forced = self._options.strategy if self._options.strategy in SELECTIVE else "spans"
            for strategy in ("dense",) if self._options.strategy == "dense" else ("dense", forced):
                request = self._request(batch, strategy)
                request.checked = False  # noise may decide what it likes
                executor.run(request)

    def measure(self, shape: Shape | None = None, *, budget_ms: float = BUDGET_MS) -> DeviceCosts:
        """Measures this device anew, within about two seconds, and keeps the costs (see `breakeven.measure`). Of a
        program with exits its layouts, too, within four times the budget, for those who load it from then on."""
        executor = self._live()
        shapes = input_shapes(self.manifest, () if shape is None else (shape,))
        with self._measuring:
            if self.manifest.layouts:
                layouts = measure_layouts(
                    self._chain.manifest, self.backend, self._open_layout, shapes[0], budget_ms
                )
                executor.costs = replace(executor.costs, layouts=layouts)
            return self._measure(executor, shapes[0], budget_ms)

    @overload
    def stream(
        self, policy: StreamPolicy | None = None, *, mode: Literal["layers"] = "layers", **options: Any
    ) -> Stream: ...
    @overload
    def stream(
        self, policy: StreamPolicy | None = None, *, mode: Literal["regions"], **options: Any
    ) -> RegionStream: ...
    @overload
    def stream(
        self, policy: StreamPolicy | None = None, *, mode: str, **options: Any
    ) -> Stream | RegionStream: ...
    def stream(
        self, policy: StreamPolicy | None = None, *, mode: str = "layers", **options: Any
    ) -> Stream | RegionStream:
        """The state of a new video, which takes frame after frame and computes what changed.

        mode: "layers" propagates changes from layer to layer; "regions" runs changed regions as crops through the whole
        program, for what mode "layers" cannot run, and is an estimate where ops are global. options: fields of
        StreamPolicy (RegionPolicy in mode "regions"), other than those of `policy`; without one, mode "layers" takes
        `stream_policy`, and "regions" computes all that changed. Raises InputError where the program or this machine
        has no such streams, and for options that are none."""
        if mode not in MODES:
            fix = did_you_mean(mode, MODES, "Leave it out for layers.")
            raise InputError("mode", got=repr(mode), expected=f"one of {', '.join(MODES)}", fix=fix)
        if mode == "regions":
            limit = self._options.max_state_bytes
            regions = open_regions(
                self.manifest, self._read, self.dense, policy or StreamPolicy(), options, limit
            )
            _ = self._live().engines.program  # opens it: not in the midst of the first frame
            return regions
        plan = self.manifest.stream
        if plan is None or library() is None or not isinstance(self._options.config, OrtConfig):
            reason = self.manifest.stream_refused if plan is None else why_missing()
            raise InputError(
                f"streams of {self.manifest.name!r}",
                got=reason or "a backend without native kernels",
                expected="a program that begins with local ops, and the native kernels",
                fix="See `foveate inspect` and `foveate doctor`; model(frame) runs single frames.",
            )
        engines, chosen = self._live().engines.stream, (policy or self.stream_policy).but(options)
        limit = self._options.max_state_bytes
        return Stream(
            engines,
            plan,
            self.manifest.outputs,
            self._read,
            self._run_steps,
            lambda: self._choices,
            chosen,
            limit,
        )

    def set_choices(self, changes: Mapping[str, Any]) -> None:
        """Changes choices by name, for requests that start from now on. Raises InputError."""
        with self._lock:
            self._choices = change_choices(self._choices, changes, self.manifest)
            self._stats.depths = self._depths()

    def stats(self) -> dict[str, Any]:
        """Counts since loading: requests, images, errors, strategies per region, mean active fraction per decision,
        runs of regions that were replayed (on a GPU), latency, references held, demotions, what engines say of their
        own loading (ms), and what is known of this device; the depths that images took and those expected, as long as
        choices are the bundle's; `waiting`: images that were submitted and are not done."""
        executor = self._live()
        references = executor.references
        return {
            **self._stats.summary(),
            "waiting": self._batcher.waiting if self._batcher is not None else 0,
            "references": {
                "count": len(references),
                "bytes": references.nbytes,
                "limit": references.limit,
                "built": references.built,
                "evicted": references.evicted,
                "too_large": references.refused,
            },
            "demotions": executor.guard.demotions,
            "replayed": executor.replayed,
            "engines": executor.engines.timing,
            "device": {
                "measured": executor.costs.measured,
                "break_even": executor.costs.break_even if executor.costs.measured else None,
                **executor.costs.fingerprint,
            },
            "strategy": self._options.strategy,
        }

    @property
    def manifest(self) -> Manifest:
        return self._bundle.manifest

    @property
    def backend(self) -> str:
        """What runs it: the bundle's, or the one in its place."""
        return self._options.config.backend

    @property
    def config(self) -> Config:
        """Of its engines."""
        return self._options.config

    @property
    def device(self) -> Device | None:
        """Whose memory its tensors lie in; None: this machine's."""
        return self._device

    @property
    def stream_policy(self) -> StreamPolicy:
        """What `stream` takes by default: what `foveate calibrate --stream` chose; else the exact one."""
        return StreamPolicy().but(self.manifest.stream_policy)

    @property
    def path(self) -> Path:
        return self._bundle.path

    @property
    def choices(self) -> dict[str, Any]:
        """Current values by name."""
        return {name: value.tolist() for name, value in self._choices.items()}

    @property
    def executor(self) -> Any:
        """The steps themselves, for measurements."""
        return self._live()

    def close(self, *, cancel: bool = False) -> None:
        """Closes the engines, once the images that were submitted are done; with `cancel`, the futures of those that do
        not run are cancelled. Calls after it raise EngineError."""
        with self._lock:
            self._closed, batcher = True, self._batcher
        if batcher is not None:
            batcher.close(cancel)
        open_now, self.started, self._staged = (self.started, self._staged), None, None
        for executor in filter(None, open_now):
            executor.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        options = replace(self._options, choices=self.choices)
        return _reopen, (os.fspath(self.path.absolute()), options)

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._options.strategy
        return f"Model({self.manifest.name!r}, {self._options.config}, {state})"

    def forget(self) -> None:
        """Back to a model that has not started in this process: for a forked child, see `forks`."""
        self._lock, self._measuring = threading.Lock(), threading.Lock()
        self.started: Steps | None = None
        self._staged: Steps | None = None
        self._stats = Stats(self._depths())
        self._batcher: Batcher | None = None
        self._flying = 0

    def _live(self) -> Steps:
        executor = self.started
        if executor is not None:
            return executor
        with self._lock:
            if self._closed:
                raise closed(f"model {self.manifest.name!r}")
            if self.started is None:
                self.started = self._start()
            return self.started

    def _live_chain(self) -> Steps:
        """The steps of layout "chain": streams take exits stage by stage, whatever layout single images take."""
        executor = self._live()
        if self.layout == CHAIN:
            return executor
        with self._lock:
            if self._staged is None:
                engines = Engines(self._chain, self._options.config)
                self._staged = Executor(self._chain.manifest, engines, executor.costs, self._cache_bytes)
            return self._staged

    def _start(self) -> Steps:
        costs = read_costs(self.path / "device.json", self.fingerprint, self.manifest)
        costs = costs or guess_costs(self.manifest, self.fingerprint)
        engines = Engines(self._bundle, self._options.config, self._device)
        if self._device is not None:
            return DeviceExecutor(self.manifest, engines, costs, self._cache_bytes, self._device)
        if self._options.strategy == "spans" and not engines.spans:
            raise InputError(
                "strategy",
                got=f"'spans', and no native kernels for this bundle: {why_missing() or _refused(self.manifest)}",
                expected="a region that they can run, and the library",
                fix="Take strategy='auto', and see `foveate doctor` and `foveate inspect`.",
            )
        return Executor(self.manifest, engines, costs, self._cache_bytes)

    @property
    def _cache_bytes(self) -> int:
        asked = self._options.cache_bytes
        return cache_bytes(self._device.memory if self._device else None) if asked is None else asked

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Counts errors."""
        try:
            yield
        except Exception:
            self._stats.add_error()
            raise

    @contextlib.contextmanager
    def _in_flight(self) -> Iterator[bool]:
        """Counts requests that run; yields whether this one is alone, so that its times say something."""
        with self._lock:
            self._flying += 1
            alone = self._flying == 1
        try:
            yield alone
        finally:
            with self._lock:
                self._flying -= 1

    def _request(self, batch: Batch, strategy: str) -> Request:
        elements = math.prod(batch.feeds[self.manifest.inputs[0].name].shape[1:])
        return Request(
            dict(batch.feeds),
            batch.images,
            elements,
            strategy,
            self._choices,
            symbols=batch.symbols,
            stays=batch.on_device,
            shapes=batch.shapes if batch.images == 1 else (),
        )

    def _depths(self) -> Depths:
        """Counts depths from now on. What calibration saw holds for the choices that it made."""
        own = default_choices(self.manifest)
        same = all(np.array_equal(value, own[name]) for name, value in self._choices.items())
        return Depths({int(depth): n for depth, n in self.manifest.depths.items()} if same else {})

    def _run_all(self, executor: Steps, request: Request) -> None:
        request.whole = prefers_whole(executor, self.manifest, self._options.strategy)
        if request.whole:
            executor.run_program(request)
        else:
            executor.run(request)

    def _run_steps(self, tensors: Mapping[str, np.ndarray], first: int, last: int | None) -> Request:
        """Of one frame, densely but for the exits."""
        request = Request(dict(tensors), 1, 0, "dense", self._choices)
        self._live_chain().run(request, first, last)
        return request

    def _conclude(self, batch: Batch, request: Request, start: float) -> Result:
        result = answer_of(request, batch, self.manifest, start)
        if self._options.strategy == "auto":
            tell_guard(self._live(), result, request.whole)
        self._stats.add(result, batch.images, request.whole)
        return result

    def _queue(self) -> Batcher:
        self._live()  # opens the engines: what is queued is still to be run after close()
        with self._lock:
            if self._closed:
                raise closed(f"model {self.manifest.name!r}")
            if self._batcher is None:
                self._batcher = Batcher(
                    self._options.batching, self._route.divisible, self._advance, self._finish
                )
            return self._batcher

    def _advance(self, part: int, requests: Sequence[Request]) -> list[int | None]:
        """For the batcher. An error counts where it is one image's."""
        with self._counted() if len(requests) == 1 else contextlib.nullcontext(), self._in_flight() as alone:
            executor = self._live()
            if part == 0:
                self._measure_once(executor, requests[0].tensors)
            for request in requests:
                request.observe = alone and self._options.strategy == "auto"
            return self._route.advance(executor, part, requests)

    def _finish(self, job: Job) -> Result:
        job.request.timing["wait"] = (perf_counter() - job.start) * 1e3 - job.busy_ms
        return self._conclude(job.batch, job.request, job.start)

    def _measure_once(self, executor: Steps, feeds: Mapping[str, np.ndarray]) -> bool:
        """Whether this took the time to measure the device, as the first request does whose strategy asks for costs."""
        if self._options.strategy != "auto" or executor.costs.measured:
            return False
        with self._measuring:
            if not executor.costs.measured:
                given = {name: value.shape for name, value in feeds.items()}
                self._measure(executor, self.manifest.sample or given, BUDGET_MS)
        return True

    def _open_layout(self, name: str) -> Model:
        """The same bundle, for measurements."""
        options = replace(self._options, layout=name, strategy="rects", choices=self.choices)
        return Model(self._chain, options)

    def _measure(self, executor: Steps, shapes: Mapping[str, Sequence[int]], budget_ms: float) -> DeviceCosts:
        config = self._options.config
        one_image = {name: (1, *shape[1:]) for name, shape in shapes.items()}
        layouts = executor.costs.layouts
        costs = executor.measure(one_image, self._choices, self.fingerprint, budget_ms)
        executor.costs = replace(costs, layouts=layouts)
        if not executor.regions and not layouts:
            return executor.costs
        if executor.costs.covers(executor.regions) and not isinstance(config, NullConfig):
            write_costs(self.path / "device.json", executor.costs)
        return executor.costs


def _fingerprint(manifest: Manifest, config: Config, device: Device | None) -> dict[str, str]:
    isa = native_isa(config.isa) if isinstance(config, OrtConfig) and native_regions(manifest) else ""
    known = fingerprint(config.threads, config.backend, isa)
    if device is None:
        return known
    engines = {"tensorrt": manifest.engines[0].version} if isinstance(config, TensorRTConfig) else {}
    return known | device.fingerprint | {"config": str(config), **engines}


def _refused(manifest: Manifest) -> str:
    regions = [step for step in manifest.steps if isinstance(step, Region)]
    return next((r.spans_refused for r in regions if r.spans_refused), "its backend has none")


def _reopen(path: str, options: Options) -> Model:
    return Model(open_bundle(path, verify=options.verify), options)
