"""The CUDA kernels, built for the CPU by a C++ compiler and emulator.h: the same code, one thread after the other."""

from __future__ import annotations

import atexit
import ctypes
import functools
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from foveate.runtime.cuda import library

HERE = Path(__file__).parent
SOURCES = Path(library.__file__).parent
BACKWARDS = 1  # a stream on which the emulator runs the last block and thread first


@dataclass(frozen=True)
class Array:
    """Of numpy, as an array on a device."""

    numbers: np.ndarray

    @property
    def pointer(self) -> int:
        assert self.numbers.flags.c_contiguous
        return self.numbers.ctypes.data

    @property
    def shape(self) -> tuple[int, ...]:
        return self.numbers.shape

    @property
    def dtype(self) -> np.dtype:
        return self.numbers.dtype

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes

    def view(self, shape: tuple[int, ...]) -> Array:
        return Array(self.numbers.reshape(-1)[: int(np.prod(shape))].reshape(shape))


@pytest.fixture(scope="session")
def emulated():
    """The library's functions, on arrays of numpy."""
    return build_emulated()


@functools.cache
def build_emulated() -> ctypes.CDLL:
    """Once, for the tests of all folders."""
    compiler = next((c for c in map(shutil.which, ("g++", "c++")) if c), None)
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = Path(tempfile.mkdtemp(prefix="foveate-emulated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    common = [compiler, "-std=c++17", "-O1", "-fPIC", "-Wall", "-Werror", "-Wno-unknown-pragmas", f"-I{HERE}"]

    def build(source: Path) -> Path:
        made = folder / f"{source.stem}.o"
        command = [*common, "-x", "c++", "-c", str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return made

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(build, sorted(SOURCES.glob("*.cu"))))
    path = folder / "libfoveate_cuda.so.1"
    subprocess.run([compiler, "-shared", "-o", str(path), *map(str, objects)], check=True)
    return library.open_library(path)


@pytest.fixture(scope="session")
def emulation(emulated):
    """The binding calls the emulated kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "library", lambda: emulated)
        yield emulated
