"""Which layers of a program run in low precision: all that a budget allows, found by trying them.

First all are quantized. Where that costs too much, each layer is quantized alone, on a few images, which ranks them by
what it does to the decisions, or to the answers; then as few as it takes stay in floats, the worst first. A half of the
images chooses, the other confirms.

What is measured lies beside the program that is written and is of use as long as program, data and quantizer are the
same: a run that was cut off goes on where it was, another budget only tries what was not tried.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..export.program import save_program
from ..pipeline.data import Dataset, open_data
from ..pipeline.deviation import Deviation
from ..pipeline.files import write_text
from ..runtime.errors import InputError, did_you_mean
from ..runtime.manifest import Preprocess
from .halves import halves
from .layers import Layer
from .quantized import check_kind
from .source import open_source
from .trials import QUANTIZERS, Trials

MAX_DROP, AGREEMENT = 0.005, 0.99


@dataclass(frozen=True)
class PrecisionBudget:
    """What low precision may cost: of the metric at most `max_drop` (or one image, where that is more), and of every
    decision at most 1 − `agreement`. `keep`: layers, or steps of the plan, that stay in floats whatever they cost."""

    max_drop: float = MAX_DROP
    agreement: float = AGREEMENT
    keep: tuple[str, ...] = ()

    def broken(self, found: Deviation) -> str | None:
        """What `found` breaks: "decisions", "quality" or nothing."""
        if found.least_agreement < self.agreement:
            return "decisions"
        allowed = max(self.max_drop, 1 / found.images)
        return None if found.drop <= allowed + 1e-9 and math.isfinite(found.error) else "quality"


@dataclass(frozen=True)
class LayerPrecision:
    """precision: "int8", "fp8" or "float"; why: what keeps it in floats. work: its share of the multiply-adds. flips
    and error: what this layer alone costs in low precision, where that was measured: the largest share of a decision
    that it flips, and the relative RMS error of the answers."""

    name: str
    op: str
    step: str
    work: float
    precision: str
    why: str = ""
    flips: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Precisions:
    """What was chosen. search, held_out: against the program in floats, on the images that chose and on the others;
    holds: whether those keep the budget, too. program: sha256 of what was quantized."""

    kind: str
    program: str
    data: str
    budget: PrecisionBudget
    layers: list[LayerPrecision]
    search: Deviation
    held_out: Deviation
    holds: bool
    notes: list[str] = field(default_factory=list)
    quantizer: str = QUANTIZERS[0]

    @property
    def work(self) -> float:
        """The share of the multiply-adds that runs in low precision."""
        return sum(layer.work for layer in self.layers if layer.precision != "float")

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The layers in floats: name, step, share of the work, flips and error of this layer alone, why."""
        for layer in self.layers:
            if layer.precision == "float":
                costs = (_percent(layer.flips), _percent(layer.error))
                yield layer.name, layer.step, f"{layer.work:.1%}", *costs, layer.why

    def line(self) -> str:
        low = [layer for layer in self.layers if layer.precision != "float"]
        return f"{self.kind}: {len(low)} of {len(self.layers)} layers, {self.work:.1%} of the multiply-adds"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def calibrate_precision(
    source: str | Path,
    data: str | Path | Dataset,
    *,
    kind: str = "int8",
    quantizer: str = QUANTIZERS[0],
    budget: PrecisionBudget = PrecisionBudget(),
    metric: str | None = None,
    preprocess: Callable[[Preprocess | None], Preprocess | None] = lambda default: default,
    limit: int | None = None,
    threads: int | None = None,
    out: Path | None = None,
    tick: Callable[[], None] = lambda: None,
) -> tuple[Precisions, Path]:
    """Writes the program `source` (or that of the bundle, with its choices) in Q/DQ of `kind` ("int8", "fp8"), as much
    of it as the budget allows, to `out` (default: NAME.int8.onnx beside it), and what was found to NAME.int8.json.
    Gives that and the path. quantizer: whose ranges: "onnxruntime" or "modelopt". metric: a row of docs/data.md; by
    default what the labels allow.

    Raises InputError for fewer than two images and numbers that are not finite, ProgramError for a program that is
    quantized already, MissingExtraError without the quantizer."""
    check_kind(kind)
    if quantizer not in QUANTIZERS:
        raise InputError(
            "quantizer", got=repr(quantizer), expected=" or ".join(QUANTIZERS), fix="Name one of them."
        )
    opened = open_source(Path(source))
    opened = dataclasses.replace(opened, preprocess=preprocess(opened.preprocess))
    if not isinstance(data, Dataset):
        data = open_data(data, opened.preprocess, limit, opened.labels)
    images = halves(data, limit, seed=0, least=2)
    path = out or _beside(opened.path, kind)
    if path.resolve() == opened.path.resolve():
        raise InputError("--out", got="the program itself", expected="another file", fix="Leave it out.")
    trials = Trials(
        opened,
        images,
        kind,
        path.with_suffix(".trials.json"),
        quantizer=quantizer,
        metric=metric,
        threads=threads or 0,
        tick=tick,
    )
    found = choose(trials, budget, opened.sha256, data.spec)
    floats = [layer.name for layer in found.layers if layer.precision == "float"]
    save_program(trials.program(floats), path)
    write_text(path.with_suffix(".json"), json.dumps(dataclasses.asdict(found), indent=1) + "\n")
    return found, path


def choose(trials: Trials, budget: PrecisionBudget, program: str = "", data: str = "") -> Precisions:
    """The cheapest choice within the budget: as few layers in floats as it takes."""
    left_out = trials.left_out()
    why = dict.fromkeys(left_out, f"left out by {trials.quantizer}")
    why |= dict.fromkeys(_kept_names(trials, budget.keep), "asked for")
    found = trials.try_(why)
    sensitivity: dict[str, Deviation] = {}
    while (broken := budget.broken(found)) and len(why) < len(trials.layers):
        sensitivity = {
            layer.name: trials.alone([layer.name]) for layer in trials.layers if layer.name not in why
        }
        rank = _flips if broken == "decisions" else _error
        ranked = sorted(sensitivity, key=lambda name: -rank(sensitivity[name]))
        mended = partial(_mends, trials, budget, broken, tuple(why))
        why |= dict.fromkeys(ranked[: _fewest(ranked, mended)], f"keeps {broken}")
        found = trials.try_(why)
    confirmed = trials.confirm(why)
    layers = [
        LayerPrecision(
            layer.name,
            layer.op,
            trials.steps.get(layer.name, ""),
            trials.share(layer),
            "float" if layer.name in why else trials.kind,
            why.get(layer.name, ""),
            *_costs(trials, layer, bool(sensitivity) and layer.name not in left_out),
        )
        for layer in trials.layers
    ]
    holds = budget.broken(confirmed) is None
    return Precisions(
        trials.kind,
        program,
        data,
        budget,
        layers,
        found,
        confirmed,
        holds,
        _notes(found, confirmed, budget),
        trials.quantizer,
    )


def _mends(
    trials: Trials, budget: PrecisionBudget, broken: str, floats: Sequence[str], more: Sequence[str]
) -> bool:
    return budget.broken(trials.try_({*floats, *more})) != broken


def _costs(trials: Trials, layer: Layer, measured: bool) -> tuple[float | None, float | None]:
    if not measured:
        return None, None
    alone = trials.alone([layer.name])
    return _flips(alone), _error(alone)


def _fewest(ranked: Sequence[str], enough: Callable[[Sequence[str]], bool]) -> int:
    """The least number of first names that is enough, if more of them never are worse; else all."""
    low, high = 1, len(ranked)
    while low < high:
        middle = (low + high) // 2
        if enough(ranked[:middle]):
            high = middle
        else:
            low = middle + 1
    return low


def _flips(found: Deviation) -> float:
    return 1 - found.least_agreement


def _error(found: Deviation) -> float:
    return found.error


def _kept_names(trials: Trials, asked: Sequence[str]) -> list[str]:
    """The layers that these names of layers and steps stand for."""
    names = []
    for name in asked:
        named = [layer.name for layer in trials.layers if name in (layer.name, trials.steps.get(layer.name))]
        if not named:
            known = [*(layer.name for layer in trials.layers), *dict.fromkeys(trials.steps.values())]
            raise InputError(
                "layer to keep in floats",
                got=repr(name),
                expected="a layer or a step of the program",
                fix=did_you_mean(name, known, "`foveate inspect` lists the steps."),
            )
        names += named
    return names


def _notes(search: Deviation, held_out: Deviation, budget: PrecisionBudget) -> list[str]:
    notes = []
    if broken := budget.broken(search):
        notes.append(
            f"With all layers in floats the {broken} are still out of the budget: nothing is quantized."
        )
    if broken := budget.broken(held_out):
        notes.append(f"On the images that did not choose, the {broken} are out of the budget.")
    return notes


def _beside(source: Path, kind: str) -> Path:
    if source.is_dir():
        return source.with_name(f"{source.name}.{kind}.onnx")
    return source.with_suffix(f".{kind}.onnx")
