"""What the benchmarks on a GPU share: which backend runs them, and how they are timed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from foveate.pipeline.environment import describe, usable_cores
from foveate.pipeline.files import write_text
from foveate.pipeline.gpu.nvml import open_gpu
from foveate.pipeline.gpu.timer import DeviceTimer
from foveate.pipeline.gpu.watch import Watch
from foveate.pipeline.interleave import Times, interleave
from foveate.runtime import Model
from foveate.runtime.engine import TorchConfig

import foveate

TARGET = "torch:fp16"  # of the bundles that are measured


def arguments(about: str, out: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help=f"folder of {out}")
    parser.add_argument(
        "--work", type=Path, default=Path("build/gpu-work"), help="folder of programs and bundles"
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--dry", action="store_true", help="in little, without a GPU: whether it runs at all")
    return parser


@dataclass
class Lab:
    """Where contenders are opened and timed."""

    dry: bool
    watch: Watch = field(default_factory=lambda: Watch(open_gpu()[0]))
    models: list[Model] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.timer = DeviceTimer(self.watch)
        if self.dry:
            torch.set_num_threads(1)

    @property
    def where(self) -> torch.device:
        return torch.device("cpu" if self.dry else "cuda")

    def config(self, search: bool = True) -> TorchConfig:
        return TorchConfig(device=self.where.type, search=search)

    def load(self, bundle: Path, **options: Any) -> Model:
        model = foveate.load(bundle, **{"backend": self.config(), **options})
        if model.device is None:
            raise SystemExit(
                f"error: {bundle} does not run on a GPU here (see the warning above); --dry does without"
            )
        self.timer.devices.append(model.device)
        self.models.append(model)
        return model

    def time(self, contenders: Mapping[str, Callable[[Any], object]], rounds: int) -> Times:
        """Of calls that hold their own input."""
        return interleave(contenders, [torch.zeros(1)], rounds, timer=self.timer)

    def close(self) -> None:
        for model in self.models:
            model.close()

    def write(self, path: Path, facts: dict[str, Any], missed: list[str]) -> None:
        """The result with the machine, and what targets it missed."""
        gpu = self.models[0].device.fingerprint if self.models and self.models[0].device else {}
        facts = {
            **facts,
            "missed": missed,
            "gpu": {**gpu, "watched": self.watch.facts()},
            "environment": describe(usable_cores(), {}, "torch"),
            "dry": self.dry,
        }
        write_text(path, json.dumps(facts, indent=1) + "\n")

    def tell(self, missed: list[str]) -> None:
        """What targets were missed."""
        print("\n".join(f"✗ {miss}" for miss in missed) or "✓ all targets reached")
