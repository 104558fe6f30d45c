"""Engines that were built before, by what they were built from.

A key is a few fields in clear text, and an engine's name is their hash. Nothing that changes an engine is left out, and
sets are sorted, so that the same build has the same key in every process. The fields lie beside the engine: a miss says
what differs, and an entry of an older schema is one.

What the cache may take is bounded: a build that adds to it removes what was unused for longest, of engines and of what
TensorRT-RTX compiled of them on a GPU (jit/, beside).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...runtime.bundle import hash_file
from ...runtime.decode import decode
from ...runtime.errors import EngineError, InputError
from ...runtime.files import cache_folder, replacing
from ...runtime.tensorrt.jit import FOLDER as JIT
from ...runtime.tensorrt.jit import JitEntry, jit_entries
from .cache_limit import beyond, cache_limit
from .profiles import Profile, Profiles
from .sidecar import Sidecar, read_sidecar

SCHEMA = 2
PLAN, SIDECAR = ".plan", ".json"


@dataclass(frozen=True)
class Key:
    """What an engine is built from. `onnx`: sha256 of the file with its weights; `plugins`: with the sha256 of
    their library."""

    onnx: str
    flavour: str
    version: str
    compute: str  # "sm89", "any"
    precision: str
    profiles: tuple[
        str, ...
    ]  # each "images [1, 3, 32, 32] [1, 3, 224, 224] [16, 3, 512, 512]", inputs sorted
    flags: tuple[str, ...] = ()  # of the builder, sorted
    plugins: tuple[str, ...] = ()  # sorted
    schema: int = SCHEMA

    @property
    def digest(self) -> str:
        """The name of its engine."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def make_key(
    onnx: str,
    flavour: str,
    version: str,
    compute: str,
    precision: str,
    profiles: Profiles,
    flags: Iterable[str] = (),
    plugins: Iterable[str] = (),
) -> Key:
    return Key(
        onnx,
        flavour,
        version,
        compute,
        precision,
        tuple(map(_told_profile, profiles)),
        tuple(sorted(flags)),
        tuple(sorted(plugins)),
    )


def _told_profile(profile: Profile) -> str:
    return ", ".join(sorted(f"{n} {' '.join(str(list(s)) for s in shapes)}" for n, shapes in profile.items()))


@dataclass(frozen=True)
class Entry:
    """An engine of the cache. `key` is None where its file says none that this version reads; `broken` says why it
    cannot be used."""

    plan: Path
    key: Key | None
    sidecar: Sidecar | None
    broken: str = ""

    @property
    def path(self) -> Path:
        return self.plan

    @property
    def bytes(self) -> int:
        return self.plan.stat().st_size if self.plan.is_file() else 0


class EngineCache:
    """A folder of engines and their sidecars. Entries appear whole, so processes may share it."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder or cache_folder("engines")

    def find(self, key: Key) -> tuple[Entry | None, str]:
        """The engine of this key, and in words why it is one or what differs from the one most alike."""
        path = self.folder / f"{key.digest}{PLAN}"
        if path.is_file():
            entry = self._entry(path)
            if not entry.broken:
                with contextlib.suppress(OSError):  # a cache that is only read
                    os.utime(path)
                return entry, f"hit: {path.name[:12]}"
            return None, f"miss: {path.name[:12]} is broken ({entry.broken})"
        return None, f"miss: {self._explain(key)}"

    def add(self, key: Key, plan: bytes, sidecar: Sidecar) -> Path:
        """The path of the plan, which the sidecar lies beside. Raises EngineError where the cache cannot be written,
        InputError for a limit that is none."""
        limit, path = cache_limit(), self.folder / f"{key.digest}{PLAN}"
        facts = {"key": dataclasses.asdict(key), "sidecar": dataclasses.asdict(sidecar)}
        try:
            with replacing(path.with_suffix(SIDECAR)) as temporary:
                temporary.write_text(json.dumps(facts, indent=1), encoding="utf-8")
            with replacing(path) as temporary:  # last: an entry is there when its plan is
                temporary.write_bytes(plan)
        except OSError as error:
            raise EngineError(
                f"engine cache {self.folder}",
                got=f"{type(error).__name__}: {error.strerror or error}",
                expected="a folder that can be written",
                fix="Check the permissions and the free space, or set FOVEATE_CACHE to another folder.",
            ) from error
        for kept in beyond([*self.entries(), *self.compiled()], limit):
            self.remove(kept)
        return path

    def entries(self) -> Iterator[Entry]:
        """By name. What is broken or of another schema is among them."""
        for path in sorted(self.folder.glob(f"[!.]*{PLAN}")):  # not what is being written
            yield self._entry(path)

    def compiled(self) -> Iterator[JitEntry]:
        """What TensorRT-RTX compiled of these engines and of others, by name."""
        yield from jit_entries(self.folder.parent / JIT)

    def get(self, start: str) -> Entry:
        """The one whose name starts so. Raises InputError."""
        found = [entry for entry in self.entries() if entry.plan.name.startswith(start)]
        if len(found) != 1 or not start:
            raise InputError(
                f"engine {start!r}",
                got=f"{len(found)} of that name in {self.folder}" if start else "no name",
                expected="the first characters of one",
                fix="`foveate cache ls` lists them.",
            )
        return found[0]

    def verify(self, entry: Entry) -> str:
        """Why an entry cannot be used; "" where its plan is what was built."""
        if entry.broken or entry.sidecar is None:
            return entry.broken
        return "" if hash_file(entry.plan) == entry.sidecar.sha256 else "its sha256 is not what was built"

    def remove(self, kept: Entry | JitEntry) -> None:
        paths = (kept.path, kept.path.with_suffix(SIDECAR)) if isinstance(kept, Entry) else (kept.path,)
        for path in paths:
            path.unlink(missing_ok=True)

    def _entry(self, path: Path) -> Entry:
        try:
            facts = json.loads(path.with_suffix(SIDECAR).read_text(encoding="utf-8"))
            if facts["key"]["schema"] != SCHEMA:
                return Entry(
                    path, None, None, f"schema {facts['key']['schema']}, this version reads {SCHEMA}"
                )
            key, sidecar = decode(Key, facts["key"]), read_sidecar(facts["sidecar"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return Entry(path, None, None, f"its sidecar is unreadable ({type(error).__name__})")
        if key.digest != path.stem:
            return Entry(path, None, None, "its sidecar belongs to another engine")
        short = path.stat().st_size != sidecar.bytes
        return Entry(path, key, sidecar, f"{path.stat().st_size} bytes of {sidecar.bytes}" if short else "")

    def _explain(self, key: Key) -> str:
        """The fields in which the entry most alike differs."""
        found = [
            differences(entry.key, key)
            for entry in self.entries()
            if entry.key and entry.key.onnx == key.onnx
        ]
        if not found:
            return "no engine of this ONNX file"
        return "; ".join(min(found, key=len))


def differences(old: Key, new: Key) -> list[str]:
    """Field by field, old -> new."""
    fields = [f.name for f in dataclasses.fields(Key)]
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in fields]
    return [f"{name} {_shown(a)} -> {_shown(b)}" for name, a, b in pairs if a != b]


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
