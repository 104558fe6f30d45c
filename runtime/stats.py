"""Counters of one model: requests, strategies, decisions and latency."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Any

import numpy as np

from .drift import Depths
from .result import Result

_KEPT = 1024  # latencies of the last requests, for percentiles


class Stats:
    """Safe for concurrent callers."""

    def __init__(self, depths: Depths) -> None:
        self.depths = depths
        self._lock = threading.Lock()
        self._requests = self._images = self._whole = self._errors = 0
        self._strategies: dict[str, Counter[str]] = {}
        self._active: dict[str, float] = {}
        self._latency: deque[float] = deque(maxlen=_KEPT)

    def add(self, result: Result, images: int, whole_program: bool) -> None:
        with self._lock:
            self._requests += 1
            self._images += images
            self._whole += whole_program
            self._latency.append(result.timing["total"])
            for region, strategies in result.strategies.items():
                self._strategies.setdefault(region, Counter()).update(strategies)
            for name, decision in result.decisions.items():
                total = self._active.get(name, 0.0) + float(decision.active_fraction.sum())
                self._active[name] = total
        if result.depth is not None:
            self.depths.add(result.depth.tolist())

    def add_error(self) -> None:
        with self._lock:
            self._errors += 1

    def summary(self) -> dict[str, Any]:
        """Latency in ms over the last 1024 requests; a percentile is None until there are samples enough for it."""
        with self._lock:
            times = np.array(self._latency)
            counts = {
                name: {s: c[s] for s in ("spans", "rects", "windows", "dense")}
                for name, c in self._strategies.items()
            }
            return {
                "requests": self._requests,
                "images": self._images,
                "errors": self._errors,
                "whole_program_requests": self._whole,
                "regions": counts,
                "fallbacks": sum(c["dense"] for c in counts.values()),
                "depths": self.depths.summary(),
                "active_fraction": {n: total / max(1, self._images) for n, total in self._active.items()},
                "latency_ms": {
                    "mean": float(times.mean()) if times.size else None,
                    "p50": float(np.percentile(times, 50)) if times.size else None,
                    "p90": float(np.percentile(times, 90)) if times.size >= 64 else None,
                    "p99": float(np.percentile(times, 99)) if times.size >= 662 else None,
                },
            }
