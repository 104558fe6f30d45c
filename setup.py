"""Builds the native kernels; pyproject.toml has the rest. Without a C++ compiler, it is installed without them."""

import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# Names that Python does not take for a module; native/library.py knows them too.
LIBRARY = {"win32": "libfoveate.dll", "darwin": "libfoveate.dylib"}.get(sys.platform, "libfoveate.so.1")


class PlainLibrary(build_ext):
    """A C library that ctypes loads, not a Python extension: one file for every version of Python."""

    def get_ext_filename(self, fullname):
        return "/".join([*fullname.split(".")[:-1], LIBRARY])

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
setup(ext_modules=[native], cmdclass={"build_ext": PlainLibrary, "bdist_wheel": PlatformWheel})
