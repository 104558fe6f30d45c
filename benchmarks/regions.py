"""A pretrained network of global ops on video: changed regions as crops, and what that costs in accuracy.

    python benchmarks/regions.py screen             # text that is typed on a screen; some 3 minutes on two cores
    python benchmarks/regions.py vtest              # people before a static camera

PP-OCR's text detector scales its channels by squeeze-and-excitation blocks, each the mean of a whole map: nothing
behind the first can be propagated from layer to layer. Weights and the real clip, vtest.avi, come from packages
(video_sources.py); it is given text to be found, a clock as cameras burn it in and a sign that moves.

`dense` is the program in stock ONNX Runtime, its session tuned; it and all streams take turns on the same frames in
one process, behind a first frame that each has computed whole. Errors are |difference| to dense on the same frame, in
shares of the output's range at the first frame, the mean over positions and frames. Two controls compute nothing:
`held` answers with the dense output of the first frame, `previous` with that of the frame before. Agreement is of
positions above .3, the detector's own threshold: intersection ÷ union.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from foveate.pipeline.build import build
from foveate.pipeline.dense import tune
from foveate.pipeline.environment import describe
from foveate.pipeline.files import write_text
from foveate.pipeline.interleave import Times
from foveate.runtime.manifest import Preprocess
from foveate.runtime.preprocess import preprocess
from PIL import Image, ImageDraw, ImageFont
from video_run import Run
from video_sources import CLIPS, Source, fetch, frames

import foveate

DETECTOR = Source("rapidocr==3.10.0", "rapidocr/models/PP-OCRv6_det_small.onnx")
AS_TRAINED = Preprocess(color="bgr", mean=(0.5,) * 3, std=(0.5,) * 3)
UNIT = AS_TRAINED.scale / AS_TRAINED.std[0]  # of one level of a pixel, in the program's input
CHANGES = {"vtest": {"threshold": 12 * UNIT, "block": 8, "vote": 4}, "screen": {}}  # a screen has no noise
CROPS = ((16, 0), (32, 0), (32, 160), (32, 256), (64, 256), (128, 256))  # margin, side
REFRESH = ((32, 160, 10), (64, 256, 10))  # and refresh
NAMES = ("margin", "side", "refresh")
FIRST = 100
FOLDER = Path("build/regions")


def vtest(count: int) -> Iterator[np.ndarray]:
    """uint8 [576, 768, 3], ten frames a second."""
    for number, image in enumerate(frames(fetch(CLIPS["vtest"]), FIRST, count, 32)):
        picture = Image.fromarray(image)
        draw = ImageDraw.Draw(picture)
        clock = f"CAM 04  12:{number // 600:02}:{number / 10 % 60:04.1f}"
        draw.text((12, 8), clock, (255, 255, 255), ImageFont.load_default(26))
        x, y = 40 + 2 * number % 500, 300 + number // 2 % 200
        draw.rectangle((x, y, x + 150, y + 44), (20, 60, 120))
        draw.text((x + 10, y + 6), "PLATFORM 3", (250, 250, 250), ImageFont.load_default(24))
        yield np.asarray(picture)


def screen(count: int) -> Iterator[np.ndarray]:
    """uint8 [768, 1024, 3]: a page of this file's first words, to which four letters a frame are added; a clock."""
    text, written = " ".join((__doc__ or "").split()), 600
    for number in range(count):
        picture = Image.new("RGB", (1024, 768), (250, 250, 248))
        draw, shown = ImageDraw.Draw(picture), text[: written + 4 * number]
        for row, start in enumerate(range(0, len(shown), 72)):
            draw.text(
                (40, 60 + 32 * row), shown[start : start + 72], (30, 30, 30), ImageFont.load_default(22)
            )
        draw.text((880, 16), f"12:00:{number / 10:04.1f}", (30, 30, 30), ImageFont.load_default(20))
        yield np.asarray(picture)


def measure(clip: str, count: int, threads: int) -> dict:
    program = fetch(DETECTOR)
    bundle = build(program, FOLDER / "bundle", preprocess=AS_TRAINED)
    images = {"vtest": vtest, "screen": screen}[clip](count + 1)
    inputs = [preprocess(image, AS_TRAINED) for image in images]
    dense = tune(program, threads, inputs[0])
    with foveate.load(bundle, threads=threads) as model:
        output = model.manifest.outputs[0].name
        streams = {
            ", ".join(map(str, row)): model.stream(
                mode="regions", **dict(zip(NAMES, row, strict=False)), **CHANGES[clip]
            )
            for row in (*CROPS, *REFRESH)
        }
        run = Run(dense, streams, inputs, lambda answer: answer[output][0, 0] > 0.3)
        times = run.measure()
    rows = [_row(name, run, times) for name in streams]
    controls = {name: run.errors[name].summary() for name in ("held", "previous")}
    facts = {"clip": clip, "frames": count, "input": list(inputs[0].shape), "changes": CHANGES[clip]}
    facts |= {
        "dense_ms": times.ms("dense"),
        "dense": dense.settings.words(),
        "controls": controls,
        "rows": rows,
    }
    return facts | {"environment": describe(threads, {}, "ort")}


def _row(name: str, run: Run, times: Times) -> dict:
    ratio, found = times.ratio("dense", name), run.errors[name].summary()
    return {
        "margin_side_refresh": name,
        "ms": times.ms(name),
        "speedup": ratio.value,
        "speedup_interval": [ratio.low, ratio.high],
        "changed": float(np.mean(run.changed[name])),
        "area_share": float(np.mean(run.shares[name])),
        **found,
        "error_to_held": found["mean_error"] / run.errors["held"].summary()["mean_error"],
        "error_to_previous": found["mean_error"] / run.errors["previous"].summary()["mean_error"],
        "frames_by_reason": dict(run.reasons[name]),
    }


def table(facts: dict) -> str:
    lines = [
        "margin, side    ms  speedup                changed    area    mean     p99 ÷ held ÷ previous  agree"
    ]
    for row in facts["rows"]:
        low, high = row["speedup_interval"]
        speed = f"{row['ms']:7.1f} {row['speedup']:6.2f}× [{low:5.2f}, {high:5.2f}]"
        work = f"{row['changed']:9.1%} {row['area_share']:7.1%}"
        error = f"{row['mean_error']:7.5f} {row['p99_error']:7.4f} {row['error_to_held']:6.2f} "
        agree = f"{row['error_to_previous']:10.2f} {row['agreement']:6.1%}"
        lines.append(f"{row['margin_side_refresh']:11} {speed}  {work} {error}{agree}")
    for name, found in facts["controls"].items():
        lines.append(
            f"{name:9} {found['mean_error']:58.5f} {found['p99_error']:7.4f} {found['agreement']:24.1%}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clip", choices=list(CHANGES))
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    facts = measure(args.clip, args.frames, args.threads)
    print(table(facts))
    write_text(FOLDER / f"regions_{args.clip}.json", json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
