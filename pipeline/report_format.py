"""Figures in words, the same in console, Markdown and HTML."""

from __future__ import annotations

NOT_AVAILABLE = "n/a"


def ms(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def times(value: float) -> str:
    return f"{value:.2f}×" if value < 100 else f"{value:.0f}×"


def share(value: float | None, digits: int = 1) -> str:
    return NOT_AVAILABLE if value is None else f"{100 * value:.{digits}f} %"


def figure(value: float) -> str:
    return f"{value:.4f}"


def error(value: float | None) -> str:
    return NOT_AVAILABLE if value is None else f"{value:.1e}" if value else "0"


def tail(value: float | str) -> str:
    return value if isinstance(value, str) else ms(value)
