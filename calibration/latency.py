"""What an image takes under each of several choices, of a bundle's program in one precision or another: on this device,
one image at a time, in turns with each other and with the dense engine."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from ..pipeline.dense import Dense, tune
from ..pipeline.environment import usable_cores
from ..pipeline.files import write_text
from ..pipeline.interleave import Contender, interleave
from ..runtime import Model, Result, load
from .answers import Choices, digest, key_of
from .source import Source

KEPT = "latency.json"
IMAGES = 8  # at most
SECONDS = 3.0  # that a measurement may take for each three that are timed, about
_ROUNDS = 5, 15  # at least and at most
DENSE = "dense"

T = TypeVar("T", bound="Latency")


class Latency:
    """Of the bundle in the layout that `load` takes, on a few images. A context manager."""

    def __init__(self, bundle: Path, images: Sequence[np.ndarray], threads: int | None):
        self._bundle, self.images = bundle, list(images[:IMAGES])
        self._threads = threads or usable_cores()
        self._shapes = list(dict.fromkeys(image.shape for image in self.images))
        self._models: dict[Path, Model] = {}
        self._model = self._open(bundle)
        self.layout = self._model.layout

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *_: object) -> None:
        for model in self._models.values():
            model.close()

    def run(self, choices: Choices, bundle: Path | None = None) -> Contender:
        """The bundle, or another one of the same program, with these choices, set before each call, which takes some
        20 µs."""
        model, changes = self._open(bundle or self._bundle), dict(choices)

        def call(image: np.ndarray) -> Result:
            model.set_choices(changes)
            return model(image)

        return call

    def ms(self, contenders: Mapping[str, Contender], tick: Callable[[], None]) -> dict[str, float]:
        """By name: of each image the least over rounds, which another process disturbs least; the mean over images, as
        many as `SECONDS` allow. In an order by chance, as the runtime learns from what it ran just before."""
        first, spent = self.images[0], 0.0
        for call in contenders.values():
            call(first)  # opens engines, measures the device
            start = perf_counter()
            call(first)
            spent += perf_counter() - start
        calls = SECONDS * max(1.0, len(contenders) / 3) / max(spent, 1e-6)
        images = self.images[: int(np.clip(calls / _ROUNDS[0], 1, IMAGES))]
        rounds = int(np.clip(calls / len(images), *_ROUNDS))
        names = random.Random(0).sample(sorted(contenders), len(contenders))
        times = interleave({name: contenders[name] for name in names}, images, rounds, tick)
        return {name: float(times.wall[name].min(axis=1).mean()) for name in contenders}

    def of(self, tried: Sequence[tuple[Source, Choices]], tick: Callable[[], None]) -> list[float]:
        """ms of each: a bundle with choices. Measured once on this device and kept in the bundle, as is the tuned dense
        engine: what is measured later becomes ms by its ratio to that, from its own run."""
        known = self._kept
        keys = [key_of({"program": source.sha256, "choices": key_of(choices)}) for source, choices in tried]
        new = {key: run for key, run in zip(keys, tried, strict=True) if key not in known}
        missing = {key: self.run(choices, source.path) for key, (source, choices) in new.items()}
        if missing or DENSE not in known:
            found = self.ms({**missing, DENSE: self._dense}, tick)
            scale = known.get(DENSE, found[DENSE]) / found[DENSE]
            known.update({key: ms * scale for key, ms in found.items() if key not in known})
            write_text(self._bundle / KEPT, json.dumps({"of": self._of, "ms": known}, indent=1) + "\n")
        return [known[key] for key in keys]

    @property
    def dense_ms(self) -> float:
        """As `of` gave it."""
        return self._kept[DENSE]

    def _open(self, bundle: Path) -> Model:
        if bundle not in self._models:
            self._models[bundle] = model = load(bundle, threads=self._threads)
            for shape in self._shapes:
                model.warmup(shape)
        return self._models[bundle]

    @cached_property
    def _dense(self) -> Dense:
        program = self._bundle / self._model.manifest.program
        return tune(program, self._threads, self.images[0], static=len(self._shapes) == 1, rounds=3)

    @cached_property
    def _of(self) -> dict[str, Any]:
        """What the times hold for."""
        manifest = self._model.manifest
        return {
            "device": self._model.fingerprint,
            "program": manifest.files[manifest.program].sha256,
            "layout": self.layout,
            "images": digest(self.images).hex(),
        }

    @cached_property
    def _kept(self) -> dict[str, float]:
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = json.loads((self._bundle / KEPT).read_text(encoding="utf-8"))
            if found["of"] == self._of:
                return found["ms"]
        return {}
