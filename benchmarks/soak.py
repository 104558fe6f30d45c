"""Soak test: thousands of frames in many interleaved streams of one model; memory stays flat, every answer right.

    python benchmarks/soak.py                                   # 10 000 frames in each of 8 streams: some minutes
    python benchmarks/soak.py --frames 500 --streams 3          # the same in little

Videos stand still, move, change everywhere (in half of them the dense engine may take over), switch resolution, are
reset, saved and loaded, and hold frames with NaN, which must be refused and leave the state as it was. At random
frames, and after each such incident, the answer is compared with that of a session opened for it. Random weights. Exit
code 1 for a wrong answer or more growth than allowed. Linux with glibc, which is told to give large blocks back when
they are freed: what it keeps for later depends on the order of resolutions and hides what is measured.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from foveate.pipeline.build import build
from foveate.pipeline.environment import describe
from foveate.pipeline.files import write_text
from foveate.runtime import Model, Result
from foveate.runtime.errors import InputError

import foveate

ERROR = 1e-4  # of an output's largest value
GROWTH = 0.02  # of the resident memory, once warm
WARM = 0.2  # share of the frames in which memory may grow: all sizes and incidents are seen
LARGE = 1 << 17  # bytes
CHECKS = 300  # frames chosen at random to be checked
KINDS = ("still", "box", "all")  # what changes between two frames
INCIDENTS = ("switch", "reset", "nan", "save")
LASTS, HAPPENS = 0.9, 0.01  # chance that a kind goes on, and of an incident

_NETWORK = """<ir_version: 10, opset_import: ["": 20]>
soak (float[batch, 3, height, width] images) => (float[batch, 8, height, width] map, float[batch, 10] scores) {
  a = Conv <pads = [1, 1, 1, 1]> (images, w0, b0)
  b = Relu (a)
  c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
  d = Conv <pads = [1, 1, 1, 1]> (c, w1, b1)
  e = Relu (d)
  f = Resize <mode = "linear"> (e, , scales)
  map = Conv (f, w2, b2)
  g = GlobalAveragePool (e)
  h = Flatten (g)
  scores = Gemm (h, w3, b3)
}"""
_WEIGHTS = {0: (16, 3, 3, 3), 1: (32, 16, 3, 3), 2: (8, 32, 1, 1), 3: (32, 10)}


def program(path: Path) -> Path:
    """A small network with a map and scores behind a global pooling."""
    model, rng = onnx.parser.parse_model(_NETWORK), np.random.default_rng(0)
    weights = {"scales": np.array([1, 1, 2, 2], np.float32)}
    for i, shape in _WEIGHTS.items():
        scale = np.sqrt(shape[-1] * shape[0] / np.prod(shape) if i < 3 else 1 / shape[0])
        weights[f"w{i}"] = (scale * rng.standard_normal(shape)).astype(np.float32)
        weights[f"b{i}"] = rng.standard_normal(shape[0] if i < 3 else shape[1]).astype(np.float32)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w, name) for name, w in weights.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


@dataclass
class Video:
    """Frames without end: float32 [1, 3, size, size], with a box that wanders."""

    sizes: tuple[int, ...]
    rng: np.random.Generator
    kind: str = "still"
    frame: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        # All streams at once: what memory must hold at most, it holds while it warms up.
        self.switch(max(self.sizes))

    def switch(self, size: int = 0) -> None:
        size = size or int(self.rng.choice(self.sizes))
        self.frame = self.rng.standard_normal((1, 3, size, size), np.float32)

    def step(self) -> None:
        if self.rng.random() > LASTS:
            self.kind = str(self.rng.choice(KINDS))
        self.frame = self.frame.copy()
        if self.kind == "all":
            self.frame += self.rng.standard_normal(self.frame.shape, np.float32)
            self.frame /= np.float32(2**0.5)
        elif self.kind == "box":
            side = self.frame.shape[2] // 4
            y, x = self.rng.integers(0, self.frame.shape[2] - side, 2)
            self.frame[..., y : y + side, x : x + side] = self.rng.standard_normal((3, side, side))

    def spoiled(self) -> np.ndarray:
        bad = self.frame + 1
        y, x = self.rng.integers(0, bad.shape[2], 2)
        bad[0, 0, y, x] = np.nan
        return bad


class Soak:
    """`streams` videos on one model. counts: frames by how they were computed, incidents, checks."""

    def __init__(self, bundle: Path, model: Model, sizes: tuple[int, ...], streams: int, checked: float):
        self._bundle, self._model, self._checked = bundle, model, checked
        self._rng = np.random.default_rng(0)
        self._videos = [Video(sizes, np.random.default_rng(i)) for i in range(streams)]
        self._streams = [model.stream(fallback=i % 2 == 0) for i in range(streams)]
        self._file = bundle.parent / "soak.stream"
        self.counts: Counter[str] = Counter()
        self.worst = 0.0  # relative error

    def round(self) -> None:
        """One frame of each stream, in any order."""
        for i in self._rng.permutation(len(self._streams)):
            incident = str(self._rng.choice(INCIDENTS)) if self._rng.random() < HAPPENS else ""
            if incident:
                self.counts[incident] += getattr(self, f"_{incident}")(i)
            self._videos[i].step()
            frame = self._videos[i].frame
            result = self._streams[i](frame)
            self.counts["frames"] += 1
            whole = self._streams[i].changed is None and result.strategies["stream"] == ("spans",)
            self.counts["whole" if whole else result.strategies["stream"][0]] += 1
            if incident or self._rng.random() < self._checked:
                self._check(frame, result)

    def _check(self, frame: np.ndarray, result: Result) -> None:
        with foveate.load(self._bundle, threads=1, verify=False) as fresh:
            for name, wanted in fresh.dense(frame).items():
                error = float(np.abs(result[name] - wanted).max() / np.abs(wanted).max())
                self.worst = max(self.worst, error)
        self.counts["checks"] += 1

    def _switch(self, i: int) -> bool:
        self._videos[i].switch()
        return True

    def _reset(self, i: int) -> bool:
        self._streams[i].reset()
        return True

    def _nan(self, i: int) -> bool:
        try:
            self._streams[i](self._videos[i].spoiled())
        except InputError:
            return True
        raise AssertionError("a frame with NaN was computed")

    def _save(self, i: int) -> bool:
        """The video goes on in a new stream."""
        try:
            self._streams[i].save(self._file)
        except InputError:  # the dense engine has no state
            return False
        self._streams[i] = self._model.stream(self._streams[i].policy)
        self._streams[i].load(self._file)
        return True


def measure(folder: Path, frames: int, streams: int, size: int, threads: int) -> dict:
    bundle = build(program(folder / "program.onnx"), folder / "bundle", sample=(1, 3, size, size))
    memory = []
    with foveate.load(bundle, threads=threads) as model:
        soak = Soak(bundle, model, (size, size * 3 // 2), streams, CHECKS / (frames * streams))
        for _ in range(frames):
            soak.round()
            memory.append(resident())
    warm = int(WARM * frames)
    found = {"warm": max(memory[:warm]), "most": max(memory[warm:]), "last": memory[-1]}
    return {
        "frames_each": frames,
        "streams": streams,
        "size": size,
        "counts": dict(soak.counts),
        "max_rel_error": soak.worst,
        "resident_bytes": found,
        "growth": found["most"] / found["warm"] - 1,
        "environment": describe(threads, {}, "ort"),
    }


def give_back() -> None:
    """Has glibc map every large block by itself; by default it does so only until the first one is freed."""
    m_mmap_threshold = -3
    ctypes.CDLL(None).mallopt(m_mmap_threshold, LARGE)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def table(facts: dict) -> str:
    counts, memory = facts["counts"], facts["resident_bytes"]
    lines = [f"{name:16} {counts.get(name, 0):8}" for name in ("frames", "spans", "whole", "dense")]
    lines += [f"{name:16} {counts.get(name, 0):8}" for name in (*INCIDENTS, "checks")]
    lines += [f"{'resident, ' + name:16} {memory[name] / 2**20:8.1f} MiB" for name in memory]
    lines.append(f"{'growth':16} {facts['growth']:8.2%}  (at most {GROWTH:.0%})")
    lines.append(f"{'largest error':16} {facts['max_rel_error']:8.1e}  (at most {ERROR:.0e})")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=10_000, help="of each stream")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument(
        "--size", type=int, default=64, help="px; videos switch between this and half as much again"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/soak"))
    args = parser.parse_args()
    give_back()
    facts = measure(args.out, args.frames, args.streams, args.size, args.threads)
    print(table(facts))
    write_text(args.out / "soak.json", json.dumps(facts, indent=1))
    passed = facts["growth"] <= GROWTH and facts["max_rel_error"] <= ERROR
    print("✓ memory flat, answers equal" if passed else "✗ see above")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
