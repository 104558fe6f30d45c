"""What this machine can build and run, and the command that adds what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..runtime.backends.cuda import PROVIDERS
from ..runtime.cuda import library as cuda_library
from ..runtime.cuda_device import compute_capability
from ..runtime.device.cuda import describe_gpu
from ..runtime.device.driver import open_driver
from ..runtime.errors import FoveateError, told
from ..runtime.native.library import path as library_path
from ..runtime.native.library import why_missing
from ..runtime.tensorrt.flavour import complete_wheel
from .environment import cpu_model, usable_cores
from .tensorrt.flavour import find_flavour

FLAGS = (
    "sse4_2",
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "asimd",
    "asimddp",
    "sve",
)


@dataclass(frozen=True)
class Check:
    """One line. `fix` is the command that turns ✗ into ✓; `needed_for` says who misses it."""

    name: str
    ok: bool
    found: str
    needed_for: str
    fix: str = ""


def doctor(folder: Path | None = None) -> list[Check]:
    """All checks, in the order of the work; `folder` is where bundles would be written (default: the current one)."""
    return [
        _python(),
        _machine(),
        _package("numpy", "everything", "pip install numpy"),
        _onnxruntime(),
        _package("onnx", "foveate build", "pip install 'foveate[export]'"),
        _package("torch", "foveate export", "pip install 'foveate[export]'"),
        _package("onnxscript", "foveate export", "pip install 'foveate[export]'"),
        _package("timm", "timm models", "pip install 'foveate[export]'", importing=_import_timm),
        _package(
            "transformers",
            "Hugging Face models",
            "pip install 'foveate[transformers]'",
            importing=_import_transformers,
        ),
        _package("matplotlib", "plots of the report", "pip install 'foveate[report]'"),
        _package("PIL", "reading image files", "pip install 'foveate[report]'"),
        _tensorrt(),
        _package("polygraphy", "verifying engines for NVIDIA GPUs", "pip install 'foveate[tensorrt]'"),
        _gpu(),
        _cuda_kernels(),
        _cuda_provider(),
        _native(),
        _writable(folder or Path.cwd()),
    ]


def can_run(checks: list[Check]) -> bool:
    """Whether any bundle can run here: numpy and an onnxruntime that imports."""
    return all(check.ok for check in checks if check.name in ("python", "numpy", "onnxruntime"))


def lines(checks: list[Check]) -> list[str]:
    width = max(len(check.name) for check in checks)
    shown = []
    for check in checks:
        shown.append(f"{'✓' if check.ok else '✗'} {check.name:<{width}}  {check.found}")
        if not check.ok:
            shown.append(f"  {'':<{width}}  needed for {check.needed_for}: {check.fix}")
    return shown


def _python() -> Check:
    found = f"{platform.python_version()} ({sys.executable})"
    return Check("python", sys.version_info >= (3, 10), found, "everything", "install Python 3.10 to 3.13")


def _machine() -> Check:
    flags = _cpu_flags()
    found = f"{cpu_model()}, {usable_cores()} usable cores, {platform.machine()}"
    return Check("cpu", True, found + (f", {' '.join(flags)}" if flags else ""), "everything")


def _cpu_flags() -> list[str]:
    """Vector instructions as Linux reports them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    lines = (line for line in text.splitlines() if line.lower().startswith(("flags", "features")))
    present = set(next(lines, "").split())
    return [flag for flag in FLAGS if flag in present]


def _package(name: str, needed_for: str, fix: str, importing: Callable[[], object] | None = None) -> Check:
    """Imports it: a package that is installed and broken is as missing as one that is not."""
    try:
        module = importing() if importing else importlib.import_module(name)
    except ModuleNotFoundError as error:
        return Check(name, False, f"no module {error.name!r}", needed_for, fix)
    except Exception as error:  # a broken package may raise anything on import
        return Check(name, False, told(error), needed_for, fix)
    return Check(name, True, str(getattr(module, "__version__", "installed")), needed_for)


def _import_timm() -> object:
    from ..export.torchvision_import import import_timm

    return import_timm()


def _import_transformers() -> object:
    from ..export.torchvision_import import import_transformers

    return import_transformers()


def _onnxruntime() -> Check:
    needed_for, fix = "running bundles", "pip install 'foveate[cpu]'"
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    if len(both) == 2:
        found = "onnxruntime and onnxruntime-gpu, which overwrite each other's files"
        fix = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'foveate[gpu]'"
        return Check("onnxruntime", False, found, needed_for, fix)
    check = _package("onnxruntime", needed_for, fix)
    if not check.ok:
        return check
    import onnxruntime

    providers = ", ".join(p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers())
    return Check(
        "onnxruntime", True, f"{both[0] if both else ''} {check.found}, providers {providers}", needed_for
    )


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _tensorrt() -> Check:
    """Of either flavour; RTX's wheel is mended, where its folder can be written."""
    needed_for, fix = "building engines for NVIDIA GPUs", "pip install 'foveate[tensorrt]'"
    try:
        flavour = find_flavour()
    except FoveateError as error:
        return Check("tensorrt", False, error.got, needed_for, fix)
    if not flavour.is_full and not complete_wheel():
        fix = "add the link libtensorrt_rtx.so -> libtensorrt_rtx.so.1 in the package tensorrt_rtx_libs"
        return Check("tensorrt", False, "no libtensorrt_rtx.so, which plugins need", needed_for, fix)
    known = f", for {', '.join(flavour.capabilities())}" if not flavour.is_full else ""
    return Check("tensorrt", True, f"{flavour.name} {flavour.version}{known}", needed_for)


def _gpu() -> Check:
    needed_for = "running bundles on NVIDIA GPUs"
    if not compute_capability():
        return Check(
            "gpu", False, "no NVIDIA GPU, or no driver for it", needed_for, "install NVIDIA's driver"
        )
    try:
        facts = describe_gpu(open_driver())
    except FoveateError as error:
        return Check("gpu", False, error.got, needed_for, "install NVIDIA's driver again")
    found = f"{facts['device']}, {facts['compute']}, its driver speaks CUDA {facts['driver']}"
    return Check("gpu", True, found, needed_for)


def _cuda_kernels() -> Check:
    missing = cuda_library.why_missing()
    found = missing or str(cuda_library.path())
    fix = "install CUDA's nvcc, then pip install --force-reinstall foveate"
    return Check("cuda kernels", not missing, found, "running bundles on NVIDIA GPUs", fix)


def _cuda_provider() -> Check:
    """onnxruntime's, for backend cuda; TensorRT's of onnxruntime comes with it where it loads."""
    needed_for, fix = "backend cuda", "pip uninstall -y onnxruntime && pip install 'foveate[gpu]'"
    try:
        import onnxruntime

        known = onnxruntime.get_available_providers()
    except Exception as error:  # a broken package may raise anything on import
        return Check("onnxruntime-gpu", False, told(error), needed_for, fix)
    there = [name for name, provider in PROVIDERS.items() if provider in known]
    if "cuda" not in there:
        return Check("onnxruntime-gpu", False, "onnxruntime without its CUDA provider", needed_for, fix)
    return Check("onnxruntime-gpu", True, f"providers {', '.join(there)}", needed_for)


def _native() -> Check:
    """The native kernels; where they are missing for want of a compiler, how to get one."""
    found = next((p for p in map(shutil.which, ("c++", "g++", "clang++")) if p), None)
    fix = "pip install --force-reinstall foveate"
    if found is None:
        fix = f"install a C++ compiler (apt-get install g++, xcode-select --install), then {fix}"
    missing = why_missing()
    return Check(
        "native",
        not missing,
        missing or str(library_path()),
        "strategy spans, which is several times as fast as windows",
        fix,
    )


def _writable(folder: Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("folder", False, f"{folder}: {error.strerror}", "writing bundles", f"chmod u+w {folder}")
    return Check("folder", True, f"{folder} is writable", "writing bundles")
