"""Run a video through a model frame by frame, computing what changed, and compare it with the dense program.

    foveate stream model.onnx video.avi --out build/x --threshold 8/255 --block 8 --vote 4
    foveate stream build/bundle video.avi --streams 4 --fps 10

Writes the outputs (videos where they are images, else arrays), an overlay of what was computed, and the report. A
program is built into OUT/bundle first. Exit code 1 where an exact policy did not give the dense program's answers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ...runtime.options import MAX_STATE_BYTES
from .arguments import (
    add_json,
    add_policy,
    add_preprocess,
    add_threads,
    policy_of,
    positive,
    preprocess_of,
    print_json,
    progress_of,
    rate,
    whole,
)

HELP = "run a video through a model, and measure what that saves"
VIDEO_HELP = "video, image folder, .npy, .npz or module:function"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="program (.onnx) or bundle")
    parser.add_argument("video", help=VIDEO_HELP)
    about = "where outputs, overlay and report go (default: BUNDLE/stream; a program needs it)"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=about)
    parser.add_argument("--frames", type=positive, metavar="N", help="use the first N frames only")
    about = "layers: each layer computes what the change reaches; regions: crops of what changed, through any program"
    parser.add_argument("--mode", choices=("layers", "regions"), default="layers", help=about)
    about = "auto: images as videos and the rest as arrays (default)"
    parser.add_argument("--outputs", choices=("auto", "arrays", "none"), default="auto", help=about)
    about = f"bytes that the state of a stream may take (default: {MAX_STATE_BYTES})"
    parser.add_argument("--max-state-bytes", type=positive, default=MAX_STATE_BYTES, metavar="N", help=about)
    _add_measurement(parser)
    add_policy(parser)
    add_preprocess(parser)
    add_threads(parser)
    add_json(parser)


def _add_measurement(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--streams", type=positive, default=1, metavar="K", help="streams at once (default: 1)"
    )
    about = "frames a second of each, for deadlines (default: the video's)"
    group.add_argument("--fps", type=rate, default=0.0, metavar="F", help=about)
    about = "compare every N-th frame, and the one before it, with the dense program (default: 1)"
    group.add_argument("--compare-every", type=positive, default=1, metavar="N", help=about)
    group.add_argument("--no-compare", action="store_true", help="compare none")
    about = "mirror the picture every N frames: a scene cut (default: never)"
    group.add_argument("--cuts", type=whole, default=0, metavar="N", help=about)


def run(args: argparse.Namespace) -> int:
    from ...runtime.bundle import open_bundle
    from ...runtime.errors import InputError
    from ..environment import usable_cores
    from ..report import print_page, write_pages
    from ..streams import prepare
    from ..streams.run import Scenario, run_clip
    from ..streams.tables import stream_page, stream_plots

    progress, threads = progress_of(args), args.threads or usable_cores()
    source = prepare.open_model(args.model, threads)
    if args.out is None and source.manifest is None:
        raise InputError(
            "stream", got="no --out", expected="a folder for bundle and report", fix="Add --out FOLDER."
        )
    out = args.out or args.model / "stream"
    settings = preprocess_of(args, source.preprocess) or source.preprocess
    data, settings = prepare.fit_clip(source, args.video, settings, args.frames)
    bundle = prepare.build_bundle(source, out / "bundle", data, settings, progress)
    if args.mode == "layers":
        prepare.require_streams(source, open_bundle(bundle, verify=False).manifest)
    scenario = Scenario(
        options=policy_of(args),
        mode=args.mode,
        streams=args.streams,
        fps=args.fps,
        every=0 if args.no_compare else args.compare_every,
        cuts=args.cuts,
        outputs=args.outputs,
        max_state_bytes=args.max_state_bytes,
    )
    name = "" if source.manifest else args.model.stem
    with progress.stage("stream", data.count) as stage:
        result = run_clip(bundle, data, settings, out, scenario, name=name, threads=threads, tick=stage.tick)
        report = write_pages(result, stream_page(result), stream_plots, out)
    if args.json:
        print_json(result)
    else:
        print_page(stream_page(result))
        print(f"\nreport: {report}")
    return 1 if result["exact"] is False else 0
