"""Export a checkpoint to a program: one ONNX file that stock ONNX Runtime runs.

    foveate export model.safetensors --model mynet:build --size 224 --out model.onnx

The program says how its images are to be prepared (--size, --mean …), so that later commands need not be told.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_module, add_preprocess, add_sample, load_module, preprocess_of, progress_of

HELP = "checkpoint -> program (ONNX)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="safetensors, or a torch file with a state dict")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the program, .onnx")
    add_module(parser)
    add_sample(parser)
    add_preprocess(parser)


def run(args: argparse.Namespace) -> int:
    from ...export.program import export_program
    from ..progress import size_of
    from ..sample import example_of, shape_of

    preprocess = preprocess_of(args, None)
    module = load_module(args.checkpoint, args.model, "--model")
    example = example_of(args.sample, shape_of(args.sample, preprocess))
    with progress_of(args).stage("export") as stage:
        path = export_program(module, example, args.out, preprocess=preprocess)
        stage.note = f"{size_of(path)}  {path}"
    return 0
