"""A made-up result that follows the schema, for tests of reports: cost is fixed + slope × active fraction."""

from __future__ import annotations

import base64
from typing import Any

# A PNG of one pixel.
PICTURE = (
    "data:image/png;base64,"
    + base64.b64encode(
        bytes.fromhex(
            "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001"
            "f61738550000000049454e44ae426082"
        )
    ).decode()
)


def sample_report() -> dict[str, Any]:
    latency = {
        name: {
            "mean_ms": ms,
            "cpu_ms": 1.9 * ms,
            "enqueue_ms": ms,
            "p50_ms": ms,
            "p90_ms": 1.1 * ms,
            "p99_ms": "n too small",
            "n": 128,
        }
        for name, ms in (("dense", 20.0), ("masked_dense", 23.0), ("adaptive", 10.0))
    }
    sweep = [_point(fraction) for fraction in (0.0, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0)]
    tradeoff = [
        {
            "threshold": 0.9 - 0.8 * p,
            "active_fraction": p,
            "ms": 5 + 18 * p,
            "accuracy": 0.93 - 0.4 * (0.7 - p) ** 4,
        }
        for p in (0.05, 0.1, 0.2, 0.4, 0.7)
    ]
    return {
        "schema_version": 1,
        "name": "scenes <resnet>",
        "created": "2026-01-02T03:04:05+00:00",
        "speedup": 2.0,
        "speedup_interval": [1.9, 2.1],
        "cpu_speedup": 1.8,
        "masked_speedup": 2.3,
        "ideal_speedup": 4.0,
        "realization": 2 / 3,
        "efficiency": 0.5,
        "active_fraction": 0.2,
        "dense_ms": 20.0,
        "masked_dense_ms": 23.0,
        "adaptive_ms": 10.0,
        "break_even": 0.62,
        "baseline": {"kind": "unmasked", "file": "baseline.onnx", "settings": "static shape, spinning"},
        "masked_dense_settings": "static shape, spinning",
        "latency": latency,
        "work": {
            "dense_macs": 1.2e9,
            "active_macs": 2.5e8,
            "dense_bytes": 9e7,
            "active_bytes": 2.4e7,
            "macs_per_byte": 12.0,
            "ideal_share": 0.25,
        },
        "waterfall": [
            {"part": part, "ms": ms}
            for part, ms in (("stem and mask0", 3.3), ("plan", 0.4), ("gather", 0.6), ("compute", 4.6))
        ]
        + [{"part": "scatter", "ms": 0.3}, {"part": "restore", "ms": 0.2}, {"part": "tail", "ms": 0.6}],
        "strategies": {"rects": 0.94, "dense": 0.06},
        "sweep": sweep,
        "tradeoff": tradeoff,
        "worst_case": {
            "adaptive_ms": 23.4,
            "dense_ms": 20.0,
            "masked_dense_ms": 23.0,
            "ratio": 23.4 / 23,
            "ratio_interval": [1.0, 1.04],
            "ratio_to_dense": 1.17,
        },
        "accuracy": {
            "metric": "top1",
            "images": 400,
            "dense": 0.93,
            "masked_dense": 0.9275,
            "adaptive": 0.9275,
        },
        "exits": None,
        "budget": None,
        "shapes": [],
        "mixed": None,
        "energy": None,
        "gpu": None,
        "parity": {
            "max_rel_error": 3.2e-7,
            "decision_agreement": 1.0,
            "images": 64,
            "images_agreeing": 64,
            "flips": 0,
            "near_flips": 0,
            "tolerance": 1e-5,
            "worst_image": "scenes.npz[17]",
            "passed": True,
        },
        "overlays": [{"name": "scenes.npz[0]", "active_fraction": 0.2, "image": PICTURE, "kept": PICTURE}],
        "settings": {
            "data": "scenes.npz",
            "images": 32,
            "rounds": 4,
            "sweep_images": 4,
            "worst_images": 16,
            "threads": 2,
            "shape": [1, 3, 192, 192],
        },
        "environment": {
            "cpu": "Some CPU @ 2.0GHz",
            "cores": 2,
            "usable_cores": 2,
            "clock_mhz": {"now": 2000.0},
            "governor": None,
            "load_average": [1.0, 1.0, 1.0],
            "memory_bytes": 8 << 30,
            "os": "Linux",
            "python": "3.11.0",
            "versions": {"numpy": "2.0.0", "onnxruntime": "1.31.0"},
            "backend": "ort",
            "threads": 2,
            "git_revision": None,
            "files": {"programs/program.onnx": "0" * 64},
        },
        "notes": ["clocks were not fixed"],
    }


def _point(fraction: float) -> dict[str, Any]:
    rects = 5 + 24 * fraction
    adaptive = min(rects, 23.2)
    ideal = 1 / (0.1 + 0.9 * fraction)
    speedup = 20 / adaptive
    return {
        "target": fraction,
        "active_fraction": fraction,
        "dense_ms": 20.0,
        "masked_dense_ms": 23.0,
        "adaptive_ms": adaptive,
        "selective_ms": rects,
        "speedup": speedup,
        "speedup_interval": [0.95 * speedup, 1.05 * speedup],
        "cpu_speedup": 0.9 * speedup,
        "ideal_speedup": ideal,
        "realization": None if ideal < 1.05 else (1 - 1 / speedup) / (1 - 1 / ideal),
    }
