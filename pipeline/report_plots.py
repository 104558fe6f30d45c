"""The report's plots as inline SVG whose colours are the page's CSS variables, so that they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..runtime.errors import MissingExtraError
from .files import replacing
from .report_format import ms
from .report_tables import SHAPES, contenders

# Colours that matplotlib writes into the SVG, and the CSS variables that take their place.
PALETTE = {
    "ink": "#010101",
    "muted": "#020202",
    "grid": "#030303",
    "adaptive": "#040404",
    "baseline": "#050505",
    "masked": "#060606",
    "ideal": "#070707",
    "paper": "#080808",
}
Draw = Callable[[Any, dict[str, Any]], None]  # (axes, result)
Colours = Mapping[str, str]  # by the names of PALETTE
PAPER: Colours = {  # for files outside of the page
    "ink": "#1a1f26",
    "muted": "#66707d",
    "grid": "#e3e6ea",
    "adaptive": "#0b7a75",
    "baseline": "#c2410c",
    "masked": "#8a6d9e",
    "ideal": "#3b6fb5",
    "paper": "#ffffff",
}


def drawings(result: dict[str, Any]) -> dict[str, Draw]:
    """Those of any result of `bench`, by the title of their table."""
    chosen: dict[str, Draw] = {"Where the time goes": _waterfall}
    if result["sweep"]:
        chosen["Speedup against active fraction"] = _speedup
    if result["tradeoff"]:
        chosen["Accuracy against latency"] = _accuracy
    if result["shapes"]:
        chosen[SHAPES] = _shapes
    return chosen


def svgs(chosen: Mapping[str, Draw], result: dict[str, Any]) -> dict[str, str]:
    """SVG elements by title; their ids do not clash. Raises MissingExtraError without matplotlib."""
    return {title: _svg(draw, result, f"plot{number}") for number, (title, draw) in enumerate(chosen.items())}


def _svg(draw: Draw, result: dict[str, Any], salt: str) -> str:
    with _figure(PALETTE, salt) as (figure, axes):
        draw(axes, result)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(out.getvalue())


def save_png(draw: Draw, result: dict[str, Any], path: Path) -> None:
    """`draw` takes its colours from PAPER. Raises MissingExtraError without matplotlib."""
    with _figure(PAPER) as (figure, axes), replacing(path) as temporary:
        draw(axes, result)
        figure.savefig(temporary, format="png", dpi=150, facecolor=PAPER["paper"])


def _style(colours: Colours) -> dict[Any, Any]:
    return {
        "font.family": "sans-serif",
        "font.size": 11,
        "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
        "text.color": colours["ink"],
        "axes.labelcolor": colours["ink"],
        "axes.edgecolor": colours["muted"],
        "xtick.color": colours["muted"],
        "ytick.color": colours["muted"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": colours["grid"],
        "grid.linewidth": 0.8,
        "axes.axisbelow": True,
        "lines.linewidth": 2,
        "legend.frameon": False,
        "figure.figsize": (7.2, 4.2),
    }


@contextmanager
def _figure(colours: Colours, salt: str = "") -> Iterator[tuple[Any, Any]]:
    """A figure of its own backend: pyplot's global state and the user's display stay untouched."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "plots of the report") from error
    with matplotlib.rc_context({**_style(colours), "svg.hashsalt": salt}):
        figure = Figure(layout="constrained")
        yield figure, figure.subplots()


def _inline(svg: str) -> str:
    """Without XML header, document type and metadata; colours and font from the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*"', r'\1role="img"', svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    for name, colour in PALETTE.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def _speedup(axes: Any, result: dict[str, Any]) -> None:
    points = sorted(result["sweep"], key=lambda p: p["active_fraction"])
    active = [100 * p["active_fraction"] for p in points]
    forced = [p["dense_ms"] / p["selective_ms"] for p in points]
    low, high = zip(*(p["speedup_interval"] for p in points), strict=True)
    speedups = [p["speedup"] for p in points]
    bound = max(*high, *forced, result["speedup"], 1.5) * 1.35
    ideal = [min(p["ideal_speedup"], 1e6) for p in points]
    curve = [x / 10 for x in range(5, 1001)]
    axes.plot(
        curve, [100 / x for x in curve], ":", color=PALETTE["muted"], lw=1.3, label="1 ÷ active fraction"
    )
    axes.plot(active, ideal, "--", color=PALETTE["ideal"], label="ideal: dense work ÷ active work")
    axes.fill_between(active, low, high, color=PALETTE["adaptive"], alpha=0.2, lw=0)
    axes.plot(active, forced, "-", color=PALETTE["masked"], lw=1.3, label="selective, forced")
    axes.plot(active, speedups, "o-", color=PALETTE["adaptive"], ms=5, label="Foveate (auto), 95 % interval")
    axes.axhline(1, color=PALETTE["baseline"], lw=1.3)
    axes.annotate(
        "baseline", (100, 1), (0, 4), textcoords="offset points", ha="right", color=PALETTE["baseline"]
    )
    if result["break_even"] is not None and 0 < result["break_even"] < 1:
        axes.axvline(100 * result["break_even"], color=PALETTE["muted"], lw=1, ls="-.")
        text = f" break-even {100 * result['break_even']:.0f} %"
        axes.annotate(text, (100 * result["break_even"], 0.5 * bound), color=PALETTE["muted"])
    _star(axes, 100 * result["active_fraction"], result["speedup"], "own threshold")
    axes.set(
        xlim=(0, 100), ylim=(0, bound), xlabel="active fraction, %", ylabel="speedup over the baseline, ×"
    )
    axes.legend(loc="upper right")


def _shapes(axes: Any, result: dict[str, Any]) -> None:
    """ms an image of each shape, side by side."""
    points, width = result["shapes"], 0.4
    for offset, name, colour in ((-width / 2, "dense", "baseline"), (width / 2, "adaptive", "adaptive")):
        places = [number + offset for number in range(len(points))]
        heights = [point[f"{name}_ms"] for point in points]
        drawn = axes.bar(places, heights, width, color=PALETTE[colour], label=contenders(result)[name])
        if name == "adaptive":
            labels = [f"{point['speedup']:.2f}×" for point in points]
            axes.bar_label(drawn, labels=labels, padding=3, color=PALETTE["ink"], fontsize=9)
    labels = [f"{point['batch']} of\n{point['height']}×{point['width']}" for point in points]
    axes.set_xticks(range(len(points)), labels)
    axes.grid(axis="x", visible=False)
    axes.set(ylabel="ms an image")
    axes.margins(y=0.15)
    axes.legend(loc="upper right")


def _accuracy(axes: Any, result: dict[str, Any]) -> None:
    points = sorted(result["tradeoff"], key=lambda p: p["active_fraction"])
    accuracy = result["accuracy"]
    axes.plot(
        [p["ms"] for p in points],
        [p["accuracy"] for p in points],
        "o-",
        color=PALETTE["adaptive"],
        ms=5,
        label="Foveate, one threshold for all images",
    )
    for number, p in enumerate(points):
        axes.annotate(
            f"{100 * p['active_fraction']:.0f} %",
            (p["ms"], p["accuracy"]),
            (0, -15 if number % 2 else 8),
            textcoords="offset points",
            ha="center",
            color=PALETTE["muted"],
            fontsize=9,
        )
    _star(axes, result["adaptive_ms"], accuracy["adaptive"], "own threshold")
    if result["baseline"]["kind"] == "unmasked":
        style: dict[str, Any] = {"color": PALETTE["baseline"], "ms": 9, "label": "baseline, dense"}
        axes.plot(result["dense_ms"], accuracy["dense"], "s", **style)
    style = {"color": PALETTE["masked"], "ms": 8, "label": contenders(result)["masked_dense"]}
    axes.plot(result["masked_dense_ms"], accuracy["masked_dense"], "D", **style)
    axes.set(xlabel="latency, ms an image", ylabel=accuracy["metric"])
    axes.set_xlim(left=0)
    axes.margins(y=0.15)
    axes.legend(loc="lower right")


def _star(axes: Any, x: float, y: float, label: str) -> None:
    style = {"mec": PALETTE["paper"], "mew": 1, "ls": "none", "zorder": 5}
    axes.plot(x, y, "*", color=PALETTE["adaptive"], ms=17, label=label, **style)


def _waterfall(axes: Any, result: dict[str, Any]) -> None:
    """Each part starts where the one before it ended; the dense contenders stand above for scale."""
    start, rows = 0.0, []
    if result["baseline"]["kind"] == "unmasked":
        rows.append(("baseline, dense", 0.0, result["dense_ms"], PALETTE["baseline"]))
    rows.append((contenders(result)["masked_dense"], 0.0, result["masked_dense_ms"], PALETTE["masked"]))
    for part in result["waterfall"]:
        rows.append((part["part"], start, part["ms"], PALETTE["adaptive"]))
        start += part["ms"]
    bars(axes, rows)


def bars(axes: Any, rows: Sequence[tuple[str, float, float, str]]) -> None:
    """One below the other: (label, ms where it starts, ms, colour)."""
    labels, starts, widths, colours = zip(*rows, strict=True)
    drawn = axes.barh(range(len(rows)), widths, left=starts, color=colours, height=0.62)
    axes.bar_label(drawn, labels=[ms(width) for width in widths], padding=4, color=PALETTE["ink"], fontsize=9)
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="ms an image", xlim=(0, 1.12 * max(s + w for s, w in zip(starts, widths, strict=True))))
