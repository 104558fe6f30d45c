"""Opening bundles: every way in which one can be broken is named, with the file and the way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from foveate.runtime.bundle import open_bundle
from foveate.runtime.errors import BundleError
from foveate.runtime.manifest import Manifest

MakeBundle = Callable[..., Path]


def edit_manifest(bundle: Path, **changes: object) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_whole_bundle_opens(handmade: Path):
    assert open_bundle(handmade).manifest.name == "handmade"


def test_a_manifest_survives_its_json(handmade: Path):
    manifest = open_bundle(handmade).manifest
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.write_text("")])
def test_no_folder(tmp_path: Path, make: Callable[[Path], object]):
    make(tmp_path / "b")
    with pytest.raises(BundleError, match=r"manifest\.json.*\n.*foveate build"):
        open_bundle(tmp_path / "b")


def test_no_manifest(tmp_path: Path):
    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(tmp_path)


def test_a_truncated_file(make_bundle: MakeBundle):
    bundle = make_bundle()
    path = bundle / "programs/b.onnx"
    path.write_bytes(path.read_bytes()[:-10])
    for verify in (True, False):
        with pytest.raises(BundleError, match=r"programs/b\.onnx: got \d+ bytes; expected \d+ bytes"):
            open_bundle(bundle, verify=verify)


def test_an_edited_file(make_bundle: MakeBundle):
    bundle = make_bundle()
    path = bundle / "programs/b.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"programs/b\.onnx: got sha256 .*; expected sha256"):
        open_bundle(bundle)
    assert open_bundle(bundle, verify=False)


def test_a_missing_file(make_bundle: MakeBundle):
    bundle = make_bundle()
    (bundle / "programs/region0.onnx").unlink()
    with pytest.raises(BundleError, match=r"programs/region0\.onnx: got no such file"):
        open_bundle(bundle, verify=False)


def test_a_file_without_a_hash(make_bundle: MakeBundle):
    bundle = make_bundle()
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    del files["programs/c.onnx"]
    edit_manifest(bundle, files=files)
    with pytest.raises(BundleError, match=r"no sha256 for 'programs/c\.onnx'"):
        open_bundle(bundle)


def test_a_file_outside_the_bundle(make_bundle: MakeBundle):
    bundle = make_bundle()
    edit_manifest(bundle, program="../program.onnx")
    with pytest.raises(BundleError, match="inside the bundle"):
        open_bundle(bundle)


def test_another_schema(make_bundle: MakeBundle):
    bundle = make_bundle()
    edit_manifest(bundle, schema_version=99)
    with pytest.raises(BundleError, match="schema version 99, this runtime reads 1"):
        open_bundle(bundle)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": 1}', '{"schema_version": 1, "odd": 2}'])
def test_a_damaged_manifest(make_bundle: MakeBundle, text: str):
    bundle = make_bundle()
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(bundle)


def test_a_strategy_of_another_time(make_bundle: MakeBundle):
    bundle = make_bundle()
    steps = json.loads((bundle / "manifest.json").read_text())["steps"]
    steps[1]["segments"][0]["strategy"] = "spans"
    edit_manifest(bundle, steps=steps)
    with pytest.raises(BundleError, match="strategy 'spans'; expected one of rects, dense"):
        open_bundle(bundle)
