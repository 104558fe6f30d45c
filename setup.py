"""Builds the native kernels and those of CUDA; pyproject.toml has the rest. Without a C++ compiler or nvcc, it is
installed without them."""

import os
import shutil
import subprocess
import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# Of names that Python does not take for a module; native/library.py and cuda/library.py know them too.
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so.1")
# Compute capabilities with machine code of their own, unless CUDAARCHS names others; newer GPUs compile the last's PTX.
GPUS = os.environ.get("CUDAARCHS", "75;80;86;89;100;120;90").split(";")


def find_nvcc():
    """The CUDA compiler, or None: the one that NVCC names, else one on PATH or where CUDA installs it."""
    if "NVCC" in os.environ:
        return shutil.which(os.environ["NVCC"])
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    found = map(shutil.which, ["nvcc", *(f"{home}/bin/nvcc" for home in homes if home)])
    return next((path for path in found if path), None)


class PlainLibrary(build_ext):
    """A C library that ctypes loads, not a Python extension: one file for every version of Python."""

    def get_ext_filename(self, fullname):
        return f"{'/'.join(fullname.split('.'))}{SUFFIX}"

    def build_extension(self, ext):
        if ext is not cuda:
            return super().build_extension(ext)
        nvcc, target = find_nvcc(), self.get_ext_fullpath(ext.name)
        if nvcc is None:
            return self.announce("no nvcc: building without CUDA kernels", level=3)
        asked = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=False)
        known = asked.stdout.split()
        codes = [f"-gencode=arch=compute_{gpu},code=sm_{gpu}" for gpu in GPUS if f"sm_{gpu}" in known]
        codes.append(f"-gencode=arch=compute_{GPUS[-1]},code=compute_{GPUS[-1]}")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        self.spawn([nvcc, *ext.extra_compile_args, *codes, *ext.sources, "-o", target])

    def get_export_symbols(self, ext):
        return ext.export_symbols


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and any Python 3."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


native = Extension(
    "foveate.runtime.native.libfoveate",
    sources=sorted(glob("runtime/native/*.cpp")),
    depends=sorted(glob("runtime/native/*.h")),
    extra_compile_args=["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-pthread"],
    extra_link_args=["-pthread"],
    language="c++",
    optional=True,
)
cuda = Extension(
    "foveate.runtime.cuda.libfoveate_cuda",
    sources=sorted(glob("runtime/cuda/*.cu") + glob("runtime/cuda/*.cpp")),
    depends=sorted(glob("runtime/cuda/*.h") + glob("runtime/cuda/*.cuh")),
    extra_compile_args=[
        "-std=c++17",
        "-O3",
        "-shared",
        "--threads=2",
        "-Xcompiler=-fPIC,-fvisibility=hidden",
    ],
    optional=True,
)
setup(ext_modules=[native, cuda], cmdclass={"build_ext": PlainLibrary, "bdist_wheel": PlatformWheel})
