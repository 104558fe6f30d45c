"""Who is timed against whom: the baseline and the masked program in a dense engine, and the bundle."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..runtime import Model, Result, load
from ..runtime.bundle import open_bundle
from ..runtime.engine import Config
from ..runtime.errors import InputError
from ..runtime.manifest import Manifest
from ..runtime.spans import native_regions
from .dense import tune
from .ideal import measure_balance
from .interleave import Contender, Times, interleave
from .reference import Reference
from .timers import WALL, Timer

Choices = Mapping[str, Any]


class DenseEngine(Protocol):
    """A program as one engine: (image, choices) -> outputs by name."""

    def __call__(self, image: Any, choices: Choices | None = None) -> Mapping[str, Any]: ...

    def words(self) -> str:
        """What it was tuned to."""
        ...


class Testbed(Protocol):
    """Where a benchmark runs: how its engines are opened, fed and timed. `gpu/testbed.py` has the one for GPUs."""

    batches: tuple[int, ...]  # that are measured beside single images, by default …
    scales: tuple[float, ...]  # … and of height and width

    @property
    def timer(self) -> Timer: ...
    def load(self, bundle: Path, **options: Any) -> Model:
        """A bundle, as `runtime.load` has it; for `close` to close."""
        ...

    def close(self, model: Model) -> None: ...
    def tune(self, program: Path, image: np.ndarray, static: bool, choices: Choices) -> DenseEngine:
        """The fastest dense engine of a program; `static`: all images have the shape of `image`."""
        ...

    def place(self, image: np.ndarray) -> Any:
        """The image where contenders read it."""
        ...

    def balance(self) -> float:
        """MACs a byte, see `ideal`."""
        ...

    def joules(self, run: Callable[[], object]) -> float | None:
        """Of a call, where they can be measured."""
        ...

    def facts(self) -> dict[str, Any] | None:
        """report.json's `gpu`, at the end."""
        ...


class CpuTestbed:
    """Against stock onnxruntime, with as many threads."""

    batches: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    timer: Timer = WALL

    def __init__(self, threads: int, backend: str):
        self._threads, self._backend = threads, backend

    def load(self, bundle: Path, **options: Any) -> Model:
        return load(bundle, backend=self._backend, threads=self._threads, **options)

    def close(self, model: Model) -> None:
        model.close()

    def tune(self, program: Path, image: np.ndarray, static: bool, choices: Choices) -> DenseEngine:
        return tune(program, self._threads, image, static, choices)

    def place(self, image: np.ndarray) -> np.ndarray:
        return image

    def balance(self) -> float:
        return measure_balance(self._threads)

    def joules(self, run: Callable[[], object]) -> None:
        return None

    def facts(self) -> None:
        return None


@dataclass
class Contenders:
    """Open engines of one benchmark. `choices` are those that `use` set last, for all of them."""

    manifest: Manifest
    bundle: Path
    baseline: Path | None
    threads: int
    testbed: Testbed
    dense: DenseEngine  # the baseline, tuned; the masked program if there is none
    masked: DenseEngine  # the masked program, tuned
    auto: Model
    selective: Model
    reference: Reference
    choices: Choices
    shape: tuple[int, ...] | None  # of all images: bundles have engines for it, as the baseline

    @property
    def baseline_file(self) -> Path:
        return self.baseline or self.bundle / self.manifest.program

    def use(self, choices: Choices) -> None:
        if choices != self.choices:
            self.choices = choices
            self.auto.set_choices(dict(choices))
            self.selective.set_choices(dict(choices))

    def renew(self) -> None:
        """Loads strategy auto anew: what its online guard learnt on other masks is forgotten."""
        self.testbed.close(self.auto)
        self.auto = self.testbed.load(self.bundle, choices=self.choices, layout=self.auto.layout)
        self.warm(self.auto)

    def warm(self, model: Model) -> None:
        if self.shape is not None:
            model.warmup(self.shape)

    def run(self, name: str) -> Contender:
        """The contender of report.json's name."""
        if name in ("dense", "masked_dense"):
            engine = self.dense if name == "dense" else self.masked
            return lambda image: engine(image, self.choices)
        return self.selective if name == "selective" else self.auto

    def time(
        self,
        names: Sequence[str],
        images: Sequence[np.ndarray],
        rounds: int,
        tick: Callable[[], None],
        choices: Sequence[Choices] | None = None,
        record: Callable[[Result], None] = lambda result: None,
    ) -> Times:
        """Interleaved times; `choices` are one for each image (default: those in use). `record` gets the bundle's
        results of the calls whose times count."""

        def observe(name: str, answer: Any) -> None:
            if name == "adaptive":
                record(answer)

        prepare = (lambda number: None) if choices is None else (lambda number: self.use(choices[number]))
        placed = [self.testbed.place(image) for image in images]
        runs = {name: self.run(name) for name in names}
        return interleave(runs, placed, rounds, tick, prepare, self.testbed.timer, observe)

    def at(self, image: np.ndarray) -> Contenders:
        """The same with dense engines that are tuned for images of this shape."""
        program = self.bundle / self.manifest.program
        dense, masked = _tune(self.testbed, self.baseline_file, program, image, True, self.choices)
        there = replace(self, dense=dense, masked=masked, shape=image.shape)
        there.warm(self.auto)
        return there


@contextlib.contextmanager
def open_contenders(
    bundle: Path,
    baseline: Path | None,
    threads: int,
    images: Sequence[np.ndarray],
    backend: str | Config | None = None,
) -> Iterator[Contenders]:
    """Opens and tunes everything; `threads` is every engine's number. `backend`: in the bundle's place. Raises
    BundleError, InputError."""
    with contextlib.ExitStack() as stack:
        testbed, layout = _open_testbed(bundle, threads, backend, stack)
        manifest = open_bundle(bundle, verify=False).manifest
        reference = Reference(bundle, manifest, threads)
        same_shape = len({image.shape for image in images}) == 1
        program = bundle / manifest.program
        dense, masked = _tune(testbed, baseline or program, program, images[0], same_shape, reference.choices)
        auto = testbed.load(bundle, layout=layout)
        native = auto.device is None and native_regions(auto.manifest)
        selective = testbed.load(bundle, layout=layout, strategy="spans" if native else "rects")
        stack.callback(testbed.close, selective)
        if baseline is not None:
            _check_outputs(dense(images[0]), masked(images[0]), baseline)
        opened = Contenders(
            auto.manifest,
            bundle,
            baseline,
            threads,
            testbed,
            dense,
            masked,
            auto,
            selective,
            reference,
            reference.choices,
            images[0].shape if same_shape else None,
        )
        for model in (auto, selective):
            opened.warm(model)
        try:
            yield opened
        finally:
            testbed.close(opened.auto)


def _open_testbed(
    bundle: Path, threads: int, backend: str | Config | None, stack: contextlib.ExitStack
) -> tuple[Testbed, str]:
    """Where the bundle runs, and the layout that was measured fastest with as many threads as users get."""
    usual = stack.enter_context(load(bundle, backend=backend))
    if usual.device is None:
        usual.close()
        return CpuTestbed(threads, usual.config.backend), usual.layout
    from .gpu.testbed import open_testbed

    return stack.enter_context(open_testbed(usual)), usual.layout


def _tune(
    testbed: Testbed, baseline: Path, program: Path, image: np.ndarray, static: bool, choices: Choices
) -> tuple[DenseEngine, DenseEngine]:
    """Of the baseline and of the program; one, where they are the same file."""
    masked = testbed.tune(program, image, static, choices)
    return (masked if baseline == program else testbed.tune(baseline, image, static, choices)), masked


def _check_outputs(ours: Mapping[str, Any], program: Mapping[str, Any], baseline: Path) -> None:
    """A baseline answers the same question: its first output has the program's shape."""
    theirs, wanted = next(iter(ours.values())), next(iter(program.values()))
    if theirs.shape != wanted.shape:
        raise InputError(
            f"baseline {baseline}",
            got=f"a first output of shape {list(theirs.shape)}",
            expected=f"{list(wanted.shape)}, the program's",
            fix="Give the same architecture exported without masks.",
        )
