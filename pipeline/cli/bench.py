"""Measure a bundle against the strongest dense engine, interleaved, on real images; writes report.json, .md and .html.

    foveate bench build/x --data photos/ --baseline plain.onnx
    foveate bench build/x --data photos/ --target tensorrt:fp16        (or cuda:fp16, torch:fp16)

A bundle for a GPU is measured there, against dense engines of its own backend and precision.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import (
    add_data,
    add_json,
    add_preprocess,
    add_threads,
    counts,
    data_of,
    numbers,
    positive,
    print_json,
    progress_of,
)

HELP = "measure a bundle and write its report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="the network without masks (.onnx)")
    about = "build the bundle for this target first, in its place, if it is for another"
    parser.add_argument("--target", metavar="TARGET", help=about)
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where the report goes (default: BUNDLE/report)"
    )
    metric = "a metric of docs/data.md, or module:function (default: what the labels allow)"
    parser.add_argument("--metric", metavar="NAME", help=metric)
    parser.add_argument(
        "--images", type=positive, default=32, metavar="N", help="images to time (default: 32)"
    )
    parser.add_argument("--rounds", type=positive, default=4, metavar="N", help="calls of each (default: 4)")
    about = "batches to measure beside single images (default: on a GPU 1,4,16,64)"
    parser.add_argument("--batches", type=counts, metavar="N,N,…", help=about)
    about = "factors of height and width to measure beside (default: on a GPU 0.5,1,2)"
    parser.add_argument("--scales", type=numbers, metavar="S,S,…", help=about)
    add_data(parser, required=True)
    add_preprocess(parser)
    add_threads(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..bench import bench
    from ..report import write_report

    if args.target is not None and (code := _build_for(args.bundle, args.target)):
        return code
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
            batches=args.batches,
            scales=args.scales,
            images=args.images,
            rounds=args.rounds,
            tick=stage.tick,
        )
        write_report(facts, out)
    print_report(out, args.json)
    return 0


def _build_for(bundle: Path, target: str) -> int:
    """As `foveate build` does it, if the bundle is for another target; its exit code."""
    from ...runtime.bundle import open_bundle
    from ..targets import is_built_for
    from .main import main

    if is_built_for(open_bundle(bundle, verify=False).manifest, target):
        return 0
    return main(["build", str(bundle), "--target", target])


def print_report(folder: Path, as_json: bool) -> None:
    """The result table of a report, or the facts themselves."""
    from ..report import print_result, read_report

    facts = read_report(folder)
    if as_json:
        print_json(facts)
    else:
        print_result(facts)
        print(f"\nreport: {folder / 'report.html'}")
