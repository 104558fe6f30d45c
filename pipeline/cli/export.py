"""Export a checkpoint to a program: one ONNX file that stock ONNX Runtime runs.

    foveate export model.safetensors --out model.onnx
    foveate export model.pt --model mynet:build --size 224 --out model.onnx
    foveate export timm:resnet18 --mask-after layer1 --size 224 --out model.onnx      random weights, to try it out
    foveate export mask2former/ --size 512 --out model.onnx      Hugging Face folder; images leave its encoder early

The program says how its images are to be prepared (--size, --mean …) and what its classes are called, where the
checkpoint says it, so that later commands need not be told.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_exits, add_model, add_preprocess, add_sample, preprocess_of, progress_of

HELP = "checkpoint -> program (ONNX)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    about = "safetensors, a torch file with a state dict, a Hugging Face folder, or timm:NAME"
    parser.add_argument("checkpoint", help=about)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the program, .onnx")
    add_model(parser)
    add_exits(parser)
    add_sample(parser)
    add_preprocess(parser)
    about = "operator of deformable attention where stock runtimes run it: gather for those that get GridSample wrong"
    parser.add_argument("--sampling", default="grid", choices=("grid", "gather"), help=about)


def run(args: argparse.Namespace) -> int:
    from ...export.program import export_program
    from ...export.soft_weights import soft_tensors
    from ..network import open_network
    from ..progress import size_of
    from ..sample import example_of, shape_of

    network = open_network(args.checkpoint, args.model, args.mask_after, args.exits)
    preprocess = preprocess_of(args, network.preprocess)
    shape = shape_of(args.sample, preprocess, network.sample)
    with progress_of(args).stage("export") as stage:
        path = export_program(
            network.module,
            example_of(None, shape),
            args.out,
            preprocess=preprocess,
            labels=network.labels,
            sampling=args.sampling,
        )
        folded = len(soft_tensors(network.module))
        stage.note = f"{size_of(path)}  {path}" + (f"  {folded} soft tensors folded" if folded else "")
    return 0
