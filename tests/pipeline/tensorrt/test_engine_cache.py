"""The engine cache: what a key is made of, and what is said of a hit, a miss and a broken entry."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest
from foveate.pipeline.cli.main import main
from foveate.pipeline.tensorrt.cache_limit import beyond, read_bytes
from foveate.pipeline.tensorrt.engine_build import Built, Layer, Tensor
from foveate.pipeline.tensorrt.engine_cache import EngineCache, Key, make_key
from foveate.pipeline.tensorrt.flavour import RTX, Flavour
from foveate.pipeline.tensorrt.sidecar import describe
from foveate.runtime.errors import EngineError, InputError
from hypothesis import given, settings
from hypothesis import strategies as st

PROFILE = {"x": ((1, 3), (1, 3), (4, 3)), "a": ((1,), (2,), (3,))}
KEY = make_key("f00d", RTX, "1.7", "sm89", "fp16", (PROFILE,), ["STRONGLY_TYPED", "TF32"], ["b1", "b0"])
BUILT = Built(
    b"plan" * 100,
    1.25,
    (Tensor("x", "FLOAT", (-1, 3)),),
    (Tensor("y", "FLOAT", (-1, 3)),),
    (Layer("node0", "ACTIVATION", ("FLOAT",)),),
    (),
)
SIDECAR = describe("dense0.onnx", BUILT, Flavour(RTX, "1.7", None), "sm89", "fp16", (PROFILE,))


@pytest.fixture
def cache(tmp_path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Key)])
def test_every_field_changes_the_key(field):
    old = getattr(KEY, field)
    new = {str: f"{old}x", int: 0, tuple: (*old, "more") if isinstance(old, tuple) else ()}[type(old)]
    assert dataclasses.replace(KEY, **{field: new}).digest != KEY.digest


@given(
    st.permutations(list(PROFILE)), st.permutations(["STRONGLY_TYPED", "TF32"]), st.permutations(["b0", "b1"])
)
def test_the_order_of_sets_does_not(names, flags, plugins):
    profile = {name: PROFILE[name] for name in names}
    assert make_key("f00d", RTX, "1.7", "sm89", "fp16", (profile,), flags, plugins) == KEY


def test_every_shape_of_a_profile_changes_the_key():
    for place in range(3):
        shapes = list(PROFILE["x"])
        shapes[place] = (2, 3)
        key = make_key(
            "f00d", RTX, "1.7", "sm89", "fp16", ({**PROFILE, "x": tuple(shapes)},), KEY.flags, KEY.plugins
        )
        assert key.digest != KEY.digest


def test_profiles_are_numbered():
    other = {**PROFILE, "x": ((1, 3), (2, 3), (64, 3))}
    given = [(PROFILE,), (other,), (PROFILE, other), (other, PROFILE)]
    keys = [make_key("f00d", RTX, "1.7", "sm89", "fp16", p, KEY.flags, KEY.plugins) for p in given]
    assert len({key.digest for key in keys}) == 4


def test_a_key_is_the_same_in_every_process():
    """Engines that users have stay theirs: a change of this number is a change of SCHEMA."""
    assert KEY.digest == "a1aabae5565a3b5c0e38a5b3ca8e93f104e39923f5d994c6e0bf7df34737b9cc"


def test_what_was_added_is_found_with_its_facts(cache):
    assert cache.find(KEY) == (None, "miss: no engine of this ONNX file")
    path = cache.add(KEY, BUILT.plan, SIDECAR)
    entry, why = cache.find(KEY)
    assert entry is not None and why.startswith("hit")
    assert (entry.plan, entry.key, entry.sidecar, entry.broken) == (path, KEY, SIDECAR, "")
    assert path.read_bytes() == BUILT.plan and cache.verify(entry) == ""
    assert list(cache.entries()) == [entry] == [cache.get(path.name[:6])]


def test_a_miss_names_the_fields_that_differ_from_the_nearest_entry(cache):
    cache.add(KEY, BUILT.plan, SIDECAR)
    other = dataclasses.replace(KEY, version="1.6", precision="fp32", flags=())
    cache.add(other, BUILT.plan, SIDECAR)
    _, why = cache.find(dataclasses.replace(KEY, version="1.8"))
    assert why == "miss: version 1.7 -> 1.8"
    _, why = cache.find(dataclasses.replace(other, compute="any"))
    assert why == "miss: compute sm89 -> any"


def test_an_older_schema_is_a_miss(cache):
    path = cache.add(KEY, BUILT.plan, SIDECAR)
    facts = json.loads(path.with_suffix(".json").read_text())
    facts["key"]["schema"] = 0
    path.with_suffix(".json").write_text(json.dumps(facts))
    entry, why = cache.find(KEY)
    assert entry is None and "schema 0" in why


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda plan, side: plan.write_bytes(b"short"), "5 bytes of 400"),
        (lambda plan, side: side.write_text("{}"), "unreadable"),
        (lambda plan, side: side.unlink(), "unreadable"),
        (lambda plan, side: side.write_text(side.read_text().replace('"f00d"', '"beef"')), "another engine"),
    ],
)
def test_a_broken_entry_is_a_miss_that_says_why(cache, damage, said):
    path = cache.add(KEY, BUILT.plan, SIDECAR)
    damage(path, path.with_suffix(".json"))
    entry, why = cache.find(KEY)
    assert entry is None and why.startswith("miss") and said in why
    (entry,) = cache.entries()
    assert said in cache.verify(entry)


def test_an_edited_plan_is_found_by_verify(cache):
    path = cache.add(KEY, BUILT.plan, SIDECAR)
    path.write_bytes(b"nalp" * 100)
    (entry,) = cache.entries()
    assert "sha256" in cache.verify(entry)
    cache.remove(entry)
    assert list(cache.folder.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "engines").write_text("a file")
    with pytest.raises(EngineError, match="set FOVEATE_CACHE"):
        EngineCache(tmp_path / "engines").add(KEY, BUILT.plan, SIDECAR)


@pytest.mark.parametrize("start", ["", "no such"])
def test_a_name_that_is_none_is_named(cache, start):
    cache.add(KEY, BUILT.plan, SIDECAR)
    with pytest.raises(InputError, match="foveate cache ls"):
        cache.get(start)


def test_the_folder_is_the_users_choice(monkeypatch, tmp_path):
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    assert EngineCache().folder == tmp_path / "engines"
    monkeypatch.delenv("FOVEATE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert EngineCache().folder == tmp_path / ".cache" / "foveate" / "engines"


def add_old(cache: EngineCache, number: int, hours: float) -> Key:
    """An engine of 400 bytes that was last taken so many hours ago."""
    key = dataclasses.replace(KEY, onnx=f"{number:04x}")
    path = cache.add(key, BUILT.plan, SIDECAR)
    taken = time.time() - 3600 * hours
    os.utime(path, (taken, taken))
    return key


def test_what_was_unused_for_longest_goes_when_the_cache_grows_beyond_its_limit(cache, monkeypatch):
    monkeypatch.setenv("FOVEATE_CACHE_LIMIT", "1200B")
    keys = [add_old(cache, number, hours) for number, hours in enumerate((3, 9, 5))]
    assert cache.find(keys[1])[0] is not None  # and is the newest by that
    add_old(cache, 3, 0)
    assert [cache.find(key)[0] is not None for key in keys] == [True, True, False]


def test_what_may_be_in_use_stays_whatever_the_limit(cache, monkeypatch):
    monkeypatch.setenv("FOVEATE_CACHE_LIMIT", "0")
    keys = [add_old(cache, number, hours) for number, hours in enumerate((0.9, 0.1))]
    cache.add(KEY, BUILT.plan, SIDECAR)
    assert all(cache.find(key)[0] is not None for key in (*keys, KEY))
    assert beyond(cache.entries(), 0) == []


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(2, 1000), max_size=5), st.integers(0, 2500))
def test_no_more_goes_than_must_and_the_oldest_first(tmp_path_factory, ages, limit):
    cache = EngineCache(tmp_path_factory.mktemp("cache"))
    for number, hours in enumerate(ages):
        add_old(cache, number, hours)
    kept = list(cache.entries())
    gone = beyond(kept, limit)
    left = [entry for entry in kept if entry not in gone]
    assert sum(entry.bytes for entry in left) <= limit
    assert not gone or sum(entry.bytes for entry in left) + gone[-1].bytes > limit
    assert all(a.plan.stat().st_mtime <= b.plan.stat().st_mtime for a in gone for b in left)


def compiled(cache: EngineCache, name: str, hours: float) -> Path:
    """What TensorRT-RTX made of an engine, 400 bytes, taken so many hours ago."""
    path = cache.folder.parent / "jit" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(400))
    taken = time.time() - 3600 * hours
    os.utime(path, (taken, taken))
    return path


def test_what_was_compiled_is_of_the_same_limit(cache, monkeypatch):
    monkeypatch.setenv("FOVEATE_CACHE_LIMIT", "900B")
    key = add_old(cache, 0, 3)
    old, new = compiled(cache, "a.sm89.1.7.bin", 5), compiled(cache, "b.sm89.1.7.bin", 2)
    add_old(cache, 1, 0)
    assert not old.exists() and new.exists() and cache.find(key)[0] is None


def test_prune_takes_what_was_compiled_by_another_version_or_not_used(rtx, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    cache = EngineCache()
    cache.add(dataclasses.replace(KEY, version=rtx.version), BUILT.plan, SIDECAR)
    engine = SIDECAR.sha256[:32]
    names = [f"{engine}.sm89.{rtx.version}.bin", f"{'0' * 32}.sm120.1.2.3.bin", f"{'1' * 32}.sm89.bin"]
    here, other, nameless = (compiled(cache, name, 2) for name in names)
    assert main(["cache", "ls"]) == 0
    said = capsys.readouterr().out
    assert f"compiled of {SIDECAR.name}  sm89  {rtx.version}" in said
    assert "compiled of an engine that the cache has not  sm120  1.2.3" in said
    assert main(["cache", "prune", "--json"]) == 0
    gone = json.loads(capsys.readouterr().out)
    assert [entry["version"] for entry in gone["compiled"]] == ["1.2.3", ""] and gone["engines"] == []
    assert here.exists() and not other.exists() and not nameless.exists()
    assert main(["cache", "prune", "--limit", "0"]) == 0
    assert not here.exists() and len(list(cache.entries())) == 1  # which was added just now


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("7", 7)]
)
def test_limits_are_read(text, expected):
    assert read_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "much", "5GiB", "-1"])
def test_limits_that_are_none_are_named(text):
    with pytest.raises(InputError, match="FOVEATE_CACHE_LIMIT"):
        read_bytes(text)
