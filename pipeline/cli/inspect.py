"""Describe a program or a bundle: inputs and outputs, steps, segments, strategies, halos, barriers, decisions, work."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_json, print_json

HELP = "describe a program or a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="program (.onnx) or bundle")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..inspect import inspect, lines

    facts = inspect(args.path)
    if args.json:
        print_json(facts)
    else:
        print("\n".join(lines(facts)))
    return 0
