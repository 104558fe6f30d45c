"""Show or remove what Foveate keeps: measurements of devices (device.json of bundles), and engines for NVIDIA GPUs.

    foveate cache ls build/            every measurement below the folder, and whether it holds for this device
    foveate cache prune build/         remove those that do not, --all for all of them
    foveate cache ls                   the same of the current folder; the engines of the cache, and what was compiled
    foveate cache show 3f2a            what an engine was built from, and what it is
    foveate cache verify               whether engines are what was built
    foveate cache prune                remove what is broken or of another TensorRT, --all for all of it
    foveate cache prune --limit 5GB    and those unused for longest, until the rest takes no more

A bundle without a measurement is measured again when it is first loaded (within 2 s); an engine that is not there is
built again, and what TensorRT-RTX compiled of it on a GPU is compiled again. The cache lies in FOVEATE_CACHE, by
default ~/.cache/foveate, and builds keep it below FOVEATE_CACHE_LIMIT, by default 20GB.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runtime.tensorrt.jit import JitEntry
from .arguments import add_json, print_json

if TYPE_CHECKING:
    from ..measurements import Measurement
    from ..tensorrt.engine_cache import EngineCache, Entry

HELP = "list, check or remove measurements of devices and engines"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("ls", "show", "prune", "verify"))
    about = "a bundle, or a folder of bundles, for its measurements alone; show: the beginning of an engine's name"
    parser.add_argument("what", nargs="?", metavar="FOLDER", help=about)
    parser.add_argument("--all", action="store_true", help="prune: also what is good here")
    about = "prune: also what was unused for longest, until the rest takes no more, e.g. 5GB"
    parser.add_argument("--limit", metavar="BYTES", help=about)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..tensorrt.cache_limit import beyond, read_bytes
    from ..tensorrt.engine_cache import EngineCache

    cache = EngineCache()
    if args.action == "show":
        return _show(cache.get(args.what or ""), args.json)
    if args.action == "verify":
        return _verify(cache, args.json)
    from ..measurements import find, remove

    measured = find(Path(args.what or "."))
    kept: list[Entry | JitEntry] = [] if args.what else [*cache.entries(), *cache.compiled()]
    names = {entry.sidecar.sha256[:32]: entry.sidecar.name for entry in cache.entries() if entry.sidecar}
    prunes = args.action == "prune"
    if prunes:
        measured = [m for m in measured if args.all or not m.holds]
        gone = [k for k in kept if args.all or _not_for_here(k)]
        if args.limit is not None:
            gone += beyond((k for k in kept if k not in gone), read_bytes(args.limit))
        kept = gone
        remove(measured)
    said = [  # while they are there
        _jit_line(k, names.get(k.engine)) if isinstance(k, JitEntry) else _engine_line(k) for k in kept
    ]
    if args.json:
        engines = [_facts(k) for k in kept if not isinstance(k, JitEntry)]
        compiled = [_jit_facts(k) for k in kept if isinstance(k, JitEntry)]
        print_json({"measurements": measured, "engines": engines, "compiled": compiled})
    else:
        _print(measured, said, args, cache)
    for each in kept if prunes else ():
        cache.remove(each)
    return 0


def _print(
    measured: Sequence[Measurement], engines: Sequence[str], args: argparse.Namespace, cache: EngineCache
) -> None:
    verb, none = ("removed  ", "to remove ") if args.action == "prune" else ("", "")
    for m in measured:
        state = "holds here" if m.holds else f"another device ({m.differs})"
        print(f"{verb}{m.path}  {m.bytes} bytes  {state}")
    if not measured:
        print(f"no measurement {none}in {args.what or '.'}")
    for line in engines:
        print(f"{verb}{line}")
    if not engines and args.what is None:
        print(f"no engine {none}in {cache.folder}")


def _show(entry: Entry, as_json: bool) -> int:
    if as_json:
        print_json(_facts(entry))
        return 0
    print(_engine_line(entry))
    for name, value in dataclasses.asdict(entry.key).items() if entry.key else ():
        print(f"  {name:<10} {'; '.join(map(str, value)) if isinstance(value, tuple) else value}")
    if entry.sidecar:
        s = entry.sidecar
        print(f"  {'inputs':<10} {'; '.join(f'{t.name} {t.dtype} {list(t.shape)}' for t in s.inputs)}")
        print(f"  {'outputs':<10} {'; '.join(f'{t.name} {t.dtype} {list(t.shape)}' for t in s.outputs)}")
        print(f"  {'layers':<10} {len(s.layers)}")
        print(f"  {'built in':<10} {s.seconds:.1f} s")
    return 0


def _verify(cache: EngineCache, as_json: bool) -> int:
    """1 where one is not what was built."""
    found = {entry.plan.name: cache.verify(entry) for entry in cache.entries()}
    bad = {name: why for name, why in found.items() if why}
    if as_json:
        print_json({"checked": len(found), "broken": bad})
    else:
        for name, why in bad.items():
            print(f"{name[:12]}  {why}")
        print(f"{len(found) - len(bad)} of {len(found)} engines are what was built, in {cache.folder}")
    return 1 if bad else 0


def _not_for_here(kept: Entry | JitEntry) -> bool:
    """Broken, or of another TensorRT than is installed."""
    from ...runtime.errors import FoveateError
    from ..tensorrt.flavour import RTX, open_flavour

    if isinstance(kept, JitEntry):
        flavour, version = RTX, kept.version
    elif kept.broken or kept.key is None:
        return True
    else:
        flavour, version = kept.key.flavour, kept.key.version
    try:
        return open_flavour(flavour).version != version
    except FoveateError:
        return True


def _jit_line(compiled: JitEntry, name: str | None) -> str:
    of = name or "an engine that the cache has not"
    version = compiled.version or "of no known version"
    return f"{compiled.engine[:12]}  {compiled.bytes} bytes  compiled of {of}  {compiled.compute}  {version}"


def _jit_facts(compiled: JitEntry) -> dict[str, Any]:
    return {**dataclasses.asdict(compiled), "path": str(compiled.path), "bytes": compiled.bytes}


def _engine_line(entry: Entry) -> str:
    name = entry.plan.name[:12]
    if entry.sidecar is None or entry.broken:
        return f"{name}  {entry.bytes} bytes  {entry.broken}"
    s = entry.sidecar
    return f"{name}  {entry.bytes} bytes  {s.name}  {s.precision} {s.compute}  {s.flavour} {s.version}"


def _facts(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.plan.stem,
        "path": str(entry.plan),
        "bytes": entry.bytes,
        "broken": entry.broken,
        "key": dataclasses.asdict(entry.key) if entry.key else None,
        "layers": len(entry.sidecar.layers) if entry.sidecar else None,
        "seconds": entry.sidecar.seconds if entry.sidecar else None,
    }
