"""A small encoder with exits, as ONNX, for tests that need no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from foveate.export.program import load_program, save_program

CHANNELS, EXITS, QUERIES = 6, (1, 2, 4), 8


def exit_program(
    path: Path,
    *,
    exits: Sequence[int] = EXITS,
    mask: bool = False,
    peek: bool = False,
    queries: bool = False,
    convs: int = 0,
    sampled: bool = False,
    batch: str | int = "batch",
) -> Path:
    """Patches of 8 × 8 as tokens, layers that mix them all, and a linear head; the gate reads the mean token.

    mask: an EnergyMask over the image's features, ahead of all. peek: an output that reads the last layer directly.
    queries: a head that answers as Mask2Former does, with `QUERIES` masks of 4 classes. convs: of 48 channels, more of
    the backbone. sampled: layers read the map of their tokens by deformable attention, in two heads."""
    rng = np.random.default_rng(0)
    size = f"{batch}, 3, height, width"
    head = [
        "f = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (images, w_features)",
        "r = Relu (f)",
    ]
    if mask:
        head += [
            "keep, logits, energy = ai.foveate.EnergyMask <patch = 4> (r, mask_w, mask_b, thr, temp, lam, gam)",
            "m = Mul (r, keep)",
            "r1 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (m, w_more)",
            "r2 = Relu (r1)",
            "masked = Mul (r2, keep)",
        ]
    source = "masked" if mask else "r"
    for n in range(convs):
        head += [f"g{n} = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> ({source}, w_conv{n})"]
        head += [f"h{n} = Relu (g{n})"]
        source = f"h{n}"
    body = [
        f"p = Conv <kernel_shape = [8, 8], strides = [8, 8]> ({source}, w_patch)",
        "q = Reshape (p, flat)",
        "t0 = Transpose <perm = [0, 2, 1]> (q)",
        "where = Sin (t0)",
        "pooled = ReduceMean <keepdims = 0> (t0, middle)",
        f"depth, scores = ai.foveate.ExitGate <exits = [{', '.join(map(str, exits))}]> (pooled, gw, gb, go)",
    ]
    if sampled:
        body += ["map_size = Shape <start = 2> (p)", "sizes = Unsqueeze (map_size, first)"]
    for n in range(1, exits[-1] + 1):
        mixed = _sampling(n) if sampled else [f"b{n} = MatMul (a{n}, w{n})"]
        body += [
            f"a{n} = Add (t{n - 1}, where)",
            *mixed,
            f"c{n} = Tanh (b{n})",
            f"d{n} = ReduceMean <keepdims = 1> (c{n}, middle)",
            f"e{n} = Add (c{n}, d{n})",
            f"t{n} = Add (t{n - 1}, e{n})",
        ]
    deep = f"t{exits[-1]}"
    for exit in reversed(exits[:-1]):
        body.append(f"s{exit} = ai.foveate.ExitSelect <exit = {exit}> (depth, t{exit}, {deep})")
        deep = f"s{exit}"
    if queries:
        body += [
            f"asked = MatMul ({deep}, w_queries)",
            "rows = Transpose <perm = [0, 2, 1]> (asked)",
            "place = Shape <start = 2, end = 4> (p)",
            "shape = Concat <axis = 0> (all_queries, place)",
            "masks_queries_logits = Reshape (rows, shape)",
            "share = Softmax <axis = 2> (rows)",
            f"read = MatMul (share, {deep})",
            "class_queries_logits = MatMul (read, w_classes)",
        ]
        answer = f"float[{batch}, {QUERIES}, 5] class_queries_logits, "
        answer += f"float[{batch}, {QUERIES}, h, w] masks_queries_logits"
    else:
        body.append(f"classes = MatMul ({deep}, w_head)")
        answer = f"float[{batch}, n, 4] classes"
    outputs = f"{answer}, int64[{batch}] depth"
    if peek:
        body.append(f"last = Identity (t{exits[-1]})")
        outputs += f", float[{batch}, n, {CHANNELS}] last"
    text = "\n  ".join([*head, *body])
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 18, "ai.foveate": 1]>\n'
        f"exits (float[{size}] images) => ({outputs}) {{\n  {text}\n}}"
    )
    weights = {
        "w_features": rng.standard_normal((8, 3, 3, 3)) / 5,
        "w_patch": rng.standard_normal((CHANNELS, 48 if convs else 8, 8, 8)) / 20,
        # Scores of −k · x₁ − k² / 3: the mean token's x₁ is negative, and images of more contrast go deeper.
        "gw": np.outer(np.arange(len(exits)), -np.eye(CHANNELS)[1]).ravel(),
        "gb": -(np.arange(len(exits)) ** 2) / 3,
        "go": np.zeros(len(exits)),
        "w_head": rng.standard_normal((CHANNELS, 4)),
        **{f"w{n}": rng.standard_normal((CHANNELS, CHANNELS)) for n in range(1, exits[-1] + 1)},
    }
    if queries:
        weights |= {"w_queries": 2 * rng.standard_normal((CHANNELS, QUERIES))}
        weights |= {"w_classes": 2 * rng.standard_normal((CHANNELS, 5))}
    if sampled:
        weights |= {"w_places": rng.standard_normal((CHANNELS, 8))}
        weights |= {"w_shares": rng.standard_normal((CHANNELS, 4))}
    for n in range(convs):
        read = 48 if n else 8
        weights[f"w_conv{n}"] = rng.standard_normal((48, read, 3, 3)) * np.sqrt(2 / (9 * read))
    if mask:
        weights |= {"mask_w": rng.standard_normal((1, 128, 1, 1)), "mask_b": np.zeros(1)}
        weights |= {"w_more": rng.standard_normal((8, 8, 3, 3)) / 8}
        weights |= {"thr": np.array(0.5), "temp": np.array(1.0), "lam": np.array(0.1), "gam": np.array(0.1)}
    arrays = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    if sampled:
        arrays |= {"first": np.array([0]), "heads": np.array([0, 0, 2, -1])}
        arrays |= {"places": np.array([0, 0, 2, 1, 2, 2]), "shares": np.array([0, 0, 2, 1, 2])}
    arrays |= {"flat": np.array([0, 0, -1]), "middle": np.array([1]), "all_queries": np.array([0, QUERIES])}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    onnx.save(model, path)
    return save_program(load_program(path), path)


def _sampling(n: int) -> list[str]:
    """What layer n's tokens read of each other, at two points a head, outside of the map as often as in it."""
    return [
        *(f"v{n} = MatMul (a{n}, w{n})", f"value{n} = Reshape (v{n}, heads)"),
        *(f"x{n} = MatMul (a{n}, w_places)", f"y{n} = Tanh (x{n})", f"places{n} = Reshape (y{n}, places)"),
        *(f"z{n} = MatMul (a{n}, w_shares)", f"shares{n} = Reshape (z{n}, shares)"),
        f"b{n} = ai.foveate.DeformableSample <levels = 1> (value{n}, sizes, places{n}, shares{n})",
    ]
