"""Show or remove what was measured on this or other devices: device.json of bundles.

    foveate cache ls build/            every measurement below the folder, and whether it holds for this device
    foveate cache prune build/         remove those that do not, --all for all of them

A bundle without one is measured again when it is first loaded (within 2 s).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_json, print_json

HELP = "list or remove measurements of devices"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("ls", "prune"))
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("."), help="a bundle, or a folder of bundles"
    )
    parser.add_argument("--all", action="store_true", help="prune: also those that hold for this device")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..measurements import find, remove

    found = find(args.folder)
    if args.action == "prune":
        found = [m for m in found if args.all or not m.holds]
        remove(found)
    if args.json:
        print_json(found)
        return 0
    verb = "removed  " if args.action == "prune" else ""
    for m in found:
        state = "holds here" if m.holds else f"another device ({m.differs})"
        print(f"{verb}{m.path}  {m.bytes} bytes  {state}")
    if not found:
        print(f"no measurement {'to remove ' if args.action == 'prune' else ''}in {args.folder}")
    return 0
