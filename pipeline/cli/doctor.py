"""Say what this machine can build and run, with the command that fixes what is missing.

Exit code 3 if no bundle can run here.
"""

from __future__ import annotations

import argparse

from .arguments import add_json, print_json

HELP = "what this machine can build and run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..doctor import can_run, doctor, lines

    checks = doctor()
    runs = can_run(checks)
    if args.json:
        print_json({"can_run": runs, "checks": checks})
    else:
        print("\n".join(lines(checks)))
        print("" if runs else "\nno bundle can run here: see the lines marked ✗", end="" if runs else "\n")
    return 0 if runs else 3
