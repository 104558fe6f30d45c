"""Who is timed against whom: the baseline and the masked program in stock onnxruntime, and the bundle."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime import Model, Result, load
from ..runtime.errors import InputError
from ..runtime.manifest import Manifest
from ..runtime.spans import native_regions
from .dense import Dense, tune
from .interleave import Contender, Times, interleave
from .reference import Reference

Choices = Mapping[str, Any]


@dataclass
class Contenders:
    """Open engines of one benchmark. `choices` are those that `use` set last, for all of them."""

    manifest: Manifest
    bundle: Path
    baseline: Path | None
    threads: int
    dense: Dense  # the baseline, tuned; the masked program if there is none
    masked: Dense  # the masked program, tuned
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
        self.auto.close()
        layout = self.auto.layout
        self.auto = load(self.bundle, threads=self.threads, choices=self.choices, layout=layout)
        self.warm(self.auto)

    def warm(self, model: Model) -> None:
        if self.shape is not None:
            model.warmup(self.shape)

    def run(self, name: str, record: Callable[[Result], None] | None = None) -> Contender:
        """The contender of report.json's name; `record` gets the bundle's results."""
        if name in ("dense", "masked_dense"):
            engine = self.dense if name == "dense" else self.masked
            return lambda image: engine(image, self.choices)
        model = self.selective if name == "selective" else self.auto
        return model if record is None else lambda image: record(model(image))

    def time(
        self,
        names: Sequence[str],
        images: Sequence[np.ndarray],
        rounds: int,
        tick: Callable[[], None],
        choices: Sequence[Choices] | None = None,
        record: Callable[[Result], None] | None = None,
    ) -> Times:
        """Interleaved times; `choices` are one for each image (default: those in use). `record` gets timed results."""
        prepare = (lambda number: None) if choices is None else (lambda number: self.use(choices[number]))
        if record is not None:
            record = _after(len({image.shape for image in images}), record)  # the untimed calls come first
        return interleave({n: self.run(n, record) for n in names}, images, rounds, tick, prepare)


@contextlib.contextmanager
def open_contenders(
    bundle: Path, baseline: Path | None, threads: int, images: Sequence[np.ndarray]
) -> Iterator[Contenders]:
    """Opens and tunes everything; `threads` is every engine's number. Raises BundleError, InputError."""
    with contextlib.ExitStack() as stack:
        with load(bundle) as usual:  # what was measured fastest with as many threads as users get
            layout = usual.layout
        auto = load(bundle, threads=threads, layout=layout)
        manifest = auto.manifest
        best = "spans" if native_regions(manifest) else "rects"
        selective = stack.enter_context(load(bundle, threads=threads, strategy=best))
        reference = Reference(bundle, manifest, threads)
        same_shape = len({image.shape for image in images}) == 1
        tuned = partial(tune, threads=threads, image=images[0], static=same_shape, choices=reference.choices)
        masked = tuned(bundle / manifest.program)
        dense = masked if baseline is None else tuned(baseline)
        if baseline is not None:
            _check_outputs(dense(images[0]), masked(images[0]), baseline)
        opened = Contenders(
            manifest,
            bundle,
            baseline,
            threads,
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
            opened.auto.close()


def _after(calls: int, record: Callable[[Result], None]) -> Callable[[Result], None]:
    """`record`, but for the first `calls`."""
    count = itertools.count()
    return lambda result: record(result) if next(count) >= calls else None


def _check_outputs(ours: dict[str, np.ndarray], program: dict[str, np.ndarray], baseline: Path) -> None:
    """A baseline answers the same question: its first output has the program's shape."""
    theirs, wanted = next(iter(ours.values())), next(iter(program.values()))
    if theirs.shape != wanted.shape:
        raise InputError(
            f"baseline {baseline}",
            got=f"a first output of shape {list(theirs.shape)}",
            expected=f"{list(wanted.shape)}, the program's",
            fix="Give the same architecture exported without masks.",
        )
