"""A choice by a budget in a report, by the JSON that `foveate calibrate` left: table and picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime.manifest import Manifest
from .report_format import figure, ms, share, times
from .report_plots import PALETTE, Colours, Draw
from .report_tables import Table

CURVE, STREAM_CURVE = "tradeoff", "stream_tradeoff"  # .json and .png, in the bundle
TITLE = "Chosen by a budget"


def read_tradeoff(bundle: Path, manifest: Manifest) -> dict[str, Any] | None:
    """What `foveate calibrate` left in the bundle; None where its choices, or its program, are others by now."""
    now = {choice.name: choice.value for choice in manifest.choices}
    found = _read(bundle / f"{CURVE}.json", manifest)
    same = found and all(now.get(name) == value for name, value in found["choices"].items())
    return found if same else None


def read_stream_tradeoff(bundle: Path, manifest: Manifest) -> dict[str, Any] | None:
    """The same of `foveate calibrate --stream`, and of the policy."""
    found = _read(bundle / f"{STREAM_CURVE}.json", manifest)
    return found if found and found["choices"] == dict(manifest.stream_policy) else None


def _read(path: Path, manifest: Manifest) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(found["choices"], dict) and found["unit"]
        return found if whole and found["program"] == manifest.files[manifest.program].sha256 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def budget_tables(result: Mapping[str, Any]) -> list[Table]:
    """Of a result of `bench`; none where no budget chose."""
    return [tradeoff_table(result["budget"])] if result["budget"] else []


def budget_drawings(result: Mapping[str, Any]) -> dict[str, Draw]:
    """By the title of their table."""
    return {TITLE: lambda axes, result: draw_tradeoff(axes, result["budget"])} if result["budget"] else {}


def tradeoff_table(found: Mapping[str, Any]) -> Table:
    """The front, from the best to the cheapest; the chosen one has a mark."""
    shown = [t for t in found["trials"] if t["front"] or t == found["chosen"]]
    rows = []
    for trial in sorted(shown, key=lambda t: (-t["ms"], -t["quality"])):
        low, high = trial["drop_interval"]
        rows.append(
            (
                ", ".join(f"{knob} {words}" for knob, words in trial["settings"].items())
                + (" *" if trial == found["chosen"] else ""),
                figure(trial["quality"]),
                f"{100 * trial['drop']:+.2f}",
                f"{100 * low:+.2f} … {100 * high:+.2f}",
                *([] if trial["work"] is None else [share(trial["work"])]),
                ms(trial["ms"]),
                times(trial["speedup"]),
            )
        )
    work = ["work"] if _of_frames(found) else []
    header = ("", found["metric"], "drop, points", "95 %", *work, "ms", "dense ÷ it")
    return Table(TITLE, header, tuple(rows), _note(found))


def _of_frames(found: Mapping[str, Any]) -> bool:
    return found["unit"] == "frames"


def _note(found: Mapping[str, Any]) -> str:
    held, (low, high) = found["held_out"], found["held_out"]["drop_interval"]
    unit, took = found["unit"], "" if held["ms"] is None else f", {ms(held['ms'])} ms"
    if _of_frames(found):
        start = "the exact policy"
        timed = (
            "of a frame behind the first, at most the dense engine's, which streams take where it is faster"
        )
    else:
        start = f"the program as it was built{' in floats' if found['precision'] else ''}, all layers"
        timed = f"of single images, layout {found['layout']}"
    hold = "" if found["hold"] is None else f" Holding the frame before: {figure(found['hold'])}."
    return (
        f"{found['images']} {unit} of {found['data']}; drop from {start}: "
        f"{found['metric']} {figure(found['reference'])}, {ms(found['reference_ms'])} ms. Of {len(found['trials'])} "
        f"settings those that no other beats in both; * is chosen. ms: {timed}, in turns with the tuned dense engine "
        f"({ms(found['dense_ms'])} ms).{hold} On {held['images']} held-out {unit} the budget {held['verdict']}: "
        f"{figure(held['quality'])}, reference {figure(held['reference'])}, drop {100 * held['drop']:+.2f} points "
        f"({100 * low:+.2f} … {100 * high:+.2f}){took}."
    )


def draw_tradeoff(axes: Any, found: Mapping[str, Any], colours: Colours = PALETTE) -> None:
    """Latency against quality."""
    tried, front = found["trials"], [t for t in found["trials"] if t["front"]]
    axes.plot(*_places(tried), "x", color=colours["muted"], ms=5, label="tried")
    axes.plot(*_places(front), "o-", color=colours["adaptive"], ms=5, lw=1.3, label="front")
    place = found["reference_ms"], found["reference"]
    reference = "exact" if _of_frames(found) else "as built, all layers"
    axes.plot(*place, "s", color=colours["masked"], ms=8, label=reference)
    axes.axvline(found["dense_ms"], color=colours["baseline"], lw=1.3, label="dense engine")
    least, most = _limits(found)
    if least is not None:
        axes.axhline(least, color=colours["ideal"], lw=1.2, ls=":", label="budget")
    if most is not None:
        axes.axvline(most, color=colours["ideal"], lw=1.2, ls=":", label="latency budget")
    if found["hold"] is not None:
        axes.axhline(found["hold"], color=colours["muted"], lw=1.2, ls="-.", label="hold the previous frame")
    style = {"mfc": "none", "mec": colours["ink"], "mew": 2, "ls": "none"}
    axes.plot(*_places([found["chosen"]]), "o", ms=14, label="chosen", **style)
    held = found["held_out"]["ms"] or found["chosen"]["ms"], found["held_out"]["quality"]
    axes.plot(*held, "D", color=colours["ink"], ms=5, label=f"chosen, on held-out {found['unit']}")
    single = "a frame" if _of_frames(found) else "single images"
    axes.set(xlabel=f"latency of {single}, ms", ylabel=found["metric"])
    axes.set_xlim(left=0)
    axes.margins(y=0.12)
    axes.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)  # points may be anywhere


def _places(trials: list[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    ordered = sorted(trials, key=lambda t: t["ms"])
    return [t["ms"] for t in ordered], [t["quality"] for t in ordered]


def _limits(found: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The least quality and the largest latency that the budget allows."""
    budget = found["budget"]
    drop = budget["max_drift"] if budget["max_drop"] is None else budget["max_drop"]
    least = budget["min_metric"] if drop is None else found["reference"] - drop
    return least, budget["latency_ms"]
