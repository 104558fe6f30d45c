"""Programs of mixed precision, tried: what a choice of layers costs in decisions, values and quality.

What is measured is kept in a file beside the program and is of use as long as program, data and quantizer are the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx

from ..export.program import load_program, save_program
from ..pipeline.analyze import analyze
from ..pipeline.build import sample_shapes, set_choices
from ..pipeline.data import Sample
from ..pipeline.dense import Dense, DenseSettings
from ..pipeline.deviation import Deviating, Deviation
from ..pipeline.environment import versions
from ..pipeline.files import write_text
from ..pipeline.metadata import read_sample
from ..pipeline.partition import PartitionStep, partition
from ..pipeline.stages import data_digest, digest
from ..runtime.errors import InputError
from .halves import Halves
from .layers import Layer, decided_tensors, layers_of
from .quantized import Ranges, measure_ranges, quantized
from .source import Source

PRECISION = "foveate.precision"  # metadata key of the ONNX file
QUANTIZERS = ("onnxruntime", "modelopt")
SENSITIVITY_IMAGES = 8
SEARCH_IMAGES = 256  # at most
_HELD = 1 << 28  # bytes of answers in floats that are kept between trials


class Trials:
    """Programs of mixed precision against the one in floats, each tried once. `layers` and `steps` (the step of each
    layer, by name) are what precision is chosen for: `try_(floats)` says what a choice costs, `work(floats)` what share
    of the multiply-adds then runs in low precision, and `program(floats)` is the program itself."""

    def __init__(
        self,
        source: Source,
        images: Halves,
        kind: str,
        kept: Path,
        *,
        quantizer: str = "onnxruntime",
        metric: str | None = None,
        threads: int = 0,
        tick: Callable[[], None] = lambda: None,
    ):
        self.floats = load_program(source.program)
        set_choices(self.floats, source.choices)
        analysis = analyze(self.floats, sample_shapes(self.floats, None, None, read_sample(source.program)))
        macs = {node.name: node.macs for node in analysis.nodes}
        self.layers = layers_of(self.floats, macs)
        self.steps = _steps(partition(analysis))
        self.kind, self._metric, self._threads, self._tick = kind, metric, threads, tick
        self.quantizer = quantizer
        self._total = sum(macs.values()) or 1.0
        self._images = images
        self._decided = dict(decided_tensors(self.floats))
        self._answers: dict[str, dict[str, np.ndarray]] = {}  # of the program in floats, by the image's name
        self._held = 0
        self._dense: Dense | None = None
        key = {
            "program": source.sha256,
            "choices": {name: np.asarray(value).tolist() for name, value in source.choices.items()},
            "data": data_digest(images.choosing.data.spec),
            "limit": images.choosing.limit,
            "seed": images.seed,
            "metric": metric,
            "kind": kind,
            "quantizer": quantizer,
            "versions": {name: versions().get(name) for name in ("onnxruntime", "nvidia-modelopt")},
            "preprocess": dataclasses.asdict(source.preprocess) if source.preprocess else None,
        }
        self.key = digest(key)
        self._kept = _Kept(kept, self.key)

    def ranges(self) -> Ranges:
        if not self._kept.ranges:
            feeds = ({self._image: sample.image} for sample in self._search())
            self._kept.ranges = dict(self._measure_ranges(feeds))
            self._kept.save()
        return self._kept.ranges

    def _measure_ranges(self, feeds: Iterable[dict[str, np.ndarray]]) -> Ranges:
        if self.quantizer == "onnxruntime":
            return measure_ranges(self.floats, self.layers, feeds, self._tick)
        from .model_optimizer import modelopt_ranges

        return modelopt_ranges(self.floats, self.layers, feeds, self.kind, self._tick)

    def left_out(self) -> list[str]:
        """Layers that the quantizer has no range for: they stay in floats, whatever is asked."""
        return [layer.name for layer in self.layers if layer.reads not in self.ranges()]

    def program(self, floats: Collection[str]) -> onnx.ModelProto:
        """With these layers in floats and all others in low precision, which its metadata say of each."""
        low = [layer.name for layer in self._low(floats)]
        facts = {layer.name: self.kind if layer.name in low else "float" for layer in self.layers}
        model = quantized(self.floats, self.ranges(), low, self.kind)
        onnx.helper.set_model_props(
            model, {**{p.key: p.value for p in model.metadata_props}, PRECISION: json.dumps(facts)}
        )
        return model

    def work(self, floats: Collection[str]) -> float:
        return sum(layer.macs for layer in self._low(floats)) / self._total

    def _low(self, floats: Collection[str]) -> list[Layer]:
        staying = {*floats, *self.left_out()}
        return [layer for layer in self.layers if layer.name not in staying]

    def share(self, layer: Layer) -> float:
        return layer.macs / self._total

    def try_(self, floats: Collection[str]) -> Deviation:
        """On the half of the images that chooses."""
        return self._once("search", floats, self._search)

    def alone(self, low: Collection[str]) -> Deviation:
        """With these layers alone in low precision, on the first few images."""
        others = {layer.name for layer in self.layers} - set(low)
        return self._once("alone", others, lambda: itertools.islice(self._search(), SENSITIVITY_IMAGES))

    def confirm(self, floats: Collection[str]) -> Deviation:
        """On the other half."""
        return self._once("held out", floats, self._images.confirming)

    @property
    def _image(self) -> str:
        initial = {i.name for i in self.floats.graph.initializer}
        names = [i.name for i in self.floats.graph.input if i.name not in initial]
        if len(names) != 1:
            raise InputError(
                "calibrate",
                got=f"a program with inputs {', '.join(names)}",
                expected="one image input",
                fix="Quantize it with calibration.quantized, which takes feeds.",
            )
        return names[0]

    def _search(self) -> Iterator[Sample]:
        return itertools.islice(self._images.choosing(), SEARCH_IMAGES)

    def _once(self, what: str, floats: Collection[str], samples: Callable[[], Iterable[Sample]]) -> Deviation:
        text = json.dumps([what, sorted(floats)])
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        if name not in self._kept.trials:
            self._kept.trials[name] = self._measure(self.program(floats), samples())
            self._kept.save()
        return self._kept.trials[name]

    def _measure(self, program: onnx.ModelProto, samples: Iterable[Sample]) -> Deviation:
        found = Deviating(self._metric)
        with tempfile.TemporaryDirectory(prefix="foveate-") as folder:
            after = self._open(program, Path(folder) / "quantized.onnx")
            outputs = [o.name for o in self.floats.graph.output]
            for sample in samples:
                answers = self._before(sample), after(sample.image)
                values = ({name: answer[name] for name in outputs} for answer in answers)
                decided = (
                    {name: answer[tensor] for name, tensor in self._decided.items()} for answer in answers
                )
                found.add(*values, *decided, label=sample.label)
                self._tick()
        return found.result()

    def _before(self, sample: Sample) -> dict[str, np.ndarray]:
        if sample.name in self._answers:
            return self._answers[sample.name]
        if self._dense is None:
            with tempfile.TemporaryDirectory(prefix="foveate-") as folder:
                self._dense = self._open(self.floats, Path(folder) / "floats.onnx")
        answer = self._dense(sample.image)
        self._held += sum(value.nbytes for value in answer.values())
        if self._held <= _HELD:
            self._answers[sample.name] = answer
        return answer

    def _open(self, program: onnx.ModelProto, path: Path) -> Dense:
        return Dense(
            save_program(program, path),
            self._threads,
            DenseSettings(exact=True, kernels=True),
            tensors=list(self._decided.values()),
        )


def _steps(steps: Sequence[PartitionStep]) -> dict[str, str]:
    """Of each node the step that it lies in, by the names that `foveate inspect` shows."""
    counts = {"dense": itertools.count(), "region": itertools.count()}
    found = {}
    for step in steps:
        kind = "region" if step.local else "dense"
        name = f"{kind}{next(counts[kind])}"
        found |= {node.name: name for node in step.nodes}
    return found


class _Kept:
    """Ranges and trials in a file that is of no use for another `key`."""

    def __init__(self, path: Path, key: str):
        self._path, self._key = path, key
        self.ranges: dict[str, tuple[float, float]] = {}
        self.trials: dict[str, Deviation] = {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["key"] == key:
                self.ranges = {name: (low, high) for name, (low, high) in found["ranges"].items()}
                self.trials = {name: Deviation(**value) for name, value in found["trials"].items()}
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def save(self) -> None:
        trials = {name: dataclasses.asdict(value) for name, value in self.trials.items()}
        facts = {"key": self._key, "ranges": self.ranges, "trials": trials}
        write_text(self._path, json.dumps(facts, indent=1) + "\n")
