"""Reports: report.json (docs/report.md), report.md and a self-contained report.html from one result of `bench`."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from ..runtime.errors import InputError, MissingExtraError
from .files import write_text
from .report_budget import budget_drawings, budget_tables
from .report_exits import exit_drawings, exit_tables
from .report_format import share
from .report_html import html
from .report_page import Page, Picture
from .report_plots import drawings, svgs
from .report_schema import FIELDS, Fields, check_report
from .report_tables import Table, headline, tables


def write_report(result: dict[str, Any], out: str | Path) -> Path:
    """Write report.json, report.md and report.html into the folder `out`, each whole or not at all.

    Without matplotlib (extra `report`) the page has tables and no plots, and says so. Returns report.html's path.
    Raises InputError if `result` does not follow the schema.
    """
    check_report(result)
    return write_pages(result, bench_page(result), _plots, Path(out))


def _plots(result: dict[str, Any]) -> dict[str, str]:
    return svgs({**drawings(result), **budget_drawings(result), **exit_drawings(result)}, result)


def write_pages(
    result: dict[str, Any], page: Page, draw: Callable[[dict[str, Any]], dict[str, str]], folder: Path
) -> Path:
    """As `write_report`, of any result: `page` shows it, `draw` makes its plots by the title of their table."""
    try:
        drawn = draw(result)
    except MissingExtraError as error:
        missing = f"Plots are missing: {error.fix} to have them."
        drawn, page = {}, dataclasses.replace(page, notes=[*page.notes, missing])
    write_text(folder / "report.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_text(folder / "report.md", page_markdown(page))
    write_text(folder / "report.html", html(page, drawn))
    return folder / "report.html"


def read_report(path: str | Path, fields: Fields = FIELDS) -> dict[str, Any]:
    """A report.json of these fields, or the one in a folder. Raises InputError."""
    file = Path(path) / "report.json" if Path(path).is_dir() else Path(path)
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"report {file}",
            got=f"{type(error).__name__}: {error}",
            expected="a report.json",
            fix="Write it with `foveate bench` or `foveate stream`.",
        ) from error
    check_report(result, fields)
    return result


def bench_page(result: dict[str, Any]) -> Page:
    environment, (main, *others) = result["environment"], tables(result)
    gpu = result["gpu"]
    device = gpu["name"] if gpu else f"{environment['cpu']} · {environment['threads']} threads"
    machine = f"{device} · {environment['backend']}"
    return Page(
        name=result["name"],
        title=f"{result['name']}: {result['speedup']:.2f}× as fast as dense",
        about=f"Foveate benchmark · {result['created']} · {machine}",
        headline=headline(result),
        tables=[main, *budget_tables(result), *exit_tables(result), *others],
        notes=result["notes"],
        pictures=[
            Picture(
                ((o["name"], o["image"]), ("what was computed of it", o["kept"])),
                f"{o['name']} · {share(o['active_fraction'])} active",
            )
            for o in result["overlays"]
        ],
        pictures_title="What the masks kept",
        pictures_note="Left the image, right the same with dropped positions dimmed.",
    )


def markdown(result: dict[str, Any]) -> str:
    return page_markdown(bench_page(result))


def page_markdown(page: Page) -> str:
    lines = [f"# {page.name}", ""]
    lines += [f"- **{figure}** {what} ({behind})" for figure, what, behind in page.headline]
    if page.notes:
        lines += ["", *(f"> {note}" for note in page.notes)]
    for table in page.tables:
        lines += ["", f"## {table.title}", "", *markdown_table(table)]
    return "\n".join(lines) + "\n"


def markdown_table(table: Table) -> list[str]:
    rule = ["---", *("---:" if len(table.header) > 2 else "---" for _ in table.header[1:])]
    rows = [table.header, tuple(rule), *table.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return lines + (["", table.note] if table.note else [])


def print_result(result: dict[str, Any], stream: TextIO | None = None) -> None:
    """The headline and the main table: with rich (extra `report`) on a terminal, as plain text otherwise."""
    print_page(bench_page(result), stream)


def print_page(page: Page, stream: TextIO | None = None) -> None:
    """As `print_result`, of any page."""
    target = stream or sys.stdout
    if target.isatty() and _print_rich(page, target):
        return
    for figure, what, behind in page.headline:
        print(f"{figure:>9}  {what} ({behind})", file=target)
    print(file=target)
    print("\n".join(plain_table(page.tables[0])), file=target)
    for note in page.notes:
        print(f"note: {note}", file=target)


def plain_table(table: Table) -> list[str]:
    rows = [table.header, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.header))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "-" * max(map(len, lines)), *lines[1:], *([table.note] if table.note else [])]


def _print_rich(page: Page, stream: TextIO) -> bool:
    """False without rich."""
    try:
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text
    except ImportError:
        return False
    console = Console(file=stream, no_color="NO_COLOR" in os.environ, highlight=False)
    for figure, what, behind in page.headline:
        style = "bold red" if figure == "DIFFERENT" else "bold green" if what == "speedup" else "bold"
        console.print(Text.assemble((f"{figure:>9}", style), f"  {what} ", (f"({behind})", "dim")))
    table = page.tables[0]
    shown = RichTable(title=table.title, caption=table.note, header_style="bold", title_justify="left")
    for number, name in enumerate(table.header):
        shown.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)
    for note in page.notes:
        console.print(Text(f"note: {note}"))
    return True
