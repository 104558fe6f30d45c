"""`foveate stream`: a program that nobody prepared, a video, one command."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from foveate.pipeline.cli import main
from foveate.pipeline.cli.arguments import policy_of
from foveate.pipeline.cli.main import parser
from foveate.pipeline.report_schema import check_report
from foveate.pipeline.streams.schema import FIELDS
from foveate.runtime.bundle import open_bundle
from foveate.runtime.errors import InputError

from ..clips import FRAMES, SIZE, Net, edges_program, moving_square

av = pytest.importorskip("av")


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return edges_program(tmp_path_factory.mktemp("net") / "edges.onnx")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return moving_square(tmp_path_factory.mktemp("video") / "clip.avi")


@pytest.fixture(scope="module")
def out(program, video, tmp_path_factory) -> Path:
    """What one command leaves behind."""
    folder = tmp_path_factory.mktemp("out")
    arguments = ["--streams", 2, "--fps", 5, "--cuts", 6, "--no-fallback", "--threads", 1, "--quiet"]
    assert run("stream", program, video, "--out", folder, *arguments) == 0
    return folder


@pytest.fixture
def result(out) -> dict:
    return json.loads((out / "report.json").read_text())


def test_a_program_nobody_prepared_runs_with_one_command(out, result):
    check_report(result, FIELDS)
    assert result["exact"] is True and result["frames"] == FRAMES and result["name"] == "edges"
    assert result["whole"] == {"first": 1} and result["policy"] == {"fallback": False}
    assert 0 < result["unsaved"] < 0.01 and "pooled (GlobalAveragePool)" in result["barrier"]
    assert [e["output"] for e in result["errors"]] == ["edges", "scores"]
    assert result["errors"][0]["hold"]["mean"] > 0 and result["errors"][0]["of_hold"] < 1e-3
    assert result["paced"]["streams"] == 2 and result["paced"]["fps"] == 5
    assert result["paced"]["stream"]["frames"] == result["paced"]["dense"]["frames"] == 2 * FRAMES
    assert (
        result["latency"]["stream"]["n"] == 2 * FRAMES
        and result["latency"]["stream"]["p90_ms"] == "n too small"
    )
    assert result["state_bytes"] > 0 and result["settings"]["shape"] == [1, 3, *SIZE]
    assert any("whether errors add up" in note for note in result["notes"])


def test_work_follows_what_changed_and_a_cut_changes_most_of_it(result):
    work, changed = result["series"]["work"], result["series"]["changed"]
    square = 8 * 8 / (SIZE[0] * SIZE[1])
    assert work[0] == changed[0] == 1 and max(changed[1:6]) < 3 * square
    assert max(work[1:6]) < 0.2 and changed[6] > 0.9 and changed[7] < 3 * square


def test_outputs_are_a_video_where_they_are_images_and_arrays_elsewhere(out):
    with av.open(str(out / "outputs" / "edges.mp4")) as container:
        frames = [f.to_ndarray(format="gray") for f in container.decode(video=0)]
    assert len(frames) == FRAMES and frames[0].shape == SIZE
    arrays = sorted((out / "outputs").glob("*.npz"))
    assert len(arrays) == FRAMES
    with np.load(arrays[0]) as first:
        assert list(first) == ["scores"] and first["scores"].shape == (1, 4)


def test_the_overlay_is_a_video_and_pictures(out, result):
    with av.open(str(out / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES
    names = {f"{p['frame']:06}.png" for p in result["pictures"]}
    assert {p.name for p in (out / "overlay").iterdir()} == names and len(names) == 6


def test_the_page_shows_plots_pictures_and_figures(out):
    html = (out / "report.html").read_text()
    assert html.count("<svg") == 2 and html.count("data:image/jpeg") == 6
    for shown in ("Error against the dense program", "hold the previous output", "Deadlines", "equal", "MB"):
        assert shown in html
    assert "Deadlines" in (out / "report.md").read_text()


def test_the_table_on_standard_output(program, video, tmp_path, capsys):
    arguments = ["--out", tmp_path, "--frames", 4, "--compare-every", 3, "--outputs", "none", "--threads", 1]
    assert run("stream", program, video, *arguments) == 0
    shown = capsys.readouterr()
    assert re.search(r"×  speedup", shown.out) and "equal  to the dense program" in shown.out
    assert "Foveate, stream" in shown.out and "deadlines missed" in shown.out
    assert "✓ build" in shown.err and "✓ stream" in shown.err
    assert not (tmp_path / "outputs").exists()
    assert json.loads((tmp_path / "report.json").read_text())["series"]["compared"] == [0, 2, 3]
    assert run("stream", program, video, *arguments, "--no-compare", "--json") == 0
    again = capsys.readouterr()
    assert "· build" in again.err  # nothing changed
    printed = json.loads(again.out)
    assert printed["speedup"] is printed["exact"] is None and printed["errors"] == []


def test_an_exact_policy_that_errs_fails_the_check(out, video, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("foveate.pipeline.streams.run.EXACT", -1.0)
    arguments = ["--out", tmp_path, "--frames", 2, "--outputs", "none", "--threads", 1, "--quiet"]
    assert run("stream", out / "bundle", video, *arguments) == 1
    assert "DIFFERENT  to the dense program" in capsys.readouterr().out


def test_a_bundle_streams_by_its_own_preprocess_and_options_of_the_policy(out, video, tmp_path):
    options = ["--threshold", "8/255", "--block", 8, "--vote", 4, "--layer-threshold", 0.05, "--no-fallback"]
    assert run("stream", out / "bundle", video, "--out", tmp_path, *options, "--threads", 1, "--quiet") == 0
    result = json.loads((tmp_path / "report.json").read_text())
    assert result["exact"] is None and not (tmp_path / "bundle").exists()
    assert result["policy"] == {
        "threshold": 8 / 255,
        "block": 8,
        "vote": 4,
        "layer_threshold": 0.05,
        "fallback": False,
    }


@pytest.mark.parametrize("first", [True, False])
def test_a_program_without_streams_is_refused_by_the_barriers_name(first, video, tmp_path, capsys):
    net = Net()
    x = "images" if first else net.conv("images", "stem", 3, 1)
    squeeze = net.add("GlobalAveragePool", [x], "squeeze")
    x = net.add("Mul", [x, squeeze], "excite")
    for number in range(0 if first else 3):
        x = net.conv(x, f"body{number}", 16 if number else 1, 16)
    program = net.save(tmp_path / "se.onnx", x, 3 if first else 16)
    assert run("stream", program, video, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "squeeze (GlobalAveragePool) pools the whole map" in error and "--mode regions" in error
    share = float(re.findall(r"([\d.]+)% of the work cannot be saved", error)[0])
    assert share == 100 if first else 95 < share < 100


def test_regions_take_their_own_options(video, tmp_path):
    net = Net()
    program = net.save(tmp_path / "map.onnx", net.conv("images", "body", 3, 4), 4)
    options = ["--mode", "regions", "--margin", 16, "--side", 16, "--audit", 4, "--threads", 1, "--quiet"]
    assert run("stream", program, video, "--out", tmp_path / "out", *options) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["mode"] == "regions" and report["policy"]["margin"] == 16
    assert report["whole"]["audit"] > 0


def test_frames_are_resized_to_a_multiple_that_the_program_demands(tmp_path, capfd):
    net = Net()
    x = net.conv(net.conv("images", "down", 3, 3, stride=2), "down2", 3, 3, stride=2)
    scales = net.constant("scales", np.array([1, 1, 4, 4]))
    up = net.add("Resize", [x, "", scales], "up", mode="nearest")
    program = net.save(tmp_path / "unet.onnx", net.add("Add", [up, "images"], "sum"), 3)
    video = moving_square(tmp_path / "odd.avi", (50, 70))
    arguments = ["--out", tmp_path, "--threads", 1, "--outputs", "none"]
    assert run("stream", program, video, *arguments) == 0
    shown = capfd.readouterr()
    assert (
        "Frames of 50×70 are resized to 48×72, for the program does not run at theirs" in shown.out
        and "onnxruntime" not in shown.err
    )
    assert run("stream", program, video, *arguments, "--size", "24x32", "--json") == 0
    assert json.loads(capfd.readouterr().out)["settings"]["shape"] == [1, 3, 24, 32]


def test_a_size_that_the_program_fixes_is_taken_and_another_on_demand(video, tmp_path, capsys):
    net = Net()
    for dim, size in zip(net.inputs[0].type.tensor_type.shape.dim, (1, 3, 32, 40), strict=True):
        dim.dim_value = size
    program = net.save(tmp_path / "fixed.onnx", "images", 3)
    arguments = ["--out", tmp_path / "x", "--frames", 3, "--threads", 1, "--outputs", "none"]
    assert run("stream", program, video, *arguments) == 0
    assert "are resized to 32×40, which the program fixes" in capsys.readouterr().out
    assert run("stream", program, video, *arguments, "--size", "48x64") == 0
    assert "input 1×3×48×64" in capsys.readouterr().out


def test_a_program_of_one_channel_gets_grey_frames(video, tmp_path):
    net = Net(channels=1)
    program = net.save(tmp_path / "grey.onnx", "images", 1)
    assert (
        run("stream", program, video, "--out", tmp_path / "x", "--frames", 3, "--no-compare", "--quiet") == 0
    )
    assert open_bundle(tmp_path / "x" / "bundle").manifest.preprocess.color == "gray"


def test_a_missing_model_or_place_is_named(program, video, tmp_path, capsys):
    assert run("stream", tmp_path / "no.onnx", video, "--out", tmp_path / "x") == 2
    assert "no.onnx: got no such file" in capsys.readouterr().err
    assert run("stream", program, video) == 2
    assert "Add --out" in capsys.readouterr().err
    assert run("stream", program, tmp_path / "no.avi", "--out", tmp_path / "x") == 2
    assert "no.avi: got no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "missing"), [("matplotlib", "Plots are missing"), ("PIL", "The overlay could not")]
)
def test_without_an_extra_a_part_is_missing_and_a_note_says_so(
    out, video, tmp_path, monkeypatch, package, missing
):
    monkeypatch.setitem(sys.modules, package, None)
    arguments = ["--out", tmp_path, "--frames", 3, "--outputs", "none", "--threads", 1, "--quiet"]
    assert run("stream", out / "bundle", video, *arguments) == 0
    assert missing in (tmp_path / "report.md").read_text()


def test_the_policys_options_are_those_of_the_policy():
    given = [
        "--threshold",
        "8/255",
        "--keep",
        "2",
        "--layer-threshold",
        "body=1/20",
        "--layer-threshold",
        "up=0",
    ]
    found = policy_of(parser().parse_args(["stream", "m", "v", *given, "--drift", "0.5", "--no-fallback"]))
    assert found == {
        "threshold": 8 / 255,
        "keep": 2,
        "layer_threshold": {"body": 0.05, "up": 0.0},
        "drift": 0.5,
        "fallback": False,
    }
    assert policy_of(parser().parse_args(["stream", "m", "v"])) == {}


@pytest.mark.parametrize(
    "wrong", [["--threshold", "1/0"], ["--block", "-1"], ["--mode", "tiles"], ["--fps", "0"]]
)
def test_a_wrong_option_is_usage(wrong, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("stream", "m", "v", *wrong)
    assert stopped.value.code == 2


def test_the_document_describes_every_key_and_no_other():
    text = (Path(__file__).resolve().parents[2] / "docs/stream-report.md").read_text()
    described = set(re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE))
    assert described == {path for path in FIELDS if not path.endswith("[]")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("work"), "work is missing"),
        (lambda r: r["errors"][0].update(mean="0"), r"errors\[\].mean is str"),
        (lambda r: r["paced"].pop("dense"), "paced.dense is missing"),
    ],
)
def test_a_result_that_does_not_follow_the_schema_is_refused(result, change, message):
    changed = copy.deepcopy(result)
    change(changed)
    with pytest.raises(InputError, match=message):
        check_report(changed, FIELDS)
