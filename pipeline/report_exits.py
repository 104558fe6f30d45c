"""The trade-off of early exits, as `foveate calibrate --exits` left it: a table and a picture of its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .report_format import figure, ms, share, times
from .report_plots import PALETTE, Colours
from .report_tables import Table

CURVE = "exit_tradeoff"  # .json and .png, in the bundle


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
    return Table("Early exits", header, tuple(rows), _note(found))


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
