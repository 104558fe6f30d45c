"""A batch of 16 images that leave an encoder at different exits, in float16: the bundle against what it would ideally
take, each image its share of a batch in which all leave where it does, and against the program run densely.

    python benchmarks/gpu_depth.py                          # timm's ViT-S/16
    python benchmarks/gpu_depth.py --model mask2former-r50  # at 512 × 512

Random weights: nothing here speaks of accuracy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from exit_models import SUBJECTS, prepare, tiny
from foveate.pipeline.build import build
from foveate.pipeline.mixed import time_mixed
from foveate.runtime.manifest import CHAIN
from gpu_common import TARGET, Lab, arguments

BATCH, DRY_BATCH = 16, 3
OF_IDEAL = 0.9


def measure(lab: Lab, work: Path, name: str, rounds: int) -> dict[str, Any]:
    subject = tiny() if lab.dry else SUBJECTS[name]
    program = prepare(work / "program.onnx", subject)
    sample = (1, 3, subject.size, subject.size)
    bundle = build(program, work / "bundle", sample=sample, target=TARGET, layout=CHAIN)
    model, dense = lab.load(bundle, layout=CHAIN), lab.load(bundle, strategy="dense")
    assert model.device is not None
    batch, random = DRY_BATCH if lab.dry else BATCH, np.random.default_rng(0)
    contrast = 10 ** random.uniform(-1, 1, (batch, 1, 1, 1))
    images = (contrast * random.standard_normal((batch, *sample[1:]))).astype(np.float32)
    placed = model.device.put(images)
    mixed, times = time_mixed(
        model, images, placed, {"dense": lambda x: dense.dense(x)}, rounds, timer=lab.timer
    )
    return {
        "model": "tiny" if lab.dry else name,
        "batch": batch,
        "depths": list(mixed.depths),
        "dense_ms": times.ms("dense"),
        "mixed_ms": mixed.mixed_ms,
        "mixed_enqueue_ms": times.enqueue_ms("mixed"),
        "depth_ms": {str(depth): ms for depth, ms in mixed.ms.items()},
        "ideal_ms": mixed.ideal_ms,
        "of_ideal": mixed.ideal_ms / mixed.mixed_ms,
        "speedup": times.ratio("dense", "mixed").value,
    }


def main() -> None:
    parser = arguments((__doc__ or "").splitlines()[0], "depth.json")
    parser.add_argument("--model", default="vit-s", choices=SUBJECTS)
    args = parser.parse_args()
    lab, work = Lab(args.dry), args.work / f"depth-{'tiny' if args.dry else args.model}"
    work.mkdir(parents=True, exist_ok=True)
    facts = measure(lab, work, args.model, args.rounds)
    for key, value in facts.items():
        print(f"{key:16} {value}")
    missed = [] if facts["of_ideal"] >= OF_IDEAL else [f"{facts['of_ideal']:.2f} of ideal < {OF_IDEAL}"]
    lab.write(args.out / "depth.json", facts, missed)
    lab.tell(missed)
    lab.close()


if __name__ == "__main__":
    main()
