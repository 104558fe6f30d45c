"""The report's tables and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..report_budget import budget_drawings, budget_tables
from ..report_format import NOT_AVAILABLE, error, ms, share, tail, times
from ..report_page import Page, Picture
from ..report_plots import PALETTE, svgs
from ..report_tables import Table, environment_table
from .run import worst_output

TIMES, ERRORS = "Speed", "Error against the dense program"
CONTENDERS = {"dense": "dense", "stream": "Foveate, stream"}


def stream_page(result: dict[str, Any]) -> Page:
    environment = result["environment"]
    faster = f": {result['speedup']:.2f}× as fast as dense" if result["speedup"] else ""
    return Page(
        name=result["name"],
        title=f"{result['name']} on {Path(result['settings']['data']).name}{faster}",
        about=f"Foveate stream · {result['created']} · {environment['cpu']} · {environment['threads']} threads",
        headline=_headline(result),
        tables=[
            _times(result),
            *([_errors(result)] if result["errors"] else []),
            *budget_tables(result),
            _frames(result),
            _paced(result),
            environment_table(result),
        ],
        notes=result["notes"],
        pictures=[
            Picture(
                ((f"frame {p['frame']}", p["image"]),),
                f"frame {p['frame']} · {share(p['changed'])} of the positions · {share(p['work'])} of the work",
            )
            for p in result["pictures"]
        ],
        pictures_title="What was computed",
        pictures_note="Tinted: what changed by the policy. Layers behind compute what this reaches.",
    )


def stream_plots(result: dict[str, Any]) -> dict[str, str]:
    """SVG elements by the title of their table. Raises MissingExtraError."""
    errors = {ERRORS: _draw_errors} if worst_output(result["errors"]) else {}
    return svgs({TIMES: _draw_times, **errors, **budget_drawings(result)}, result)


def _headline(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(figure, what it is, what stands behind it), most important first."""
    worst, paced, lines = worst_output(result["errors"]), result["paced"], []
    if result["speedup"] is not None:
        low, high = result["speedup_interval"]
        lines.append((times(result["speedup"]), "speedup", f"95 % interval {times(low)} to {times(high)}"))
    unsaved = f"{share(result['unsaved'])} of it cannot be saved"
    lines.append(
        (share(result["work"]), "of the work", f"{share(result['changed'])} of the positions; {unsaved}")
    )
    if worst is not None:
        held = (
            f"{share(worst['of_hold'], 0)} of holding the previous output's"
            if worst["of_hold"] is not None
            else ""
        )
        behind = f"of the range of {worst['output']}; {held or 'nothing moved that could be held'}"
        lines.append((_small(worst["relative_mean"]), "mean error", behind))
    if result["exact"] is not None:
        largest = max((e["relative_max"] or 0.0 for e in result["errors"]), default=0.0)
        behind = f"largest error {error(largest)} of the range"
        lines.append(("equal" if result["exact"] else "DIFFERENT", "to the dense program", behind))
    stream, dense = paced["stream"], paced["dense"]
    behind = (
        f"{paced['streams']} × {paced['fps']:g} frames a second, {stream['misses']} of {stream['frames']}"
    )
    behind += f"; dense {share(dense['misses'] / dense['frames'])}" if dense else ""
    lines.append((share(stream["misses"] / stream["frames"]), "deadlines missed", behind))
    return lines


def _times(result: dict[str, Any]) -> Table:
    latency = result["latency"]
    rows = [
        (
            label,
            ms(latency[name]["mean_ms"]),
            NOT_AVAILABLE
            if result["speedup"] is None
            else times(result["speedup"] if name == "stream" else 1.0),
            ms(latency[name]["cpu_ms"]),
            *(tail(latency[name][f"p{p}_ms"]) for p in (50, 90, 99)),
        )
        for name, label in CONTENDERS.items()
        if name in latency
    ]
    settings, dense = result["settings"], result["dense_settings"]
    note = f"{result['frames']} frames, {settings['threads']} threads, input {'×'.join(map(str, settings['shape']))}. "
    note += f"Frame by frame in turns; dense: onnxruntime, {dense}." if dense else "Nothing was compared."
    return Table(TIMES, ("", "mean ms", "speedup", "CPU ms", "p50 ms", "p90 ms", "p99 ms"), tuple(rows), note)


def _errors(result: dict[str, Any]) -> Table:
    rows = tuple(
        (
            e["output"],
            f"{e['range']:.4g}",
            error(e["mean"]),
            _tail(e["p99"]),
            error(e["max"]),
            _small(e["relative_mean"]),
            error(e["hold"]["mean"]),
            _tail(e["hold"]["p99"]),
            error(e["hold"]["max"]),
            NOT_AVAILABLE if e["of_hold"] is None else f"{e['of_hold']:.2f}",
        )
        for e in result["errors"]
    )
    header = (
        "output",
        "range",
        "mean",
        "p99",
        "max",
        "mean ÷ range",
        "hold mean",
        "hold p99",
        "hold max",
        "mean ÷ hold",
    )
    note = "Hold: the dense output of the frame before, which costs nothing."
    if drift := result["drift"]:
        first, last = _small(drift["first"]), _small(drift["last"])
        note += f" Drift: {first} of the range over the first third of the frames, {last} over the last."
    return Table(ERRORS, header, rows, note)


def _small(value: float | None) -> str:
    """A share that may be of rounding alone."""
    return error(value) if value is not None and value < 1e-5 else share(value, 3)


def _tail(value: float | str | None) -> str:
    return value if isinstance(value, str) else error(value)


def _frames(result: dict[str, Any]) -> Table:
    whole = ", ".join(f"{count} {reason}" for reason, count in result["whole"].items())
    used = ", ".join(f"{name} {share(value)}" for name, value in result["strategies"].items())
    policy = ", ".join(f"{name} {_plain(value)}" for name, value in result["policy"].items())
    rows = (
        ("frames", str(result["frames"])),
        ("policy", policy or "exact"),
        ("mode", result["mode"]),
        ("positions computed", share(result["changed"])),
        ("work", share(result["work"])),
        ("work that cannot be saved", share(result["unsaved"])),
        ("in the way", result["barrier"] or "nothing"),
        ("computed whole", whole or "none"),
        ("strategies", used),
        ("state of one stream", f"{result['state_bytes'] / 1e6:.1f} MB"),
    )
    return Table("Frames", ("", "value"), rows)


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _paced(result: dict[str, Any]) -> Table:
    paced = result["paced"]
    rows = tuple(
        (
            label,
            str(paced[name]["frames"]),
            str(paced[name]["misses"]),
            share(paced[name]["misses"] / paced[name]["frames"]),
            f"{paced[name]['load']:.2f}",
            ms(paced[name]["latest_ms"]),
        )
        for name, label in CONTENDERS.items()
        if paced[name]
    )
    header = ("", "frames", "missed", "share", "load", "latest ms")
    note = f"{paced['streams']} streams of {paced['fps']:g} frames a second, served in order of arrival, none dropped: "
    note += "measured times, arrivals on a virtual clock. Missed: not done when the stream's next frame came."
    return Table("Deadlines", header, rows, note)


def _draw_times(axes: Any, result: dict[str, Any]) -> None:
    series = result["series"]
    axes.plot(series["ms"], color=PALETTE["adaptive"], lw=1.2, label="stream, ms")
    if series["dense_ms"]:
        axes.plot(
            series["compared"], series["dense_ms"], color=PALETTE["baseline"], lw=1.2, label="dense, ms"
        )
    axes.set(xlabel="frame", ylabel="ms", ylim=(0, 1.25 * max(*series["ms"], *series["dense_ms"], 0.0)))
    beside = axes.twinx()
    beside.fill_between(
        range(result["frames"]), [100 * w for w in series["work"]], color=PALETTE["ideal"], alpha=0.25, lw=0
    )
    beside.set(ylabel="work, %", ylim=(0, 105))
    beside.grid(visible=False)
    beside.spines.right.set_visible(True)
    axes.set_zorder(1)
    axes.patch.set_visible(False)
    _legend(axes)


def _draw_errors(axes: Any, result: dict[str, Any]) -> None:
    worst = worst_output(result["errors"])
    assert worst is not None
    for key, label, colour in (
        ("means", "stream", "adaptive"),
        ("hold_means", "hold the previous output", "baseline"),
    ):
        points = [
            (frame, 100 * mean / worst["range"])
            for frame, mean in zip(result["series"]["compared"], worst[key], strict=True)
            if mean is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), color=PALETTE[colour], lw=1.4, label=label)
    axes.set(xlabel="frame", ylabel=f"mean error of {worst['output']}, % of its range")
    axes.set_ylim(bottom=0)
    _legend(axes)


def _legend(axes: Any) -> None:
    """Above the plot: lines may be anywhere in it."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
