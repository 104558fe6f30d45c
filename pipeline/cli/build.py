"""Build a program into a bundle, without verifying or measuring it.

    foveate build model.onnx --out build/x --choices model.choices.json
    foveate build model.onnx --out build/x --target tensorrt:fp16@sm89 --profile batch=1:4:16

Give a bundle instead of a program to build it anew from the program that it holds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_preprocess, add_sample, add_target, preprocess_of, progress_of

HELP = "program -> bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", type=Path, help="program (.onnx) or bundle")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the bundle (default: the bundle given)")
    parser.add_argument("--choices", type=Path, metavar="FILE", help="choices.json of `foveate calibrate`")
    about = "of a program with exits: chain, per-depth or if (default: auto, measured)"
    parser.add_argument("--exit-layout", metavar="NAME", help=about)
    add_sample(parser)
    add_target(parser)
    add_preprocess(parser)


def run(args: argparse.Namespace) -> int:
    from ...calibration.choices import read_choices
    from ...calibration.source import open_source
    from ...runtime.errors import InputError
    from ...runtime.layouts import AUTO
    from ..build import build
    from ..progress import size_of
    from ..sample import shape_of

    source = open_source(args.program)
    out = args.out or (args.program if source.manifest else None)
    if out is None:
        raise InputError("build", got="no --out", expected="a folder for the bundle", fix="Add --out FOLDER.")
    preprocess = preprocess_of(args, source.preprocess)
    choices = read_choices(args.choices) if args.choices else None
    earlier = {c.name: c.value for c in source.manifest.choices} if source.manifest else None
    fraction = source.manifest.active_fraction if source.manifest else None
    policy = source.manifest.stream_policy if source.manifest else None
    depths = source.manifest.depths if source.manifest else None
    told: list[str] = []
    progress = progress_of(args)
    with progress.stage("build") as stage:
        bundle = build(
            source.program,
            out,
            sample=shape_of(args.sample, preprocess),
            target=args.target,
            preprocess=preprocess,
            labels=source.labels,
            choices=choices.choices if choices else earlier,
            active_fraction=choices.active_fraction if choices else fraction,
            stream_policy=choices.stream if choices else policy,
            depths=choices.depths if choices else depths,
            ranges=args.profile,
            tell=told.append,
            layout=args.exit_layout or (source.manifest.layout if source.manifest else AUTO),
        )
        stage.note = f"{size_of(bundle)}  {bundle}"
    for line in told:
        progress.note(line)
    return 0
