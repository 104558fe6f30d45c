"""What an encoder with exits costs to load and to hold, in each layout, against one dense session of the program.

    python benchmarks/exit_memory.py                  # the bundle of benchmarks/exits.py; about a minute
    python benchmarks/exit_memory.py BUNDLE --batch 1

Each contender has a process of its own, and they take turns, round after round; the least of all rounds counts, for
other work on the machine only ever adds. `dense` is stock ONNX Runtime on the whole program, its weights mapped from
the bundle's file. Load: from the imported library to a model that could run; the bundle's hashes are not checked, for
which dense has nothing to compare (`checked`: with them). Memory: what the process holds more than before the load,
behind the first run and behind five, all images at full depth. Exit code 1 where the layout that is loaded by default
misses a goal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
from foveate.pipeline.environment import describe
from foveate.pipeline.files import write_text
from foveate.runtime.bundle import open_bundle
from foveate.runtime.layouts import shallow_and_deep
from foveate.runtime.manifest import CHAIN

import foveate

LOAD, MEMORY, BYTES = 1.2, 1.6, 1.1  # ÷ dense
DENSE, CHECKED = "dense", "chain, checked"
RUNS = 5


def resident() -> float:
    """MiB of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def contend(name: str, bundle: Path, batch: int, threads: int) -> dict[str, float]:
    """Loads one contender in this process, and runs it."""
    import onnxruntime

    manifest = open_bundle(bundle, verify=False).manifest
    (spec,) = manifest.inputs
    images = np.random.default_rng(0).standard_normal((batch, *manifest.sample[spec.name][1:]), np.float32)
    deep = shallow_and_deep(manifest)[-1]
    before, start = resident(), perf_counter()
    if name == DENSE:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(bundle / manifest.one_engine, options)
        load_ms = 1e3 * (perf_counter() - start)
        feeds = {spec.name: images, **{key: np.asarray(v, np.float32) for key, v in deep.items()}}
        found = _run(lambda: session.run(None, feeds), before)
    else:
        layout, checked = name.partition(",")[0], name == CHECKED
        model = foveate.load(bundle, threads=threads, layout=layout, verify=checked)
        load_ms = 1e3 * (perf_counter() - start)
        model.set_choices(deep)
        found = _run(lambda: model(images), before)
    return {"load_ms": load_ms, **found}


def _run(run, before: float) -> dict[str, float]:
    run()
    first = resident() - before
    for _ in range(RUNS - 1):
        run()
    return {"first_mib": first, "later_mib": resident() - before}


def measure(bundle: Path, batch: int, threads: int, rounds: int) -> dict:
    manifest = open_bundle(bundle, verify=False).manifest
    names = [DENSE, CHAIN, CHECKED, *manifest.layouts]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            command = [sys.executable, __file__, str(bundle), "--contender", name]
            command += ["--batch", str(batch), "--threads", str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout))
    least = {n: {k: min(f[k] for f in each) for k in each[0]} for n, each in found.items()}
    rows = [{"name": n, **m, **{f"of_{k}": m[k] / least[DENSE][k] for k in m}} for n, m in least.items()]
    weights = (bundle / "programs/weights.bin").stat().st_size
    program = weights + (bundle / manifest.program).stat().st_size
    total = sum(entry.bytes for entry in manifest.files.values())
    with foveate.load(bundle, threads=threads, verify=False) as model:
        layout = model.layout
    return {
        "bundle": manifest.name,
        "batch": batch,
        "layout": layout,
        "rows": rows,
        "bundle_bytes": total,
        "program_bytes": program,
        "of_bytes": total / program,
        "environment": describe(threads, {}, "ort"),
    }


def table(facts: dict) -> str:
    lines = [f"batch {facts['batch']:<10} load ms              first run, MiB       {RUNS} runs, MiB"]
    for row in facts["rows"]:
        cells = [f"{row[k]:8.1f} ({row[f'of_{k}']:4.2f}×)" for k in ("load_ms", "first_mib", "later_mib")]
        lines.append(f"{row['name']:15} " + "     ".join(cells))
    lines.append(
        f"bundle {facts['bundle_bytes'] / 1e6:.1f} MB, program {facts['program_bytes'] / 1e6:.1f} MB "
        f"({facts['of_bytes']:.3f}×); loaded by default: {facts['layout']}"
    )
    return "\n".join(lines)


def verdicts(facts: dict) -> list[tuple[bool, str]]:
    row = next(row for row in facts["rows"] if row["name"] == facts["layout"])
    memory = max(row["of_first_mib"], row["of_later_mib"])
    return [
        (row["of_load_ms"] <= LOAD, f"load time {row['of_load_ms']:.2f} × dense, at most {LOAD}"),
        (memory <= MEMORY, f"memory {memory:.2f} × dense, at most {MEMORY}"),
        (facts["of_bytes"] <= BYTES, f"bundle {facts['of_bytes']:.3f} × the program, at most {BYTES}"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("build/exits/vit-s/bundle"))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contender", help="measure this one alone, in this process")
    args = parser.parse_args()
    if args.contender:
        print(json.dumps(contend(args.contender, args.bundle, args.batch[0], args.threads)))
        return 0
    found = [measure(args.bundle, batch, args.threads, args.rounds) for batch in args.batch]
    write_text(args.bundle.parent / "exit_memory.json", json.dumps(found, indent=1))
    good = True
    for facts in found:
        print(table(facts))
        for kept, words in verdicts(facts):
            print("✓" if kept else "✗", words)
            good &= kept
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
