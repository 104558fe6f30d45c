"""Compile a program or a checkpoint into a bundle: export, calibrate, build, verify, bench.

    foveate compile model.onnx --out build/x --data photos/ --active 0.25
    foveate compile model.safetensors --model mynet:build --size 224 --out build/x --data photos/ --baseline plain.onnx

A stage whose inputs have not changed is skipped; --dry-run says what would run, and why.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .arguments import (
    add_data,
    add_json,
    add_module,
    add_preprocess,
    add_sample,
    add_target,
    add_threads,
    load_module,
    preprocess_of,
    progress_of,
)
from .calibrate import add_choices, choices_of

HELP = "program or checkpoint -> bundle, verified and measured"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", type=Path, help="program (.onnx), or a checkpoint with --model")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the bundle")
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", help="the network without masks, to compare with"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run and why, and do nothing")
    parser.add_argument("--force", action="store_true", help="run every stage")
    add_module(parser)
    about = "the same for a --baseline that is a checkpoint"
    parser.add_argument("--baseline-model", metavar="MODULE:FUNCTION", help=about)
    add_sample(parser)
    add_target(parser)
    add_choices(parser)
    add_data(parser)
    add_preprocess(parser)
    add_threads(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..compile import compile

    progress = progress_of(args)
    out = compile(
        _program(args.program, args.model, "--model"),
        args.out,
        target=args.target,
        data=args.data,
        sample=args.sample,
        baseline=_program(args.baseline, args.baseline_model, "--baseline-model"),
        threshold=choices_of(args.threshold),
        active=choices_of(args.active),
        preprocess=preprocess_of(args, None),
        limit=args.limit,
        threads=args.threads,
        dry_run=args.dry_run,
        force=args.force,
        progress=progress,
    )
    if not args.dry_run:
        _print_result(out, args)
    return 0


def _program(path: Path | None, model: str | None, option: str) -> Any:
    """An ONNX file as it is; a checkpoint as its torch module."""
    return path if path is None or path.suffix == ".onnx" else load_module(path, model, option)


def _print_result(out: Path, args: argparse.Namespace) -> None:
    from .bench import print_report

    if args.data is not None:
        print_report(out / "report", args.json)
    elif not args.json:
        print(f"{out}: verified; add --data to measure it")
