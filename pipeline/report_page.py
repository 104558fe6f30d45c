"""What a report shows, whatever it reports on and in whichever form: console, Markdown or HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .report_tables import Table


@dataclass(frozen=True)
class Picture:
    """Images side by side as (alternative text, data URI), with a caption."""

    images: tuple[tuple[str, str], ...]
    caption: str


@dataclass(frozen=True)
class Page:
    """`headline`: (figure, what it is, what stands behind it), most important first. The first of `tables` is the main
    one, after which the pictures stand."""

    name: str
    title: str
    about: str
    headline: Sequence[tuple[str, str, str]]
    tables: Sequence[Table]
    notes: Sequence[str]
    pictures: Sequence[Picture] = ()
    pictures_title: str = ""
    pictures_note: str = ""
