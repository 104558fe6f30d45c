"""A bundle's program in other precisions: each a bundle of its own, built once and kept in a folder of the first.

In low precision run all of its segments, or all but those that suffer most for the work they save.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ..export.program import save_program
from ..pipeline.build import build
from ..pipeline.bundle_folder import replacing_folder
from ..pipeline.stages import code_digest, digest
from ..pipeline.targets import in_precision, target_of
from ..runtime import load
from ..runtime.errors import InputError
from ..runtime.manifest import CHAIN, DenseSegment, ExitChain, Manifest, Region, Step
from ..runtime.native.library import library
from ..runtime.spans import native_regions
from .answers import KEPT, Answers
from .answers import Choices as Values
from .choices import Choices
from .halves import Halves
from .layers import Layer
from .quantized import check_kind
from .source import Source, of_bundle, open_source, store
from .trials import Trials

FLOATS = "floats"
FOLDER = "precision"  # in the bundle
MIXED = 1, 2, 4  # segments in floats beside all others in low precision
LEAST_WORK = 0.5  # of what all layers in low precision do, for others to be worth trying


@dataclass(frozen=True)
class Variant:
    """The program in one precision. words: which; source: its bundle; answers: what that answers."""

    words: str
    source: Source
    answers: Answers


def open_variant(
    words: str,
    source: Source,
    stack: ExitStack,
    metric: str,
    reference: Values,
    threads: int | None,
    against: Answers | None = None,
) -> Variant:
    """Until the stack ends. `reference`, `against`: as of `Answers`."""
    manifest = of_bundle(source.manifest, source.path)
    # a strategy that computes the same each time, whatever the machine is doing
    strategy = "spans" if native_regions(manifest) and library() is not None else "rects"
    model = stack.enter_context(load(source.path, threads=threads, strategy=strategy, layout=CHAIN))
    answers = Answers(model, metric, reference, source.path / KEPT, source.sha256, against)
    return Variant(words, source, stack.enter_context(answers))


class LowPrecision:
    """Of the bundle `floats`, whose choices are `reference` for what is measured here. Raises InputError for a kind
    that the bundle's target does not run."""

    def __init__(self, floats: Source, kind: str, images: Halves, reference: Values, threads: int):
        check_kind(kind)
        self.kind, self._images, self._threads = kind, images, threads
        self._source = dataclasses.replace(floats, choices=dict(reference))
        self._manifest = of_bundle(floats.manifest, floats.path)
        self._folder = floats.path / FOLDER
        if kind == "fp8" and not self._manifest.engines:
            raise InputError(
                "precision",
                got=f"fp8 for target {target_of(self._manifest)}",
                expected="int8, or a bundle for target tensorrt: elsewhere fp8 is computed in floats, slowly",
                fix="Take --precision int8.",
            )

    def bundles(self, tick: Callable[[], None]) -> Iterator[tuple[str, Source]]:
        """In words, and as a bundle, which is built when it is asked for. What is left of earlier ones, of other data,
        is removed at the end."""
        trials = Trials(
            self._source,
            self._images,
            self.kind,
            self._folder / f"{self.kind}.trials.json",
            threads=self._threads,
            tick=tick,
        )
        used = set[Path]()
        for words, floats in self._settings(trials):
            bundle = self._bundle(trials, floats)
            used.add(bundle)
            yield words, open_source(bundle)
        for other in set(self._folder.glob(f"{self.kind}-*")) - used:
            shutil.rmtree(other, ignore_errors=True)

    def _settings(self, trials: Trials) -> Iterator[tuple[str, Collection[str]]]:
        """In words, and the layers in floats."""
        yield self.kind, ()
        segments = segments_of(self._source.path, self._manifest, trials.layers)
        macs = {layer.name: layer.macs for layer in trials.layers}
        harm = {
            name: trials.alone(layers).error / max(1.0, sum(macs[layer] for layer in layers))
            for name, layers in segments.items()
        }
        worst = sorted(segments, key=lambda name: -harm[name])
        for names in (worst[:number] for number in MIXED if number < len(worst)):
            floats = [layer for name in names for layer in segments[name]]
            if trials.work(floats) >= LEAST_WORK * trials.work(()):
                yield f"{self.kind} but {' + '.join(names)}", floats

    def _bundle(self, trials: Trials, floats: Collection[str]) -> Path:
        manifest = self._manifest
        facts: dict[str, Any] = {
            "sample": manifest.sample,
            "target": in_precision(target_of(manifest), self.kind),
            "preprocess": manifest.preprocess,
            "labels": manifest.labels,
            "stream_policy": manifest.stream_policy,
            "layout": manifest.layout,
        }
        made_of = {**facts, "trials": trials.key, "floats": sorted(floats), "foveate": code_digest()}
        folder = self._folder / f"{self.kind}-{digest(made_of)}"
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(prefix="foveate-") as temporary:
                program = save_program(trials.program(floats), Path(temporary) / "program.onnx")
                build(program, folder, **facts)
        return folder


def segments_of(bundle: Path, manifest: Manifest, layers: Sequence[Layer]) -> dict[str, list[str]]:
    """Names of the layers, by that of the segment whose engine runs them."""
    of_node = {
        node.name: name
        for step in manifest.steps
        for name, file in _files(step)
        for node in onnx.load(bundle / file, load_external_data=False).graph.node
    }
    found: dict[str, list[str]] = {}
    for layer in layers:
        found.setdefault(of_node.get(layer.name, "the rest"), []).append(layer.name)
    return found


def _files(step: Step) -> list[tuple[str, str]]:
    if isinstance(step, Region):
        return [(segment.name, segment.file) for segment in step.segments]
    if isinstance(step, ExitChain):
        return [(f"layers to exit {stage.exit}", stage.file) for stage in step.stages]
    return [(step.name, step.file)] if isinstance(step, DenseSegment) else []


def write_variant(variant: Variant, out: Path, choices: Choices) -> Path:
    """A variant with these choices as the bundle `out`, which appears whole or not at all. Gives its choices.json."""
    manifest = of_bundle(variant.source.manifest, variant.source.path)
    with replacing_folder(out) as folder:
        for name in (*manifest.files, "device.json"):
            if (file := variant.source.path / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, folder / name)
        named = dataclasses.replace(manifest, name=out.name)
        store(dataclasses.replace(variant.source, path=folder, manifest=named), choices)
    return out / "choices.json"
