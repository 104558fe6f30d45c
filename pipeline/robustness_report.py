"""The report of a robustness test: report.json, report.md and report.html with both curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .report import write_pages
from .report_page import Page
from .report_plots import PALETTE, svgs
from .report_tables import Table
from .robustness import RANKINGS, Robustness

_DELETION, _OCCLUSION = "Deletion", "Occlusion"
_STYLES = {"learned": ("o-", "adaptive"), "magnitude": ("s--", "baseline"), "random": ("^:", "muted")}


def write_robustness(found: Robustness, folder: Path) -> Path:
    """Into the folder; gives report.html's path."""
    drawn = {_DELETION: _draw_deletion, _OCCLUSION: _draw_occlusion}
    return write_pages(found.to_dict(), robustness_page(found), lambda result: svgs(drawn, result), folder)


def robustness_page(found: Robustness) -> Page:
    return Page(
        name=f"Robustness of {found.bundle}",
        title=f"Robustness of {found.bundle}",
        about=f"{found.images} images of {found.data} · {found.metric}, image by image · "
        f"{found.backend}, strategy {found.strategy}",
        headline=_headline(found),
        tables=[_deletion(found), _occlusion(found)],
        notes=[],
    )


def _headline(found: Robustness) -> list[tuple[str, str, str]]:
    lead = found.deletion.ahead["random"]
    magnitude = found.deletion.ahead["magnitude"]
    last = found.occlusion.ahead[-1]
    return [
        (f"{lead.mean:+.3f}", "learned − random", f"area; {lead.low:+.3f} … {lead.high:+.3f}"),
        (
            f"{magnitude.mean:+.3f}",
            "learned − magnitude",
            f"area; {magnitude.low:+.3f} … {magnitude.high:+.3f}",
        ),
        (
            f"{last.mean:+.3f}",
            f"masked − {found.occlusion.unmasked}",
            f"{found.occlusion.occluded[-1]:.0%} covered; {last.low:+.3f} … {last.high:+.3f}",
        ),
    ]


def _deletion(found: Robustness) -> Table:
    deletion = found.deletion
    rows = [
        (f"{removed:.0%} removed", *(f"{deletion.quality[name][i]:.4f}" for name in RANKINGS))
        for i, removed in enumerate(deletion.removed)
    ]
    rows.append(("area", *(f"{deletion.area[name]:.4f}" for name in RANKINGS)))
    note = (
        f"{found.metric} when tokens go, least important first. The mask itself removes {deletion.own_removed:.1%} in "
        f"the mean and leaves {deletion.own_quality:.4f}."
    )
    return Table(_DELETION, ("tokens", *RANKINGS), tuple(rows), note)


def _occlusion(found: Robustness) -> Table:
    occlusion = found.occlusion
    rows = zip(
        (f"{share:.0%} covered" for share in occlusion.occluded),
        (f"{value:.4f}" for value in occlusion.bundle),
        (f"{value:.4f}" for value in occlusion.without_masks),
        (f"{d.mean:+.4f} ({d.low:+.4f} … {d.high:+.4f})" for d in occlusion.ahead),
        (f"{share:.1%}" for share in occlusion.active),
        strict=True,
    )
    header = ("image", "bundle", occlusion.unmasked, "difference (95 %)", "active")
    note = f"{found.metric} with random blocks covered by the image's mean colour, the same for both."
    return Table(_OCCLUSION, header, tuple(rows), note)


def _draw_deletion(axes: Any, result: dict[str, Any]) -> None:
    deletion = result["deletion"]
    removed = [100 * share for share in deletion["removed"]]
    for name, (style, colour) in _STYLES.items():
        label = f"{name}, area {deletion['area'][name]:.3f}"
        axes.plot(removed, deletion["quality"][name], style, color=PALETTE[colour], ms=5, label=label)
    point = 100 * deletion["own_removed"], deletion["own_quality"]
    axes.plot(*point, "*", color=PALETTE["masked"], ms=15, ls="none", label="the mask itself")
    axes.set(xlim=(0, 100), xlabel="tokens removed, %", ylabel=result["metric"])
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left")


def _draw_occlusion(axes: Any, result: dict[str, Any]) -> None:
    occlusion = result["occlusion"]
    covered = [100 * share for share in occlusion["occluded"]]
    axes.plot(covered, occlusion["bundle"], "o-", color=PALETTE["adaptive"], ms=5, label="bundle")
    other = {"color": PALETTE["baseline"], "ms": 5, "label": occlusion["unmasked"]}
    axes.plot(covered, occlusion["without_masks"], "s--", **other)
    axes.set(xlabel="image covered, %", ylabel=result["metric"])
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left")
