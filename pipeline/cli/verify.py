"""Check that a bundle, run selectively, answers as its dense reference does in stock onnxruntime.

Decisions and values are compared apart. Exit code 1 beyond the tolerance. Without --data: seeded random images.
With --metric also what the answers are worth:

    foveate verify build/x --data labelled.npz --metric pq

Of a bundle with engines for NVIDIA GPUs each is compared with its program in onnxruntime, too. Where TensorRT cannot
run one, its model is, in onnxruntime, and the engine is told as not run, which --require-engines makes a failure (3).

--equivariance asks another question instead: how far the answers to turned images are from what they should be, by
every engine that runs here, beside the program in stock ONNX Runtime or what --against names, and beside the bounds of
softly equivariant layers (docs/soft-equivariance.md).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_data, add_json, add_preprocess, add_threads, data_of, print_json, progress_of

if TYPE_CHECKING:
    from ..equivariance_report import EquivarianceReport
    from ..verify_report import VerifyReport

HELP = "compare a bundle with its dense reference"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    about = "largest relative error allowed (default: 1e-5)"
    parser.add_argument("--tolerance", type=float, metavar="E", help=about)
    about = "the same of engines for NVIDIA GPUs (default: by precision, 1e-3 for fp32 to 0.1 for bf16)"
    parser.add_argument("--engine-tolerance", type=float, metavar="E", help=about)
    about = "fail where TensorRT cannot run an engine on this machine"
    parser.add_argument("--require-engines", action="store_true", help=about)
    parser.add_argument("--metric", metavar="NAME", help="also tell this metric of docs/data.md, on --data")
    turns = parser.add_argument_group("equivariance")
    about = "measure the equivariance error of the built engines (--tolerance: 0.01 by default)"
    turns.add_argument("--equivariance", action="store_true", help=about)
    about = "C4, D4 or C<n> (default: as the network was softened, else C4)"
    turns.add_argument("--group", metavar="G", help=about)
    about = "checkpoint, or program before quantization, that they are compared with (default: the bundle's program)"
    turns.add_argument("--against", type=Path, metavar="FILE", help=about)
    add_data(parser)
    add_preprocess(parser)
    add_threads(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    if args.equivariance:
        return _equivariance(args)
    from ..tolerances import TOLERANCE
    from ..verify import verify

    tolerance = TOLERANCE if args.tolerance is None else args.tolerance
    with progress_of(args).stage("verify") as stage:
        report = verify(
            args.bundle,
            data_of(args),
            tolerance=tolerance,
            engine_tolerance=args.engine_tolerance,
            metric=args.metric,
            limit=args.limit,
            threads=args.threads,
            tick=stage.tick,
        )
    code = _told(report, args)
    if report.passed:
        report.require(engines=args.require_engines)
    return code


def _equivariance(args: argparse.Namespace) -> int:
    from ..equivariance import TOLERANCE, verify_equivariance

    with progress_of(args).stage("verify") as stage:
        report = verify_equivariance(
            args.bundle,
            data_of(args),
            group=args.group,
            tolerance=TOLERANCE if args.tolerance is None else args.tolerance,
            against=args.against,
            limit=args.limit,
            threads=args.threads,
            tick=stage.tick,
        )
    return _told(report, args)


def _told(report: VerifyReport | EquivarianceReport, args: argparse.Namespace) -> int:
    if args.json:
        print_json(report.to_dict())
    else:
        print("\n".join(report.lines()), file=sys.stdout if report.passed else sys.stderr)
    return 0 if report.passed else 1
