"""Early exits in a report: what gates and fixed depths reach, by the JSON that `foveate calibrate --exits` left, and
what leaving early saves; tables and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runtime.errors import InputError
from ..runtime.manifest import Manifest
from .report_format import figure, ms, share, times
from .report_plots import PALETTE, Colours, Draw, bars
from .report_tables import Table

CURVE = "exit_tradeoff"  # .json and .png, in the bundle
TITLE, SAVINGS = "Early exits", "What leaving early saves"


def read_curve(bundle: Path, manifest: Manifest) -> dict[str, Any] | None:
    """What `foveate calibrate --exits` left in the bundle; None where its gate is another one by now."""
    from ..calibration.choices import read_choices

    try:
        chosen = read_choices(bundle / "choices.json").choices
        found = json.loads((bundle / f"{CURVE}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, InputError):
        return None
    now = {choice.name: choice.value for choice in manifest.choices}
    return found if all(now.get(name) == value for name, value in chosen.items()) else None


def exit_tables(result: Mapping[str, Any]) -> list[Table]:
    """Of a result of `bench`; none without exits."""
    if not result["exits"]:
        return []
    found = result["exits"]["calibrated"]
    return [*([exits_table(found)] if found else []), _savings(result)]


def exit_drawings(result: Mapping[str, Any]) -> dict[str, Draw]:
    """By the title of their table."""
    if not result["exits"]:
        return {}
    chosen: dict[str, Draw] = {SAVINGS: _draw_savings}
    if result["exits"]["calibrated"]:
        chosen[TITLE] = lambda axes, result: draw_exits(axes, result["exits"]["calibrated"])
    return chosen


def _steps(result: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """From the dense engine to the bundle: (what, ms where it starts, ms). What a bundle takes longer where it computes
    all layers, too, is the price of gate and dispatch."""
    dense, adaptive = result["masked_dense_ms"], result["adaptive_ms"]
    price = dense * (result["worst_case"]["ratio"] - 1)
    left = adaptive - price
    return [
        ("all layers, dense", 0.0, dense),
        ("layers left out", left, dense - left),
        ("gate and dispatch", min(left, adaptive), price),
        ("Foveate, adaptive", 0.0, adaptive),
    ]


def _savings(result: Mapping[str, Any]) -> Table:
    (_, _, dense), (_, _, saved), (_, _, price), (_, _, adaptive) = _steps(result)
    rows = (
        ("all layers, dense", ms(dense), share(1.0)),
        ("− layers that images left out", ms(-saved), share(-saved / dense)),
        ("+ gate and dispatch", f"{price:+.2f}", share(price / dense)),
        ("= Foveate, adaptive", ms(adaptive), share(adaptive / dense)),
    )
    note = (
        f"Layout {result['exits']['layout']}. Gate and dispatch: what the bundle takes longer than the dense engine "
        "where it computes all layers, too."
    )
    return Table(SAVINGS, ("", "ms", "of dense"), rows, note)


def _draw_savings(axes: Any, result: Mapping[str, Any]) -> None:
    colours = ("baseline", "ideal", "masked", "adaptive")
    steps = zip(_steps(result), colours, strict=True)
    bars(axes, [(what, start, abs(took), PALETTE[colour]) for (what, start, took), colour in steps])


def exits_table(found: Mapping[str, Any]) -> Table:
    """By what it costs; the chosen one has a mark."""
    full, metric = found["depths"][-1]["ms"], found["metric"]
    rows = []
    for trial in sorted([*found["trials"], *found["depths"]], key=lambda t: (-t["work"], t["ms"])):
        point = trial["point"]
        gate = point["beta"] is not None
        low, high = point["lead"]
        rows.append(
            (
                (f"gate, β = {point['beta']:g}" if gate else f"{point['depth']:g} layers for all")
                + (" *" if trial == found["chosen"] else ""),
                figure(point["quality"]),
                f"{point['depth']:.2f}",
                share(trial["work"]),
                ms(trial["ms"]),
                times(full / trial["ms"]),
                figure(point["fixed"]) if gate else "",
                f"{point['quality'] - point['fixed']:+.4f}" if gate else "",
                f"{low:+.4f} … {high:+.4f}" if gate else "",
                figure(point["random"]) if gate else "",
            )
        )
    header = ("", metric, "layers", "work", "ms", "speedup", "one depth", "gate − it", "95 %", "random depth")
    return Table(TITLE, header, tuple(rows), _note(found))


def _note(found: Mapping[str, Any]) -> str:
    note = (
        f"{found['images']} images of {found['data']}, each judged by gates that did not learn from it; "
        f"{found['metric']} is the mean over them; * is chosen. One depth: all images at the gate's mean depth, "
        f"between two exits by interpolation. Random depth: the gate's depths, dealt at random. ms: what the exits of "
        f"single images take in the mean, layout {found['layout']}."
    )
    run = found["gate"]
    if run is None:
        return note
    return (
        f"{note} The chosen gate, run on {run['images']} images: {ms(run['measured_ms'])} ms, where their exits take "
        f"{ms(run['expected_ms'])} ms."
    )


def draw_exits(axes: Any, found: Mapping[str, Any], colours: Colours = PALETTE) -> None:
    """Latency against quality."""
    gates = sorted(found["trials"], key=lambda t: t["ms"])
    _line(axes, found["oracle"], "quality", ":", colours["muted"], "oracle: knows the best exit")
    _line(axes, found["depths"], "quality", "s--", colours["baseline"], "one depth for all images")
    for trial in found["depths"]:
        place = (trial["ms"], trial["point"]["quality"])
        text = f"{trial['point']['depth']:g}"
        axes.annotate(
            text, place, (4, -13), textcoords="offset points", fontsize=9, color=colours["baseline"]
        )
    _line(axes, gates, "random", "x", colours["masked"], "the gate's depths at random")
    _line(axes, gates, "quality", "o-", colours["adaptive"], "gate, by price of a layer")
    chosen = found["chosen"]
    place, style = (
        (chosen["ms"], chosen["point"]["quality"]),
        {"mfc": "none", "mec": colours["ink"], "mew": 2},
    )
    axes.plot(*place, "o", ms=14, ls="none", label="chosen", **style)
    axes.set(xlabel="latency of single images, ms", ylabel=f"{found['metric']}, mean over images")
    axes.margins(y=0.12)
    axes.legend(fontsize=9)


def _line(
    axes: Any, trials: Sequence[Mapping[str, Any]], key: str, line: str, colour: str, label: str
) -> None:
    points = sorted((trial["ms"], trial["point"][key]) for trial in trials)
    if points:
        axes.plot(*zip(*points, strict=True), line, color=colour, ms=5, lw=1.3, label=label)
