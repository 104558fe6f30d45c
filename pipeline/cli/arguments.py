"""Groups of options that several commands share, and how they become values."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime.manifest import Preprocess
from ...runtime.region_policy import RegionPolicy
from ..progress import Progress

if TYPE_CHECKING:
    from ..data import Dataset

DATA_HELP = "image folder, class folders, .npz (images, labels), COCO panoptic folder or module:function"


def add_data(parser: argparse.ArgumentParser, required: bool = False) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--data", metavar="SPEC", required=required, help=DATA_HELP)
    group.add_argument("--limit", type=positive, metavar="N", help="use the first N images only")


def add_preprocess(parser: argparse.ArgumentParser) -> None:
    """How a uint8 image becomes the input. What is not given is taken from the program or bundle."""
    group = parser.add_argument_group(
        "preprocess", "kept in the bundle; default: what the program or bundle says"
    )
    group.add_argument("--size", type=_size, metavar="HxW", help="resize to this (one number: a square)")
    group.add_argument(
        "--letterbox", action=argparse.BooleanOptionalAction, help="keep the aspect ratio, pad the rest"
    )
    group.add_argument("--color", choices=("rgb", "bgr", "gray"), help="order of the channels")
    group.add_argument(
        "--scale", type=float, metavar="S", help="factor before mean and std, e.g. 0.00392157 (1/255)"
    )
    group.add_argument("--mean", type=numbers, metavar="R,G,B", help="subtracted after --scale")
    group.add_argument("--std", type=numbers, metavar="R,G,B", help="divided by after --mean")
    group.add_argument("--layout", choices=("nchw", "nhwc"), help="the input's axes")


def preprocess_of(args: argparse.Namespace, default: Preprocess | None) -> Preprocess | None:
    """`default` with what the command line says otherwise; None where neither says anything."""
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Preprocess)}
    given = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(default or Preprocess(), **given) if given else default


def add_model(parser: argparse.ArgumentParser) -> None:
    """For checkpoints that do not say what they belong to."""
    group = parser.add_argument_group(
        "checkpoint", "not needed if foveate.export.save_checkpoint wrote its config"
    )
    about = "what its tensors are loaded into: timm:NAME, or a function that returns the torch module"
    group.add_argument("--model", metavar="timm:NAME | MODULE:FUNCTION", help=about)
    about = "insert an open energy mask behind this module, e.g. layer1"
    group.add_argument("--mask-after", metavar="MODULE", help=about)


def add_exits(parser: argparse.ArgumentParser) -> None:
    about = "layers behind which images may leave a Hugging Face model's encoder (default: each from the second on)"
    parser.add_argument("--exits", type=counts, metavar="K,K,…", help=about)


def add_sample(parser: argparse.ArgumentParser) -> None:
    about = "the input's shape that the plan is made for, e.g. 1x3x512x512 (default: from --size or the data)"
    parser.add_argument("--sample", type=_shape, metavar="NxCxHxW", help=about)


def add_target(parser: argparse.ArgumentParser) -> None:
    about = "what the engines are built for (default: cpu); on NVIDIA GPUs: cuda[:fp16]: onnxruntime; "
    about += "torch[:fp16|bf16]; tensorrt[:fp16|bf16|fp8|int8[+fp32|+bf16]][@sm89,sm120]"
    parser.add_argument("--target", default="cpu", help=f"{about}; null: no device, to test a plan")
    about = "target tensorrt: least:opt:most sizes, e.g. batch=1:4:16,height=256:512:1024 (default: around the sample)"
    parser.add_argument("--profile", type=size_ranges, default={}, metavar="DIM=N:N:N,…", help=about)


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="threads of the engines (default: all cores)"
    )


POLICY = {
    "threshold": "a position changed where any channel moved by more than this, in the input's units, e.g. 8/255",
    "block": "side in pixels of the blocks that vote",
    "vote": "changed positions from which a block is computed",
    "keep": "the same where it was computed in the frame before; 0: as --vote",
    "patience": "frames after which a block that changed too little is computed; 0: never",
    "layer_threshold": "a layer passes on what moved by more than this share of its range; by tensor: NAME=SHARE",
    "refresh": "compute every N-th frame whole; 0: never",
    "drift": "mean difference in what is not computed, from which a frame is computed whole",
    "cut": "share of changed positions above which a frame counts as a scene cut",
    "fallback": "take the dense engine where it is measured to be faster",
    "margin": "mode regions: pixels that a crop adds around what changed",
    "side": "mode regions: of a crop at least, in pixels",
    "blend": "mode regions: pixels of the ramp from the new to the previous output",
    "audit": "mode regions: measure the error at every N-th frame; 0: never",
}


def add_policy(parser: argparse.ArgumentParser) -> None:
    """The fields of RegionPolicy, which has those of StreamPolicy. What is not given is the bundle's."""
    group = parser.add_argument_group(
        "policy", "what may count as unchanged; default: exact, or as calibrated"
    )
    for field in dataclasses.fields(RegionPolicy):
        flag, about = f"--{field.name.replace('_', '-')}", POLICY[field.name]
        if field.name == "layer_threshold":
            group.add_argument(flag, type=per_layer, action="append", metavar="[NAME=]SHARE", help=about)
        elif isinstance(field.default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, help=about)
        else:
            kind = whole if isinstance(field.default, int) else number
            group.add_argument(flag, type=kind, metavar="N" if kind is whole else "X", help=about)


def policy_of(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of RegionPolicy that the command line gives."""
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(RegionPolicy)}
    given = {name: value for name, value in given.items() if value is not None}
    if layers := given.pop("layer_threshold", None):
        given["layer_threshold"] = layers[-1][1] if not any(name for name, _ in layers) else dict(layers)
    return given


def data_of(args: argparse.Namespace) -> Dataset | None:
    """--data, prepared as the bundle says unless the command line says otherwise; None without --data."""
    if args.data is None:
        return None
    from ...runtime.bundle import open_bundle
    from ..data import open_data

    manifest = open_bundle(args.bundle, verify=False).manifest
    return open_data(args.data, preprocess_of(args, manifest.preprocess), args.limit, manifest.labels)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def progress_of(args: argparse.Namespace) -> Progress:
    return Progress(quiet=args.quiet)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=_plain))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _typed(about: str) -> Callable[[Callable[[str], Any]], Callable[[str], Any]]:
    """argparse names the function in its message: "invalid HxW value: '3,4'"."""

    def rename(function: Callable[[str], Any]) -> Callable[[str], Any]:
        function.__name__ = about
        return function

    return rename


@_typed("positive whole number")
def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


@_typed("whole number")
def whole(text: str) -> int:
    if (number := int(text)) < 0:
        raise ValueError(text)
    return number


@_typed("number or fraction")
def number(text: str) -> float:
    """ "0.03" or "8/255"."""
    above, _, below = text.partition("/")
    try:
        return float(above) / float(below or 1)
    except ZeroDivisionError:
        raise ValueError(text) from None


@_typed("number above 0")
def rate(text: str) -> float:
    if not (found := number(text)) > 0:
        raise ValueError(text)
    return found


@_typed("share, as 0.5% or 0.005")
def share(text: str) -> float:
    """ "0.5%" or "0.005"."""
    return number(text[:-1]) / 100 if text.endswith("%") else number(text)


@_typed("share of at most 0.1, as 0.5% or 0.005 (more only with %: 50%), not")
def small_share(text: str) -> float:
    """As `share`. A bare 0.5 may be meant for percent points: refused."""
    found = share(text)
    if not 0 <= found < math.inf or (found > 0.1 and not text.endswith("%")):
        raise ValueError(text)
    return found


@_typed("HxW")
def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    return positive(height), positive(width or height)


@_typed("NxCxHxW")
def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(positive(part) for part in text.lower().split("x"))
    if len(shape) != 4:
        raise ValueError(text)
    return shape


@_typed("comma-separated numbers")
def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


@_typed("K,K,…")
def counts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


@_typed("DIM=LEAST:OPT:MOST,…")
def size_ranges(text: str) -> dict[str, tuple[int, int, int]]:
    """ "batch=1:4:16,height=512" -> sizes by dim; one number stands for three."""
    ranges = {}
    for part in text.split(","):
        name, _, sizes = part.rpartition("=")
        numbers = [positive(size) for size in sizes.split(":")]
        if not name or len(numbers) not in (1, 3):
            raise ValueError(part)
        ranges[name] = numbers[0], numbers[len(numbers) // 2], numbers[-1]
    return ranges


@_typed("NAME=NUMBER or NUMBER")
def per_decision(text: str) -> tuple[str, float]:
    """ "0.25" -> ("", 0.25), for every decision; "mask1=0.25" -> ("mask1", 0.25)."""
    name, _, number = text.rpartition("=")
    return name, float(number)


@_typed("NAME=SHARE or SHARE")
def per_layer(text: str) -> tuple[str, float]:
    """ "0.05" -> ("", 0.05), for every layer; "conv1=1/20" -> ("conv1", 0.05)."""
    name, _, share = text.rpartition("=")
    return name, number(share)
