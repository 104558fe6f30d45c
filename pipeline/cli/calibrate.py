"""Choose what a bundle may skip, from data: by a budget, or each choice by itself.

    foveate calibrate build/x --data photos/ --max-drop 0.5%    the cheapest that loses half a point at most
    foveate calibrate build/x --data photos/ --min-metric 82%   … whose metric is 82 % at least
    foveate calibrate build/x --data photos/ --max-drift 1%     … that answers otherwise for 1 % at most; without labels
    foveate calibrate build/x --data photos/ --latency-budget 8     the best within 8 ms an image, measured here

    foveate calibrate build/x --data photos/ --max-drop 0.5% --precision int8   … the program may run in int8, too
    foveate calibrate build/x --stream video.avi --max-drift 1%     of streams: the cheapest policy, by the same budgets

A budget searches mask thresholds, early exits and precision together; half of the images choose, the others confirm.
Streams: the first half of the video chooses, the second or --held-out VIDEO confirms. One by one:

    foveate calibrate build/x --data photos/ --active 0.25      the threshold that leaves 25 % active in the mean
    foveate calibrate build/x --data photos/ --threshold 0.4    set it, and record how active it leaves the images
    foveate calibrate build/x --exits --data photos/ --beta 0.004   the gate for a price of a layer
    foveate calibrate model.onnx --precision int8 --data photos/    all layers in int8 but those that cost too much

Writes choices.json. A bundle takes the choices over at once: neither its program nor its engines change. What was tried
is shown by tradeoff.json and .png; with --stream by stream_tradeoff.*, with --exits by exit_tradeoff.*. --precision
writes another program instead, NAME.int8.onnx, to be built, and NAME.int8.json: what stayed in floats, and why; with a
budget for a bundle another bundle, BUNDLE-int8, if that wins. The last line says which to use.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    share,
    small_share,
    whole,
)

if TYPE_CHECKING:
    from ...calibration.budget import Budget

HELP = "choose thresholds and exits from data, by a budget"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="program (.onnx) or bundle")
    about = (
        "choices.json (default: in the bundle, beside the program), or the program or bundle of --precision"
    )
    parser.add_argument("--out", type=Path, metavar="PATH", help=about)
    add_budget(parser)
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


def add_budget(parser: argparse.ArgumentParser) -> None:
    """--max-drop, --min-metric, --max-drift, --latency-budget, --metric, --seed."""
    about = "0.5% and 0.005 both mean half a percent point of the metric"
    group = parser.add_argument_group(
        "budget", f"{about}; the reference is the program as it was built, all layers"
    )
    quality = group.add_mutually_exclusive_group()
    about = "the metric may be so far below the reference's"
    quality.add_argument("--max-drop", type=small_share, metavar="SHARE", help=about)
    quality.add_argument("--min-metric", type=share, metavar="SHARE", help="its least value")
    about = "how far answers may be from the reference's, without labels: of images the share of classes that differ; "
    about += "of streams the mean |difference| ÷ the output's range, or, with --metric agreement, that share"
    quality.add_argument("--max-drift", type=small_share, metavar="SHARE", help=about)
    about = "mean ms of an image or frame, measured on this device; without a limit of quality: the best within it"
    group.add_argument("--latency-budget", type=rate, metavar="MS", help=about)
    about = "a metric of docs/data.md, or module:function (default: by the labels)"
    group.add_argument("--metric", metavar="NAME", help=about)
    about = (
        "deals images to the half that chooses and the one that confirms (default: 0); a video is cut in time"
    )
    group.add_argument("--seed", type=whole, default=0, metavar="N", help=about)


def _add_stream(parser: argparse.ArgumentParser) -> None:
    about = "by a budget (default: --max-drift 1%) and --metric as above; the reference is the exact policy"
    group = parser.add_argument_group("streams", about)
    about = "choose the policy of streams on this clip; its first half chooses, the second confirms "
    about += "(--limit: its first N frames, default 96)"
    group.add_argument("--stream", metavar="VIDEO", help=about)
    about = "another clip that confirms: all of --stream's chooses (--limit: of each, default 48)"
    group.add_argument("--held-out", metavar="VIDEO", help=about)


def _add_exits(parser: argparse.ArgumentParser) -> None:
    about = "--max-drop (default: 0.5%), --min-metric, --latency-budget or --beta; --metric is taken of each image"
    group = parser.add_argument_group("exits", about)
    about = "the gate alone, trained on all of --data, beside one depth for all images and random depths"
    group.add_argument("--exits", action="store_true", help=about)
    about = "the gate for this price of a layer, in quality"
    group.add_argument("--beta", type=number, metavar="B", help=about)


def _add_precision(parser: argparse.ArgumentParser) -> None:
    about = "of a bundle with a budget: searched, too; else --max-drop (default: 0.5%), --metric: as above"
    group = parser.add_argument_group("precision", about)
    add_precision(group)
    about = "who calibrates: onnxruntime (default), or NVIDIA's ModelOpt, by entropy (extra modelopt)"
    group.add_argument("--quantizer", choices=("onnxruntime", "modelopt"), help=about)
    about = "least share of every decision that must stay as in floats (default: 0.99)"
    group.add_argument("--agreement", type=number, metavar="SHARE", help=about)
    about = "this layer, or all of this step, stays in floats; repeatable"
    group.add_argument("--keep-float", action="append", default=[], metavar="NAME", help=about)


def add_precision(parser: argparse._ActionsContainer) -> None:
    about = "the program may run in it; fp8 is for TensorRT"
    parser.add_argument("--precision", choices=("int8", "fp8"), help=about)


def budget_of(args: argparse.Namespace) -> Budget:
    from ...calibration.budget import Budget

    return Budget(args.max_drop, args.min_metric, args.max_drift, args.latency_budget)


def choices_of(given: list[tuple[str, float]] | None) -> dict[str, float] | None:
    return dict(given) if given else None


def run(args: argparse.Namespace) -> int:
    from ...calibration.budget import Budget
    from ...runtime.errors import InputError

    if (args.data is None) == (args.stream is None):
        raise InputError(
            "calibrate",
            got="neither --data nor --stream" if args.data is None else "--data and --stream",
            expected="images for masks, exits and precision, or a video for streams",
            fix="Give one of the two; for both run it twice, with --data first: streams take what it chose.",
        )
    budget = budget_of(args)
    makes_bundle = bool(args.precision and args.source.is_dir() and budget.given)
    folder = args.out is not None and args.out.is_dir() and not makes_bundle
    _refuse(folder, f"--out {args.out}, a folder", "a file, such as choices.json")
    thresholds = args.threshold is not None or args.active is not None
    if args.stream is not None:
        alone = args.exits or thresholds or args.beta is not None or args.precision
        _refuse(alone, "--stream with --exits, --beta, --precision, --threshold or --active", "one of them")
        return _run_budget(args, budget if budget.given else None)
    _refuse(args.held_out is not None, "--held-out without --stream", "--stream VIDEO --held-out VIDEO")
    _refuse(args.beta is not None and not args.exits, "--beta without --exits", "--exits --beta")
    _refuse(budget.given and args.beta is not None, "--beta with a budget", "one of them")
    by_layers = args.agreement is not None or bool(args.keep_float) or bool(args.quantizer)
    which = "--agreement, --keep-float or --quantizer"
    _refuse(by_layers and not args.precision, which, "--precision with them")
    if args.precision:
        _refuse(args.exits or thresholds, "--precision with --exits, --threshold or --active", "one of them")
        if makes_bundle:
            _refuse(
                by_layers,
                f"{which} with a budget for a bundle",
                "the budget, which finds what stays in floats",
            )
            return _run_budget(args, budget)
        _refuse(
            budget != Budget(budget.max_drop), "a program and this budget", "a bundle, or --max-drop alone"
        )
        return _run_precision(args)
    _refuse(
        budget.given and thresholds,
        "--threshold or --active with a budget",
        "a budget, which searches thresholds",
    )
    if args.exits:
        return _run_exits(args, budget if budget.given else None)
    return _run_budget(args, budget) if budget.given else _run_masks(args)


def _refuse(wrong: bool, got: str, expected: str) -> None:
    from ...runtime.errors import InputError

    if wrong:
        raise InputError("calibrate", got=got, expected=expected, fix="See `foveate calibrate --help`.")


def _run_budget(args: argparse.Namespace, budget: Budget | None) -> int:
    from ...calibration.search import calibrate_budget
    from ...calibration.streams import calibrate_stream
    from ..report_budget import tradeoff_table

    progress = progress_of(args)
    common = {
        "budget": budget,
        "metric": args.metric,
        "preprocess": lambda default: preprocess_of(args, default) or default,
        "limit": args.limit,
        "threads": args.threads,
        "out": args.out,
        "progress": progress,
    }
    if args.stream is not None:
        tried = calibrate_stream(args.source, args.stream, held_out=args.held_out, **common)
    else:
        images = {"seed": args.seed, "precision": args.precision}
        tried = calibrate_budget(args.source, args.data, **images, **common)
    found, choices, path = tried
    table = tradeoff_table(dataclasses.asdict(found))
    last = f"use {path.parent}: {found.precision}" if args.precision else str(path)
    end = f"{found.words()}\n{found.confirmed()}\n{last}"
    return _tell(args, progress, found, choices.notes, table, end, path)


def _run_exits(args: argparse.Namespace, budget: Budget | None) -> int:
    from ...calibration.exits import calibrate_exits
    from ..report_exits import exits_table

    progress = progress_of(args)
    with progress.stage("calibrate") as stage:
        found, choices, path = calibrate_exits(
            args.source,
            args.data,
            budget=budget,
            beta=args.beta,
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
    from ...calibration.precision import AGREEMENT, MAX_DROP, PrecisionBudget, calibrate_precision

    progress = progress_of(args)
    with progress.stage("calibrate") as stage:
        found, path = calibrate_precision(
            args.source,
            args.data,
            kind=args.precision,
            quantizer=args.quantizer or "onnxruntime",
            budget=PrecisionBudget(
                MAX_DROP if args.max_drop is None else args.max_drop,
                AGREEMENT if args.agreement is None else args.agreement,
                tuple(args.keep_float),
            ),
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


def _tell(
    args: argparse.Namespace,
    progress: Progress,
    found: Any,
    notes: Sequence[str],
    table: Table,
    end: str,
    path: Path | None = None,
) -> int:
    """What was tried and chosen, as JSON or as a table, if it has rows. `path`: where choices.json is."""
    from ..report import plain_table

    for note in notes:
        progress.note(note)
    if args.json:
        print_json(found if path is None else {**dataclasses.asdict(found), "choices_path": str(path)})
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
