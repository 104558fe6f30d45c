"""Choose the thresholds of a program's or a bundle's energy masks from data, the policy of a bundle's streams from a
video, the gate of its early exits from labelled images, or which of its layers run in low precision.

    foveate calibrate build/x --data photos/ --active 0.25      the threshold that leaves 25 % active in the mean
    foveate calibrate build/x --data photos/ --threshold 0.4    set it, and record how active it leaves the images
    foveate calibrate build/x --stream video.avi --max-error 0.01      the cheapest within 1 % of the output's range
    foveate calibrate build/x --exits --data photos/ --max-drop 0.01   the cheapest gate that loses at most .01 of top1
    foveate calibrate model.onnx --precision int8 --data photos/       all layers in int8 but those that cost too much

Writes choices.json. A bundle takes the choices over at once: neither its program nor its engines change. With --stream
also stream_tradeoff.json and .png, with --exits exit_tradeoff.json and .png, which show what was tried. --precision
writes another program instead, NAME.int8.onnx, to be built, and NAME.int8.json: what stayed in floats, and why.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ..progress import Progress
from ..report_tables import Table
from .arguments import (
    add_data,
    add_json,
    add_preprocess,
    add_threads,
    number,
    per_decision,
    preprocess_of,
    print_json,
    progress_of,
    rate,
)

HELP = "choose thresholds from data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="program (.onnx) or bundle")
    about = (
        "choices.json (default: in the bundle, beside the program), or the program that --precision writes"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help=about)
    add_choices(parser)
    _add_stream(parser)
    _add_exits(parser)
    _add_precision(parser)
    add_data(parser)
    add_preprocess(parser)
    add_threads(parser)
    add_json(parser)


def add_choices(parser: argparse.ArgumentParser) -> None:
    """--threshold and --active, each repeatable as NAME=VALUE."""
    group = parser.add_argument_group("choices", "for all decisions, or for one: mask1=0.25; repeatable")
    about = "threshold of m, 0 keeps all and 1 nothing"
    group.add_argument("--threshold", type=per_decision, action="append", metavar="[NAME=]M", help=about)
    about = "find the threshold that leaves this fraction active in the mean"
    group.add_argument("--active", type=per_decision, action="append", metavar="[NAME=]FRACTION", help=about)


def _add_stream(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("streams")
    about = "choose the policy of streams on this clip (--limit: its first N frames, default 48)"
    group.add_argument("--stream", metavar="VIDEO", help=about)
    about = "largest error allowed, in --metric (default: 0.01)"
    group.add_argument("--max-error", type=number, default=0.01, metavar="E", help=about)
    about = "mean (default) or max of |difference| ÷ the output's range; or what is lost of a metric of docs/data.md"
    group.add_argument("--metric", metavar="NAME", help=about)


def _add_exits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "exits", "--metric: one of docs/data.md, of each image (default: by the labels)"
    )
    group.add_argument("--exits", action="store_true", help="train the gate on --data")
    budget = group.add_mutually_exclusive_group()
    about = "the least work that loses at most so much of all layers' quality, or of floats' (default: 0.005)"
    budget.add_argument("--max-drop", type=number, default=0.005, metavar="Q", help=about)
    about = "the best quality at a mean latency of at most this, as measured here"
    budget.add_argument("--max-ms", type=rate, metavar="MS", help=about)
    about = "the gate for this price of a layer, in quality"
    budget.add_argument("--beta", type=number, metavar="B", help=about)


def _add_precision(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("precision", "--max-drop, --metric: as for exits")
    group.add_argument(
        "--precision", choices=("int8", "fp8"), help="quantize the program; fp8 is for TensorRT"
    )
    about = "least share of every decision that must stay as in floats (default: 0.99)"
    group.add_argument("--agreement", type=number, default=0.99, metavar="SHARE", help=about)
    about = "this layer, or all of this step, stays in floats; repeatable"
    group.add_argument("--keep-float", action="append", default=[], metavar="NAME", help=about)


def choices_of(given: list[tuple[str, float]] | None) -> dict[str, float] | None:
    return dict(given) if given else None


def run(args: argparse.Namespace) -> int:
    from ...runtime.errors import InputError

    if (args.data is None) == (args.stream is None):
        raise InputError(
            "calibrate",
            got="neither --data nor --stream" if args.data is None else "--data and --stream",
            expected="images for masks, exits and precision, or a video for streams",
            fix="Give one of the two.",
        )
    if args.precision:
        return _run_precision(args)
    if args.exits:
        return _run_exits(args)
    return _run_masks(args) if args.stream is None else _run_stream(args)


def _run_exits(args: argparse.Namespace) -> int:
    from ...calibration.exit_tradeoff import Budget
    from ...calibration.exits import calibrate_exits
    from ..report_exits import exits_table

    progress = progress_of(args)
    with progress.stage("calibrate") as stage:
        found, choices, path = calibrate_exits(
            args.source,
            args.data,
            budget=Budget(args.beta, args.max_drop, args.max_ms),
            metric=args.metric,
            preprocess=lambda default: preprocess_of(args, default) or default,
            limit=args.limit,
            threads=args.threads,
            out=args.out,
            tick=stage.tick,
        )
        stage.note = str(path)
    table = exits_table(dataclasses.asdict(found))
    end = found.words() + (f"\n{found.verdict()}" if found.chosen.point.wins else "")
    return _tell(args, progress, found, choices.notes, table, end)


def _run_precision(args: argparse.Namespace) -> int:
    from ...calibration.precision import PrecisionBudget, calibrate_precision

    progress = progress_of(args)
    with progress.stage("calibrate") as stage:
        found, path = calibrate_precision(
            args.source,
            args.data,
            kind=args.precision,
            budget=PrecisionBudget(args.max_drop, args.agreement, tuple(args.keep_float)),
            metric=args.metric,
            preprocess=lambda default: preprocess_of(args, default),
            limit=args.limit,
            threads=args.threads,
            out=args.out,
            tick=stage.tick,
        )
        stage.note = str(path)
    head = ("left in floats", "step", "work", "flips alone", "error alone", "why")
    table = Table("", head, tuple(found.rows()))
    return _tell(
        args, progress, found, found.notes, table, "\n".join([found.line(), *found.held_out.lines()])
    )


def _run_stream(args: argparse.Namespace) -> int:
    from ...calibration.streams import calibrate_stream, rows, words

    progress = progress_of(args)
    with progress.stage("calibrate") as stage:
        found, choices, path = calibrate_stream(
            args.source,
            args.stream,
            max_error=args.max_error,
            metric=args.metric or "mean",
            preprocess=lambda default: preprocess_of(args, default) or default,
            frames=args.limit,
            threads=args.threads,
            out=args.out,
            tick=stage.tick,
        )
        stage.note = str(path)
    head = ("policy", "work", f"error ({found.metric})", "of hold")
    end = f"chosen: {words(found.chosen.policy)}"
    return _tell(args, progress, found, choices.notes, Table("", head, tuple(rows(found))), end)


def _tell(
    args: argparse.Namespace,
    progress: Progress,
    found: object,
    notes: Sequence[str],
    table: Table,
    end: str,
) -> int:
    """What was tried and chosen, as JSON or as a table, if it has rows."""
    from ..report import plain_table

    for note in notes:
        progress.note(note)
    if args.json:
        print_json(found)
        return 0
    if table.rows:
        print("\n".join(plain_table(table)))
    print(end)
    return 0


def _run_masks(args: argparse.Namespace) -> int:
    from ...calibration.source import open_source, store
    from ...calibration.thresholds import measure

    progress = progress_of(args)
    with progress.stage("calibrate") as stage:
        source = open_source(args.source)
        found = measure(
            source,
            args.data,
            choices_of(args.threshold),
            choices_of(args.active),
            preprocess_of(args, source.preprocess),
            args.limit,
            args.threads,
            stage.tick,
        )
        path = store(source, found, args.out)
        stage.note = str(path)
    for note in found.notes:
        progress.note(note)
    if args.json:
        print(path.read_text(), end="")
        return 0
    for name, activity in found.activity.items():
        low, high = activity.quantiles["5"], activity.quantiles["95"]
        spread = f"{low:.1%} to {high:.1%} in nine of ten"
        print(f"{name}: {activity.mean:.1%} active in the mean over {found.images} images, {spread}")
    for name, value in found.choices.items():
        print(f"{name} = {value:.6g}")
    return 0
