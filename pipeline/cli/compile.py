"""Compile a program or a checkpoint into a bundle: export, calibrate, build, verify, bench.

    foveate compile model.onnx --out build/x --data photos/ --active 0.25
    foveate compile model.onnx --out build/x --data photos/ --max-drop 0.5% --precision int8
    foveate compile model.safetensors --out build/x --data photos/ --baseline plain.safetensors

A budget searches thresholds, exits and, with --precision, the precision of segments; where low precision wins, the
bundle to use is FOLDER-int8. A stage whose inputs have not changed is skipped; --dry-run says what would run, and why.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .arguments import (
    add_data,
    add_json,
    add_model,
    add_preprocess,
    add_sample,
    add_target,
    add_threads,
    preprocess_of,
    progress_of,
)
from .calibrate import add_budget, add_choices, add_precision, choices_of

HELP = "program or checkpoint -> bundle, verified and measured"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", help="program (.onnx), checkpoint (.safetensors, .pt) or timm:NAME")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the bundle")
    about = "the network without masks (program or checkpoint), which the report compares with"
    parser.add_argument("--baseline", metavar="FILE", help=about)
    parser.add_argument("--dry-run", action="store_true", help="say what would run and why, and do nothing")
    parser.add_argument("--force", action="store_true", help="run every stage")
    add_model(parser)
    parser.add_argument(
        "--baseline-model", metavar="MODEL", help="--model of a baseline that is a checkpoint"
    )
    add_sample(parser)
    add_target(parser)
    add_choices(parser)
    add_budget(parser)
    add_precision(parser)
    add_data(parser)
    add_preprocess(parser)
    add_threads(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..compile import compile

    program = _program(args.program, args.model, args.mask_after)
    out = compile(
        program,
        args.out,
        target=args.target,
        ranges=args.profile,
        data=args.data,
        baseline=_program(args.baseline, args.baseline_model) if args.baseline else None,
        sample=args.sample,
        threshold=choices_of(args.threshold),
        active=choices_of(args.active),
        max_drop=args.max_drop,
        min_metric=args.min_metric,
        max_drift=args.max_drift,
        latency_budget=args.latency_budget,
        precision=args.precision,
        metric=args.metric,
        seed=args.seed,
        preprocess=preprocess_of(args, _preprocess(program)),
        limit=args.limit,
        threads=args.threads,
        dry_run=args.dry_run,
        force=args.force,
        progress=progress_of(args),
    )
    if not args.dry_run:
        _print_result(out, args)
    return 0


def _program(source: str, model: str | None, after: str | None = None) -> Any:
    """With --model or --mask-after it must be a checkpoint."""
    from ..driver import as_program
    from ..network import open_network

    return open_network(source, model, after) if model or after else as_program(source)


def _preprocess(program: Any) -> Any:
    """What the program or the checkpoint says, for single flags to change."""
    from ..metadata import read_preprocess

    return read_preprocess(program) if isinstance(program, Path) else program.preprocess


def _print_result(out: Path, args: argparse.Namespace) -> None:
    from .bench import print_report

    if args.data is not None and args.target != "null":
        print_report(out / "report", args.json)
        if out != args.out and not args.json:
            print(f"use {out}")
    elif not args.json:
        print(f"{out}: built; add --data to measure it")
