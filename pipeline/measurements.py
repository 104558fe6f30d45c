"""Measured costs of bundles (device.json) found on disk, and whether they hold for this device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..runtime.costs import fingerprint, parse_costs
from ..runtime.errors import InputError
from ..runtime.native.library import native_isa


@dataclass(frozen=True)
class Measurement:
    """`differs` names what the fingerprint has otherwise than this device; empty where it holds."""

    path: Path
    bytes: int
    differs: str

    @property
    def holds(self) -> bool:
        return not self.differs


def find(folder: Path) -> list[Measurement]:
    """Every device.json that lies beside a manifest.json in or below `folder`. Raises InputError."""
    if not folder.is_dir():
        raise InputError(
            f"folder {folder}", got="none", expected="a bundle or a folder of bundles", fix="Check it."
        )
    paths = sorted(p for p in folder.rglob("device.json") if (p.parent / "manifest.json").is_file())
    return [Measurement(p, p.stat().st_size, _difference(p)) for p in paths]


def remove(found: Iterable[Measurement]) -> None:
    for measurement in found:
        measurement.path.unlink(missing_ok=True)


def _difference(path: Path) -> str:
    """The number of threads is the caller's to choose at load, so it may differ."""
    try:
        known = parse_costs(path.read_text(encoding="utf-8")).fingerprint
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "unreadable"
    isa = "" if known.get("native", "none") == "none" else native_isa()
    here = fingerprint(int(known.get("threads", "0")), known.get("backend", "ort"), isa)
    return ", ".join(sorted(k for k in {*known, *here} if known.get(k) != here.get(k)))
