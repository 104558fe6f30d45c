"""Check that a bundle, run selectively, answers as its dense reference does in stock onnxruntime.

Decisions and values are compared apart. Exit code 1 beyond the tolerance. Without --data: seeded random images.
With --metric also what the answers are worth:

    foveate verify build/x --data labelled.npz --metric pq

Of a bundle with engines for NVIDIA GPUs each is compared with its program in onnxruntime, too. Where TensorRT cannot
run one, its model is, in onnxruntime, and the engine is told as not run, which --require-engines makes a failure (3).

With --against also how far they lie from another program's, such as the one in floats of a bundle in int8:

    foveate verify build/x-int8 --data photos/ --against x.onnx

With --robustness also how long its answers last when tokens are removed, or the image is covered; written to --out:

    foveate verify build/x --data labelled.npz --robustness --baseline unmasked.onnx

--equivariance asks another question instead: how far the answers to turned images are from what they should be, by
every engine that runs here, beside the program in stock ONNX Runtime or what --against names, and beside the bounds of
softly equivariant layers (docs/soft-equivariance.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .arguments import add_data, add_json, add_preprocess, add_threads, data_of, print_json, progress_of

HELP = "compare a bundle with its dense reference"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    about = "largest relative error allowed (default: 1e-5, of programs in Q/DQ 0.1)"
    parser.add_argument("--tolerance", type=float, metavar="E", help=about)
    about = "the same of engines for NVIDIA GPUs (default: by precision, 1e-3 for fp32 to 0.1 for bf16)"
    parser.add_argument("--engine-tolerance", type=float, metavar="E", help=about)
    about = "fail where TensorRT cannot run an engine on this machine"
    parser.add_argument("--require-engines", action="store_true", help=about)
    parser.add_argument("--metric", metavar="NAME", help="also tell this metric of docs/data.md, on --data")
    about = "also tell how decisions, values and --metric differ from this program's (or a bundle's), run densely, on "
    about += (
        "--data; with --equivariance what engines are compared with, also a checkpoint (default: the program)"
    )
    parser.add_argument("--against", type=Path, metavar="PROGRAM", help=about)
    group = parser.add_argument_group("robustness")
    about = "deletion of tokens and occlusion of pixels, on --data by --metric"
    group.add_argument("--robustness", action="store_true", help=about)
    about = "the same network without masks (default: this one with all tokens kept)"
    group.add_argument("--baseline", type=Path, metavar="PROGRAM", help=about)
    about = "folder of its report (default: report/robustness in the bundle)"
    group.add_argument("--out", type=Path, metavar="FOLDER", help=about)
    turns = parser.add_argument_group("equivariance")
    about = "measure the equivariance error of the built engines (--tolerance: 0.01 by default)"
    turns.add_argument("--equivariance", action="store_true", help=about)
    about = "C4, D4 or C<n> (default: as the network was softened, else C4)"
    turns.add_argument("--group", metavar="G", help=about)
    about = "this output's channels are vectors, x to the right before y downwards; repeatable"
    turns.add_argument("--vectors", metavar="OUTPUT", action="append", default=[], help=about)
    add_data(parser)
    add_preprocess(parser)
    add_threads(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    _check_equivariance(args)
    if args.equivariance:
        return _equivariance(args)
    from ..against import against
    from ..verify import verify

    data, progress = data_of(args), progress_of(args)
    with progress.stage("verify") as stage:
        report = verify(
            args.bundle,
            data,
            tolerance=args.tolerance,
            engine_tolerance=args.engine_tolerance,
            metric=args.metric,
            limit=args.limit,
            threads=args.threads,
            tick=stage.tick,
        )
    lines, facts = report.lines(), report.to_dict()
    if args.against is not None:
        with progress.stage("against") as stage:
            found = against(
                args.bundle, args.against, data, args.metric, args.limit, args.threads, stage.tick
            )
        lines += [f"against {args.against}:", *found.lines()]
        facts["against"] = dataclasses.asdict(found)
    if args.robustness:
        from ..robustness import robustness
        from ..robustness_report import write_robustness

        with progress.stage("robustness") as stage:
            shared = {"metric": args.metric, "limit": args.limit, "threads": args.threads, "tick": stage.tick}
            tried = robustness(args.bundle, data, baseline=args.baseline, **shared)
            page = write_robustness(tried, args.out or args.bundle / "report" / "robustness")
            stage.note = str(page)
        lines += tried.lines()
        facts["robustness"] = tried.to_dict()
    code = _told(lines, facts, report.passed, args)
    if report.passed:
        report.require(engines=args.require_engines)
    return code


def _check_equivariance(args: argparse.Namespace) -> None:
    from ...runtime.errors import InputError

    fix = "See `foveate verify --help`."
    if args.equivariance and args.robustness:
        raise InputError("verify", got="--equivariance with --robustness", expected="one of them", fix=fix)
    if (args.group is not None or args.vectors) and not args.equivariance:
        raise InputError("verify", got="--group or --vectors", expected="--equivariance with them", fix=fix)


def _equivariance(args: argparse.Namespace) -> int:
    from ..equivariance import TOLERANCE, verify_equivariance

    with progress_of(args).stage("verify") as stage:
        report = verify_equivariance(
            args.bundle,
            data_of(args),
            group=args.group,
            tolerance=TOLERANCE if args.tolerance is None else args.tolerance,
            against=args.against,
            vectors=args.vectors,
            limit=args.limit,
            threads=args.threads,
            tick=stage.tick,
        )
    code = _told(report.lines(), report.to_dict(), report.passed, args)
    if report.passed:
        report.require(engines=args.require_engines)
    return code


def _told(lines: Sequence[str], facts: Mapping[str, Any], passed: bool, args: argparse.Namespace) -> int:
    if args.json:
        print_json(facts)
    else:
        print("\n".join(lines), file=sys.stdout if passed else sys.stderr)
    return 0 if passed else 1
