"""Bytes a second that the CUDA kernels of selective execution move, beside those of the driver's own copy.

    python benchmarks/gpu_bandwidth.py

On maps of a ResNet-34 body at 1024 × 2048 in float16, batch 4. Bytes are those that a kernel has to read and write at
the least, once each; a copy of n bytes moves 2n.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from foveate.runtime.device.device import Reach, TileGrid
from foveate.runtime.device.host import HostDevice
from foveate.runtime.manifest import Term
from gpu_common import Lab, arguments
from steered import ellipse

SIZE, DRY_SIZE = (256, 512), (16, 32)  # of a map of 64 channels; its tiles have an eighth of the height
CALLS = 20  # queued at once, so that launching them is not what is measured


def measure(lab: Lab, rounds: int) -> list[dict[str, Any]]:
    device = HostDevice() if lab.dry else _gpu()
    lab.timer.devices.append(device)
    height, width = DRY_SIZE if lab.dry else SIZE
    tile, random = height // 8, np.random.default_rng(0)
    source = device.put(random.standard_normal((4, 64, height, width)).astype(np.float16))
    reference = device.put(random.standard_normal((1, 64, height, width)).astype(np.float16))
    target = device.copy(source)
    mask = device.put(ellipse(height, 0.1, wide=width)[None, None].repeat(4, 0).astype(np.float32))
    dirty = device.support(mask)
    reach = [Reach(dirty, Term("mask", (1, 1), (1, 1), (-2, -2), (2, 2)))]
    grid = TileGrid((height, width), (tile, tile), (2, 2), (2, 2))
    tiles = device.find_tiles([(dirty, (1, 1))], grid)
    n = int(device.get([tiles.count])[0][0])
    windows = device.take_windows(source, tiles, (1, 1), n)
    rows = device.put(np.array([3, 1], np.int32))
    two = device.take_rows(source, rows)
    own = 2 * n * tile * tile * 64 * 2  # read and written of tiles
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "copy": (lambda: device.copy(source), 2 * source.nbytes),
        "take_rows": (lambda: device.take_rows(source, rows), 2 * two.nbytes),
        "put_rows": (lambda: device.put_rows(target, rows, two), 2 * two.nbytes),
        "tally": (lambda: device.tally(source), source.nbytes),
        "support": (lambda: device.support(mask), mask.nbytes + dirty.nbytes),
        "reach": (lambda: device.reach(reach, (height, width)), 2 * dirty.nbytes),
        "find_tiles": (lambda: device.find_tiles([(dirty, (1, 1))], grid), dirty.nbytes),
        "take_windows": (lambda: device.take_windows(source, tiles, (1, 1), n), 2 * windows.nbytes),
        "put_windows": (lambda: device.put_windows(target, tiles, (1, 1), windows), own),
        "restore_tiles": (lambda: device.restore_tiles(target, reference, tiles, (1, 1), n), own),
    }
    times = lab.time({name: _repeated(run) for name, (run, _) in runs.items()}, rounds)
    found = []
    for name, (_, moved) in runs.items():
        ms = float(times.wall[name].min()) / CALLS
        found.append({"kernel": name, "ms": ms, "bytes": moved, "gb_per_s": moved / ms / 1e6, "windows": n})
        found[-1]["of_copy"] = found[-1]["gb_per_s"] / found[0]["gb_per_s"]
        print(
            f"{name:14} {ms:9.4f} ms {found[-1]['gb_per_s']:8.0f} GB/s  {found[-1]['of_copy']:5.0%} of copy"
        )
    return found


def _gpu() -> Any:
    from foveate.runtime.device.cuda import open_device
    from foveate.runtime.engine import CudaConfig

    return open_device(CudaConfig())


def _repeated(run: Callable[[], object]) -> Callable[[Any], None]:
    def all_of_them(_: Any) -> None:
        for _ in range(CALLS):
            run()

    return all_of_them


def main() -> None:
    args = arguments((__doc__ or "").splitlines()[0], "bandwidth.json").parse_args()
    lab = Lab(args.dry)
    lab.write(args.out / "bandwidth.json", {"kernels": measure(lab, args.rounds)}, [])
    lab.tell([])


if __name__ == "__main__":
    main()
