"""report.html: one page that needs nothing but itself (styles, plots and pictures inside), light and dark."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from .report_page import Page, Picture
from .report_tables import Table

_CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --card: #f5f6f8; --ink: #1a1f26; --muted: #66707d; --grid: #e3e6ea;
  --adaptive: #0b7a75; --baseline: #c2410c; --masked: #8a6d9e; --ideal: #3b6fb5; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1d2228; --ink: #e8eaed; --muted: #9aa4b0;
  --grid: #2e353d; --adaptive: #3fc1b0; --baseline: #f59e6b; --masked: #c4a5dc; --ideal: #8ab4f0; --bad: #ff8a80; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0; letter-spacing: -.01em } h2 { font-size: 1.15rem; margin: 2.6rem 0 .7rem }
p.sub, .note { color: var(--muted) } p.sub { margin: .2rem 0 1.6rem } .note { font-size: .87rem; margin: .5rem 0 0 }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem }
.card { background: var(--card); border-radius: .7rem; padding: .9rem 1rem }
.card b { display: block; font-size: 1.75rem; line-height: 1.2; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums }
.card:first-child b { color: var(--adaptive) } .card.bad b { color: var(--bad) }
.card i { font-style: normal; font-weight: 600; font-size: .92rem }
.card span { display: block; color: var(--muted); font-size: .82rem; line-height: 1.4; margin-top: .25rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { text-align: right; padding: .38rem .7rem; border-bottom: 1px solid var(--grid); white-space: nowrap;
  font-variant-numeric: tabular-nums }
th { color: var(--muted); font-weight: 600 } th:first-child, td:first-child { text-align: left; padding-left: 0 }
table.pair td:last-child, table.pair th:last-child { text-align: left; white-space: normal; overflow-wrap: anywhere }
ul.notes { background: var(--card); border-left: 4px solid var(--baseline); border-radius: .4rem; margin: 1.4rem 0 0;
  padding: .8rem 1rem .8rem 2rem } ul.notes li { margin: .2rem 0 }
figure { margin: 0 } figcaption { color: var(--muted); font-size: .82rem; overflow-wrap: anywhere }
figure.plot { background: var(--card); border-radius: .7rem; padding: .8rem; margin-bottom: .8rem }
figure.plot svg { display: block; width: 100%; max-width: 47rem; height: auto; margin: 0 auto }
.overlays { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem }
.two { display: flex; gap: .35rem; margin-bottom: .3rem }
.two img { flex: 1; min-width: 0; border-radius: .4rem; display: block }
"""


def html(page: Page, plots: Mapping[str, str]) -> str:
    """`plots`: SVG elements by the title of the table that they belong to."""
    sections = [_section(table, plots.get(table.title, "")) for table in page.tables]
    parts = [
        f"<h1>{escape(page.title)}</h1>",
        f'<p class="sub">{escape(page.about)}</p>',
        _cards(page),
        _notes(page),
        *sections[:1],
        _pictures(page),
        *sections[1:],
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def _cards(page: Page) -> str:
    cards = []
    for figure, what, behind in page.headline:
        bad = ' class="card bad"' if figure == "DIFFERENT" else ' class="card"'
        cards.append(
            f"<div{bad}><b>{escape(figure)}</b><i>{escape(what)}</i><span>{escape(behind)}</span></div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _notes(page: Page) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in page.notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _section(table: Table, plot: str) -> str:
    figure = f'<figure class="plot">{plot}</figure>' if plot else ""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    kind = ' class="pair"' if len(table.header) == 2 else ""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f"<section><h2>{escape(table.title)}</h2>{figure}"
        f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"{note}</section>"
    )


def _pictures(page: Page) -> str:
    figures = "".join(_figure(picture) for picture in page.pictures)
    if not figures:
        return ""
    note = f'<p class="note">{escape(page.pictures_note)}</p>'
    return f'<section><h2>{escape(page.pictures_title)}</h2><div class="overlays">{figures}</div>{note}</section>'


def _figure(picture: Picture) -> str:
    images = "".join(f'<img alt="{escape(alt)}" src="{escape(uri)}">' for alt, uri in picture.images)
    return (
        f'<figure><div class="two">{images}</div><figcaption>{escape(picture.caption)}</figcaption></figure>'
    )
