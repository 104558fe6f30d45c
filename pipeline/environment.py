"""The environment of a measurement: what somebody needs to judge or repeat it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("foveate", "numpy", "onnxruntime", "onnxruntime-gpu", "onnx", "torch", "nvidia-modelopt")


def describe(threads: int, files: dict[str, str], backend: str) -> dict[str, Any]:
    """As in docs/report.md, `environment`. `files` are sha256 by name: bundle files and the baseline."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "clock_mhz": _clock_mhz(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "memory_bytes": _memory_bytes(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(),
        "backend": backend,
        "threads": threads,
        "git_revision": git_revision(),
        "files": files,
    }


def cpu_model() -> str:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.lower().startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on, which a container or taskset can make fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision(file: Path | None = None) -> str | None:
    """The commit of the checkout that tracks this package's code, "+changes" if it was edited; else None."""
    path = (file or Path(__file__)).resolve()
    if _git(path.parent, "ls-files", "--error-unmatch", path.name) is None:
        return None  # installed somewhere below a checkout of something else
    return _git(path.parent, "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _clock_mhz() -> dict[str, float] | None:
    """`now`: mean over cores as the kernel reports it; `max`: of core 0, where known."""
    now = [
        float(line.partition(":")[2])
        for line in (_read("/proc/cpuinfo") or "").splitlines()
        if line.lower().startswith("cpu mhz")
    ]
    highest = _read("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    clock = {"now": sum(now) / len(now)} if now else {}
    return {**clock, **({"max": float(highest) / 1e3} if highest else {})} or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
