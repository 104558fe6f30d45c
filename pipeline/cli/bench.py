"""Measure a bundle against dense ONNX Runtime, interleaved, on real images; writes report.json, .md and .html.

foveate bench build/x --data photos/ --baseline plain.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import (
    add_data,
    add_json,
    add_preprocess,
    add_threads,
    data_of,
    positive,
    print_json,
    progress_of,
)

HELP = "measure a bundle and write its report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="the network without masks (.onnx)")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where the report goes (default: BUNDLE/report)"
    )
    metric = "top1, top5, agreement, mean_iou, pq, ap or module:function (default: what the labels allow)"
    parser.add_argument("--metric", metavar="NAME", help=metric)
    parser.add_argument(
        "--images", type=positive, default=32, metavar="N", help="images to time (default: 32)"
    )
    parser.add_argument("--rounds", type=positive, default=4, metavar="N", help="calls of each (default: 4)")
    add_data(parser, required=True)
    add_preprocess(parser)
    add_threads(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..bench import bench
    from ..report import write_report

    out = args.out or args.bundle / "report"
    data = data_of(args)
    assert data is not None
    with progress_of(args).stage("bench") as stage:
        facts = bench(
            args.bundle,
            data,
            baseline=args.baseline,
            metric=args.metric,
            limit=args.limit,
            threads=args.threads,
            images=args.images,
            rounds=args.rounds,
            tick=stage.tick,
        )
        write_report(facts, out)
    print_report(out, args.json)
    return 0


def print_report(folder: Path, as_json: bool) -> None:
    """The result table of a report, or the facts themselves."""
    from ..report import print_result, read_report

    facts = read_report(folder)
    if as_json:
        print_json(facts)
    else:
        print_result(facts)
        print(f"\nreport: {folder / 'report.html'}")
