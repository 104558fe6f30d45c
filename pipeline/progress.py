"""What the user sees while stages run: one line per finished stage, a spinner on a terminal only.

    ✓ export      3.2 s   42.1 MB
    · calibrate   unchanged
    ✗ verify      1.1 s

Lines go to standard error, so that standard output holds facts alone (`--json`). NO_COLOR is respected.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

_COLORS = {"✓": "32", "✗": "31", "·": "2"}
_PLAIN = {"✓": "ok", "✗": "failed", "·": "-"}  # where the terminal's encoding has no such signs


T = TypeVar("T")


def ticking(items: Iterable[T], tick: Callable[[], None]) -> Iterator[T]:
    """The items; `tick` is called when one is done."""
    for item in items:
        yield item
        tick()


class Stage:
    """A running stage. `note` is appended to its line; `tick()` counts towards `count` on a terminal."""

    def __init__(self, name: str, count: int | None = None, spinner: Any = None):
        self.name, self.note, self.count, self._done, self._spinner = name, "", count, 0, spinner

    def tick(self) -> None:
        self._done += 1
        if self._spinner is not None:
            self._spinner.update(f"{self.name}  {self._done}" + (f"/{self.count}" if self.count else ""))


class Progress:
    def __init__(self, quiet: bool = False, stream: TextIO | None = None):
        self.quiet, self.stream = quiet, stream or sys.stderr
        self._terminal = not quiet and self.stream.isatty()

    @contextlib.contextmanager
    def stage(self, name: str, count: int | None = None) -> Iterator[Stage]:
        """Times what runs inside and prints its line, also when it raises."""
        start = time.monotonic()
        with self._spinner(name) as spinner:
            stage, sign = Stage(name, count, spinner), "✗"
            try:
                yield stage
                sign = "✓"
            finally:
                if spinner is not None:
                    spinner.stop()
                self._line(sign, name, f"{time.monotonic() - start:.1f} s", stage.note)

    def skipped(self, name: str, why: str = "unchanged") -> None:
        self._line("·", name, why)

    def note(self, text: str) -> None:
        if not self.quiet:
            print(f"note: {text}", file=self.stream)

    def _line(self, sign: str, name: str, *parts: str) -> None:
        if self.quiet:
            return
        encoding = (self.stream.encoding or "ascii").lower()
        shown = sign if encoding.startswith("utf") else _PLAIN[sign]
        if self._terminal and "NO_COLOR" not in os.environ:
            shown = f"\x1b[{_COLORS[sign]}m{shown}\x1b[0m"
        print(f"{shown} {name:<10}", *(f"{part:>8}" for part in parts if part), file=self.stream, flush=True)

    def _spinner(self, name: str):
        if not self._terminal:
            return contextlib.nullcontext()
        try:
            from rich.console import Console
        except ImportError:
            return contextlib.nullcontext()
        return Console(file=self.stream).status(name)


class Parts(Progress):
    """The stages of a stage: they tick that one, and have no lines of their own."""

    def __init__(self, whole: Stage):
        super().__init__(quiet=True)
        self._whole = whole

    @contextlib.contextmanager
    def stage(self, name: str, count: int | None = None) -> Iterator[Stage]:
        with super().stage(name, count) as part:
            part.tick = self._whole.tick
            yield part


def size_of(path: Path) -> str:
    """Bytes of a file, or of a folder's files, in words: "42.1 MB"."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    size = float(sum(p.stat().st_size for p in files))
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
