from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from foveate.pipeline.cli import main
from foveate.pipeline.cli.arguments import preprocess_of
from foveate.pipeline.cli.main import COMMANDS, parser
from foveate.runtime.bundle import open_bundle
from foveate.runtime.manifest import Preprocess


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(command, "--help")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "usage: foveate" in text and "exit codes: 0 ok, 1 a check failed" in text


def test_starting_imports_no_heavy_library():
    code = (
        "import sys; from foveate.pipeline.cli.main import parser; parser(); "
        "print([n for n in ('torch', 'onnx', 'onnxruntime', 'matplotlib', 'PIL', 'rich') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_error_is_one_line_with_its_fix_and_no_traceback(tmp_path, capsys):
    assert run("build", tmp_path / "missing.onnx", "--out", tmp_path / "x") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: program") and "missing.onnx" in error and "Traceback" not in error


def test_traceback_shows_where_an_error_came_from(tmp_path):
    with pytest.raises(Exception, match=r"missing\.onnx"):
        run("build", tmp_path / "missing.onnx", "--out", tmp_path / "x", "--traceback")


def test_a_wrong_command_line_exits_with_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        run("compile", "x.onnx", "--out", "y", "--size", "3,4")
    assert stopped.value.code == 2
    assert "invalid HxW value: '3,4'" in capsys.readouterr().err


def test_preprocess_flags_change_what_the_program_says_and_nothing_else():
    known = Preprocess(size=(32, 48), mean=(0.5, 0.5, 0.5), color="bgr")
    flags = ["--size", "64", "--no-letterbox", "--std", "0.2,0.2,0.2"]
    args = parser().parse_args(["verify", "bundle", *flags])
    expected = Preprocess(size=(64, 64), mean=(0.5, 0.5, 0.5), color="bgr", std=(0.2, 0.2, 0.2))
    assert preprocess_of(args, known) == expected
    assert preprocess_of(parser().parse_args(["verify", "bundle"]), None) is None


def test_stages_one_by_one(make_program, scenes, tmp_path, capsys):
    program, bundle = make_program(), tmp_path / "bundle"
    assert run("calibrate", program, "--data", scenes, "--active", "0.3") == 0
    choices = program.with_suffix(".choices.json")
    assert run("build", program, "--out", bundle, "--choices", choices, "--size", 24) == 0
    manifest = open_bundle(bundle).manifest
    assert manifest.active_fraction == pytest.approx(0.3, abs=0.01)
    assert manifest.preprocess.size == (24, 24)
    assert run("verify", bundle, "--data", scenes) == 0
    lines = capsys.readouterr()
    assert "✓ build" in lines.err and "decisions agree on 6 of 6 images" in lines.out


def test_calibrating_a_bundle_touches_neither_program_nor_engines(make_program, scenes, tmp_path, capsys):
    program, bundle = make_program(), tmp_path / "bundle"
    assert run("build", program, "--out", bundle) == 0
    before = open_bundle(bundle).manifest
    times = {p: p.stat().st_mtime_ns for p in (bundle / "programs").iterdir()}
    assert run("calibrate", bundle, "--data", scenes, "--active", "0.3", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    after = open_bundle(bundle).manifest
    assert after.files == before.files and after.steps == before.steps
    assert {p: p.stat().st_mtime_ns for p in (bundle / "programs").iterdir()} == times
    threshold = {c.name: c.value for c in after.choices}["mask0.threshold"]
    assert threshold == printed["choices"]["mask0.threshold"] != 0.5
    assert run("verify", bundle, "--data", scenes, "--quiet") == 0


def test_verify_fails_with_1_beyond_the_tolerance(make_program, tmp_path, capsys):
    run("build", make_program(), "--out", tmp_path / "bundle", "--quiet")
    assert run("verify", tmp_path / "bundle", "--tolerance", "-1", "--limit", 2, "--json") == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_an_edited_bundle_is_refused(make_program, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    run("build", make_program(), "--out", bundle, "--quiet")
    weights = bundle / "programs" / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert run("verify", bundle) == 2
    assert "weights.bin" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["program", "bundle"])
def test_inspect_prints_facts(kind, tiny_program, tiny_bundle, capsys):
    path = {"program": tiny_program, "bundle": tiny_bundle}[kind]
    assert run("inspect", path) == 0
    text = capsys.readouterr().out
    assert "mask0.threshold = 0.5" in text and "region0" in text and "stays dense" in text
    assert run("inspect", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == kind


def test_cache_lists_and_prunes_measurements(tiny_bundle, tmp_path, capsys):
    import shutil

    from foveate.runtime.costs import DeviceCosts, fingerprint

    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    here = DeviceCosts(fingerprint(2), (1, 3, 8, 8), {}, {})
    elsewhere = DeviceCosts({**fingerprint(2), "cpu": "another"}, (1, 3, 8, 8), {}, {})
    device = bundle / "device.json"
    for costs, words in ((here, "holds here"), (elsewhere, "another device (cpu)")):
        device.write_text(costs.to_json())
        assert run("cache", "ls", tmp_path) == 0
        assert words in capsys.readouterr().out
    assert run("cache", "prune", tmp_path) == 0 and not device.exists()
    device.write_text(here.to_json())
    assert run("cache", "prune", bundle) == 0 and device.exists()
    assert run("cache", "prune", bundle, "--all") == 0 and not device.exists()


@pytest.mark.parametrize(("package", "code"), [("onnx", 3), ("users_own", None)])
def test_a_missing_extra_is_named_and_a_users_own_module_is_not_mistaken_for_one(
    package, code, monkeypatch, capsys
):
    def missing(args):
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr("foveate.pipeline.cli.inspect.run", missing)
    if code is None:
        with pytest.raises(ModuleNotFoundError, match=package):
            run("inspect", "anything")
    else:
        assert run("inspect", "anything") == code
        assert "pip install 'foveate[export]'" in capsys.readouterr().err


def test_quiet_prints_facts_alone(tiny_bundle, capsys):
    assert run("verify", tiny_bundle, "--quiet", "--limit", 2, "--json") == 0
    captured = capsys.readouterr()
    assert captured.err == "" and json.loads(captured.out)["passed"] is True


def test_output_survives_a_terminal_without_unicode(tiny_bundle):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "foveate.pipeline.cli", "verify", str(tiny_bundle), "--limit", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "ok verify" in done.stderr


def test_images_in_a_folder_go_through_the_bundles_preprocess(make_program, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (30, 50, 3), np.uint8)
        image.fromarray(pixels).save(photos / f"{number}.png")
    run("build", make_program(), "--out", tmp_path / "bundle", "--size", "24x40", "--mean", "0.5,0.5,0.5")
    assert run("verify", tmp_path / "bundle", "--data", photos) == 0
    assert "2 of 2 images" in capsys.readouterr().out


def test_a_read_only_place_is_an_error_with_a_name(make_program, tmp_path, capsys):
    program = make_program()
    (tmp_path / "file").write_text("")
    assert run("build", program, "--out", Path(tmp_path / "file" / "bundle")) in (2, 3)
    assert "error: " in capsys.readouterr().err
