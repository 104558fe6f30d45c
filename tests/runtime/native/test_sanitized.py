"""The native code under AddressSanitizer and UndefinedBehaviorSanitizer, through the tests that exercise it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
COMPILER = shutil.which("g++")
TESTS = (
    "tests/pipeline/test_spans.py",
    "tests/pipeline/test_quantized.py",
    "tests/runtime/native/test_bytes.py",
    "tests/runtime/native/test_deformable.py",
    "tests/runtime/native/test_plan.py",
    "tests/runtime/test_rectangles.py",
    "tests/runtime/test_real_bundle.py",
    "tests/runtime/test_stream_levels.py",
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="needs g++ on Linux")
def test_nothing_is_read_or_written_that_should_not_be(tmp_path):
    library = tmp_path / "libfoveate.so.1"
    flags = ["-std=c++17", "-O1", "-g", "-fPIC", "-pthread", "-fno-omit-frame-pointer"]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    sources = sorted(str(path) for path in (ROOT / "runtime/native").glob("*.cpp"))
    subprocess.run([str(COMPILER), *flags, *checks, "-shared", *sources, "-o", str(library)], check=True)
    # Before the interpreter's own libraries; the second, so that exceptions are intercepted.
    preload = [_runtime_library(name) for name in ("libasan.so", "libstdc++.so")]
    environment = {
        **os.environ,
        "FOVEATE_NATIVE": str(library),
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def _runtime_library(name: str) -> str:
    command = [str(COMPILER), f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
