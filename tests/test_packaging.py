"""The wheel holds every package, the base needs numpy alone, and the Makefile names every command's target."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("foveate", "export", "runtime", "pipeline", "calibration")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built from a copy of what a checkout holds, by the backend that is installed here."""
    source = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "libfoveate*.*")
        )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(source / "dist")]
    environment = {**os.environ, "CUDAARCHS": "75"}  # where there is nvcc, for one GPU: it takes its time
    done = subprocess.run([*command, str(source)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next((source / "dist").glob("*.whl")))


def test_the_wheel_holds_every_module_and_nothing_else(wheel):
    expected = {"foveate/__init__.py", "foveate/py.typed"}
    for folder in FOLDERS[1:]:
        expected |= {f"foveate/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / folder).rglob("*.py")}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    libraries = {Path(name).name.partition(".")[0] for name in found - expected}
    cuda = {"libfoveate_cuda"} if shutil.which("nvcc") else libraries & {"libfoveate_cuda"}
    assert found >= expected and libraries == {"libfoveate"} | cuda


def test_one_wheel_serves_every_python(wheel):
    assert "-py3-none-" in Path(wheel.filename or "").name


def test_the_installation_goes_on_without_a_compiler(tmp_path):
    source = tmp_path / "source"
    for name in ("native", "cuda"):
        shutil.copytree(
            ROOT / "runtime" / name, source / "runtime" / name, ignore=shutil.ignore_patterns("lib*")
        )
    shutil.copy(ROOT / "setup.py", source)
    environment = {**os.environ, "CC": "/nowhere/cc", "CXX": "/nowhere/c++", "NVCC": "/nowhere/nvcc"}
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", "out"]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(source.rglob("libfoveate.*"))


def test_the_base_needs_numpy_alone_and_extras_choose_the_rest(wheel):
    name = next(n for n in wheel.namelist() if n.endswith("METADATA"))
    metadata = wheel.read(name).decode()
    requires = re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)
    assert [r for r in requires if "extra ==" not in r] == ["numpy>=1.24"]
    extras = set(re.findall(r"^Provides-Extra: (.+)$", metadata, re.MULTILINE))
    used = {"export", "transformers", "metrics", "tensorrt", "modelopt", "report", "video", "dev"}
    assert extras == {"cpu", "gpu", "gpu-bench", "torch-tensorrt", *used}
    assert "License-Expression: Apache-2.0" in metadata
    assert any(n.endswith("licenses/LICENSE") for n in wheel.namelist())


def test_the_wheel_has_the_command(wheel):
    name = next(n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert "foveate = foveate.pipeline.cli:main" in wheel.read(name).decode()


def test_importing_foveate_and_its_runtime_needs_numpy_alone():
    allowed = "{'foveate', 'numpy'}"
    code = (
        "import sys; before = set(sys.modules); import foveate, foveate.runtime; "
        "foveate.FoveateError, foveate.load; "
        "new = {n.partition('.')[0] for n in set(sys.modules) - before}; "
        f"print(sorted(new - set(sys.stdlib_module_names) - {allowed}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "[]"


def test_public_names_exist():
    import foveate

    for name in foveate.__all__:
        assert getattr(foveate, name) is not None
    with pytest.raises(AttributeError, match="public names"):
        foveate.nothing  # noqa: B018


def test_version_is_said_once(wheel):
    import foveate

    assert f"foveate-{foveate.__version__}" in Path(wheel.filename or "").name
    assert f"## {foveate.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_make_help_lists_every_target():
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  make (\S+)", done.stdout, re.MULTILINE))
    wanted = "demo test test-slow lint types export calibrate build bench verify stream report clean help"
    assert set(wanted.split()) <= listed
