"""Opening a bundle folder: the manifest read, every file's size and sha256 checked before anything is run."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from .errors import BundleError
from .manifest import ExitChain, ExitPaths, FileEntry, LocalSegment, Manifest, Region, Step

STRATEGIES = ("rects", "dense")  # of local segments, that this runtime runs


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: its folder and its manifest."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        return self.path / name


def open_bundle(path: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
    """Reads and checks a bundle. `verify=False` skips the hashes; sizes are always checked.

    Raises BundleError naming the file that is missing, truncated, edited or of another schema.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    for name in sorted(set(manifest.files) | _named_files(manifest)):
        _check_file(folder, name, manifest.files.get(name), verify)
    for segment in _local_segments(manifest):
        if segment.strategy not in STRATEGIES:
            raise _broken(
                f"segment {segment.name} of {folder}",
                got=f"strategy {segment.strategy!r}",
                expected=f"one of {', '.join(STRATEGIES)}",
            )
    return Bundle(folder, manifest)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise BundleError(
            f"bundle {folder}",
            got="a file" if folder.exists() else "no such folder",
            expected="a folder with a manifest.json",
            fix="Pass the folder that `foveate build --out` wrote.",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _broken(
            str(path), got=f"{type(error).__name__}: {error}", expected="a readable manifest"
        ) from error
    try:
        return Manifest.from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(str(path), got=f"{error}", expected="a manifest that this runtime reads") from error


def dense_files(step: Step) -> list[str]:
    """The engines that run a step on whole maps."""
    if isinstance(step, ExitChain):
        return [stage.file for stage in step.stages]
    if isinstance(step, ExitPaths):
        return [path.file for path in step.paths]
    return [step.fallback if isinstance(step, Region) else step.file]


def _local_segments(manifest: Manifest) -> list[LocalSegment]:
    return [s for step in manifest.steps if isinstance(step, Region) for s in step.segments]


def _named_files(manifest: Manifest) -> set[str]:
    files = {manifest.program, manifest.one_engine} | {s.file for s in _local_segments(manifest)}
    files |= {step.spans for step in manifest.steps if isinstance(step, Region) and step.spans}
    if manifest.stream:
        files |= {name for name in (manifest.stream.spans, manifest.stream.rest) if name}
        files |= {tail.file for tail in manifest.stream.tails}
    files |= {name for engine in manifest.engines for name in (engine.plan, engine.sidecar) if name}
    for steps in (manifest.steps, *manifest.layouts.values()):
        files |= {file for step in steps for file in dense_files(step)}
    return files


def _check_file(folder: Path, name: str, entry: FileEntry | None, verify: bool) -> None:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise _broken(f"{folder}/manifest.json", got=f"file {name!r}", expected="files inside the bundle")
    if entry is None:
        raise _broken(f"{folder}/manifest.json", got=f"no sha256 for {name!r}", expected="one of every file")
    if not path.is_file():
        raise _broken(str(path), got="no such file", expected=f"{entry.bytes} bytes")
    size = path.stat().st_size
    if size != entry.bytes:
        raise _broken(str(path), got=f"{size} bytes", expected=f"{entry.bytes} bytes")
    if verify:
        digest = hash_file(path)
        if digest != entry.sha256:
            raise _broken(str(path), got=f"sha256 {digest[:12]}…", expected=f"sha256 {entry.sha256[:12]}…")


def hash_file(path: Path) -> str:
    """sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _broken(what: str, *, got: str, expected: str) -> BundleError:
    fix = "The bundle is incomplete or was changed: copy it again, or rebuild it with `foveate build`."
    return BundleError(what, got=got, expected=expected, fix=fix)
