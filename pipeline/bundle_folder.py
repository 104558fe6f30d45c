"""A bundle folder that appears whole or not at all: it is written beside its place, then renamed into it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..runtime.errors import BundleError

_OURS = (
    "programs",
    "engines",
    "manifest.json",
    "device.json",
)  # replaced by a build; what else lies in a bundle stays


@contextlib.contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, which takes its place when the block succeeds. An interrupted block leaves the old
    bundle as it was. Raises BundleError where `out` is something else than a bundle, or cannot be written."""
    out = out.absolute()
    aside = out.with_name(f".{out.name}.old")
    if aside.exists() and not out.exists():
        aside.rename(out)  # a build was cut off between its two renames
    check_place(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise _not_writable(out, error) from error
    try:
        yield fresh
        fresh.chmod(0o755)
        if out.exists():
            _keep_others(out, fresh)
            shutil.rmtree(aside, ignore_errors=True)
            out.rename(aside)
        fresh.rename(out)
    except OSError as error:
        raise _not_writable(out, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if out.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _keep_others(old: Path, fresh: Path) -> None:
    """Reports, choices and what a user put there move along."""
    for item in old.iterdir():
        if item.name not in _OURS and not (fresh / item.name).exists():
            copy = shutil.copytree if item.is_dir() else shutil.copy2
            copy(item, fresh / item.name)


def check_place(out: Path, source: Path | None = None) -> None:
    """Raises BundleError where `out` is something else than a bundle, or is, or is in, the bundle `source` that it is
    made of."""
    if source is not None and source.resolve() in (out.resolve(), *out.resolve().parents):
        got = "the bundle itself" if out.resolve() == source.resolve() else "a place in the bundle"
        raise BundleError(f"output {out}", got=got, expected="another one", fix="Leave --out out.")
    if out.is_dir():
        manifest = out / "manifest.json"
        strangers = [i.name for i in out.iterdir() if not i.name.startswith(".")]
        if manifest.is_file() or not strangers or _only_reports(out):
            return
        got = f"a folder with {', '.join(sorted(strangers)[:3])}"
    elif out.exists():
        got = "a file"
    else:
        return
    raise BundleError(
        f"output {out}",
        got=got,
        expected="a bundle, an empty folder or a new name",
        fix="Pass another --out.",
    )


def _only_reports(out: Path) -> bool:
    return all(
        i.suffix in (".json", ".md", ".html", ".onnx") or i.name.startswith(".") for i in out.iterdir()
    )


def _not_writable(out: Path, error: OSError) -> BundleError:
    return BundleError(
        f"output {out}",
        got=f"{type(error).__name__}: {error.strerror or error}",
        expected="a folder that can be written",
        fix=f"Check the permissions and the free space of {out.parent}, or pass another --out.",
    )
