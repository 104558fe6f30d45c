"""What GPU and which libraries there are, and what TensorRT-RTX says of this GPU: a plan is built and opened, once.

python benchmarks/gpu_device.py
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
from pathlib import Path
from typing import Any

from foveate.export.models import ResidualNet
from foveate.export.program import export_program
from foveate.pipeline.build import build
from foveate.pipeline.doctor import doctor, lines
from foveate.pipeline.environment import describe, usable_cores
from foveate.pipeline.files import write_text
from foveate.pipeline.gpu.nvml import open_gpu
from gpu_common import arguments

import foveate

LIBRARIES = ("torch", "onnxruntime", "tensorrt_rtx", "tensorrt", "triton", "cupy", "numpy", "onnx", "pynvml")


def try_plan(work: Path) -> str:
    """Of a small network; what went wrong, or what runs it."""
    import torch

    stem = torch.nn.Conv2d(3, 8, 3, 4, 1)
    program = export_program(
        ResidualNet(stem, 8, (8,), (1,), 0), torch.randn(1, 3, 64, 64), work / "small.onnx"
    )
    try:
        bundle = build(program, work / "small", target="tensorrt:fp16")
        with foveate.load(bundle) as model:
            model(torch.randn(1, 3, 64, 64).numpy())
            return f"built, and runs on {model.backend}"
    except foveate.FoveateError as error:
        return str(error)


def versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = str(getattr(importlib.import_module(name), "__version__", "installed"))
        except Exception as error:  # a broken library may raise anything
            found[name] = f"{type(error).__name__}: {error}"
    return found


def says(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    args = arguments((__doc__ or "").splitlines()[0], "device.json").parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    gpu, unknown = open_gpu()
    facts: dict[str, Any] = {
        "nvidia_smi": says("nvidia-smi"),
        "nvcc": says("nvcc", "--version"),
        "state": dataclasses.asdict(gpu.state()) if gpu else unknown,
        "versions": versions(),
        "doctor": lines(doctor()),
        "tensorrt_rtx_plan": try_plan(args.work),
        "environment": describe(usable_cores(), {}, "torch"),
    }
    print(facts["nvidia_smi"], *facts["doctor"], f"plan: {facts['tensorrt_rtx_plan']}", sep="\n")
    write_text(args.out / "device.json", json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
