"""`foveate bench` of both examples on a GPU, by backend torch in float16: bench-ersm.json and bench-eco_m2f.json.

    python benchmarks/gpu_examples.py [--only ersm]

Programs that were exported before (PROGRAMS/ersm.onnx, baseline.onnx, eco_m2f.onnx) are taken from --programs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from foveate.pipeline.bench import bench
from foveate.pipeline.build import build
from foveate.pipeline.cli.main import main as foveate_command
from foveate.pipeline.data import open_data
from foveate.pipeline.metadata import read_preprocess
from foveate.pipeline.report import write_report
from gpu_common import TARGET, Lab, arguments

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CHECKPOINTS = {
    "ersm": EXAMPLES / "ersm" / "masked.safetensors",
    "baseline": EXAMPLES / "ersm" / "baseline.safetensors",
    "eco_m2f": EXAMPLES / "eco_m2f" / "parent",
}
DATA = {"ersm": EXAMPLES / "ersm" / "scenes", "eco_m2f": EXAMPLES / "eco_m2f" / "scenes.npz"}


def program(name: str, programs: Path) -> Path:
    path = programs / f"{name}.onnx"
    if not path.exists():
        programs.mkdir(parents=True, exist_ok=True)
        if foveate_command(["export", str(CHECKPOINTS[name]), "--out", str(path)]):
            raise SystemExit(f"error: {name} was not exported")
    return path


def measure(lab: Lab, name: str, work: Path, programs: Path) -> dict[str, Any]:
    source = program(name, programs)
    preprocess, masked = read_preprocess(source), name == "ersm"
    bundle = build(source, work / name, target=TARGET, preprocess=preprocess)
    return bench(
        bundle,
        open_data(DATA[name], preprocess),
        baseline=program("baseline", programs) if masked else None,
        metric="top1" if masked else "agreement",
        backend=lab.config(),
        limit=2 if lab.dry else 64,
        images=2 if lab.dry else 16,
        rounds=1 if lab.dry else 4,
        batches=(1, 2) if lab.dry else None,
        scales=() if lab.dry else None,
    )


def main() -> None:
    parser = arguments((__doc__ or "").splitlines()[0], "bench-*.json")
    parser.add_argument("--only", choices=DATA)
    parser.add_argument("--programs", type=Path, default=Path("build/gpu-programs"))
    args = parser.parse_args()
    lab = Lab(args.dry)
    for name in DATA if args.only is None else (args.only,):
        report = args.work / f"report-{name}"
        result = measure(lab, name, args.work, args.programs)
        write_report(result, report)
        print((report / "report.md").read_text())
        args.out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(report / "report.json", args.out / f"bench-{name}.json")


if __name__ == "__main__":
    main()
