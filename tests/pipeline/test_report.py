"""Reports: valid, complete, self-contained, and refused when the result does not follow the schema."""

from __future__ import annotations

import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from foveate.pipeline.report import markdown, plain_table, print_result, read_report, write_report
from foveate.pipeline.report_plots import PALETTE
from foveate.pipeline.report_schema import FIELDS, check_report
from foveate.pipeline.report_tables import main_table, tables
from foveate.runtime.errors import InputError

from .report_sample import sample_report

ROOT = Path(__file__).resolve().parents[2]
EXTERNAL = re.compile(
    r"""(?:src|href|data|action|poster|srcset)\s*=\s*["'](?!data:|\#)|url\((?!#)|@import""", re.I
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(sample_report(), folder)
    return folder


def test_report_json_is_the_result_and_follows_the_schema(written):
    assert json.loads((written / "report.json").read_text()) == sample_report()
    assert read_report(written) == sample_report()
    assert sorted(p.name for p in written.iterdir()) == ["report.html", "report.json", "report.md"]


def test_report_html_asks_the_network_for_nothing(written):
    html = (written / "report.html").read_text()
    assert EXTERNAL.search(html) is None
    assert "<script" not in html and "<!DOCTYPE svg" not in html
    assert html.count("<svg") == 3 and html.count("data:image/png;base64,") == 2


def test_report_html_is_well_formed_and_escapes_names(written):
    html = (written / "report.html").read_text()
    assert "scenes &lt;resnet&gt;" in html and "<resnet>" not in html
    stack = _Balance()
    stack.feed(html)
    assert stack.open == []


class _Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_ids_of_the_plots_do_not_clash(written):
    ids = re.findall(r'\bid="([^"]+)"', (written / "report.html").read_text())
    shared = {i for i in ids if ids.count(i) > 1}
    used = set(re.findall(r"#([\w-]+)", (written / "report.html").read_text()))
    assert not shared & used


def test_plots_take_their_colours_from_the_page(written):
    html = (written / "report.html").read_text()
    assert all(f"--{name}:" in html for name in PALETTE)
    assert not any(colour in html for colour in PALETTE.values())


@pytest.mark.parametrize("file", ["report.md", "report.html"])
def test_every_figure_of_the_headline_is_shown(written, file):
    text = (written / file).read_text()
    for shown in (
        "2.00×",
        "66.7 %",
        "20.0 %",
        "62.0 %",
        "0.9275",
        "0.9300",
        "3.2e-07",
        "n too small",
        "clocks were not",
    ):
        assert shown in text


def test_without_matplotlib_the_page_has_tables_and_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_report(sample_report(), tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "<svg" not in html and "foveate[report]" in html
    assert read_report(tmp_path) == sample_report()


def test_a_report_without_sweep_tradeoff_and_overlays_is_written(tmp_path):
    result = sample_report()
    result.update(sweep=[], tradeoff=[], overlays=[], realization=None, break_even=None, strategies={})
    write_report(result, tmp_path)
    assert (tmp_path / "report.html").read_text().count("<svg") == 1
    assert "n/a" in (tmp_path / "report.md").read_text()


def test_markdown_tables_have_equal_columns():
    rows = [line for line in markdown(sample_report()).splitlines() if line.startswith("|")]
    assert len(rows) > 40
    for table in tables(sample_report()):
        assert all(len(row) == len(table.header) for row in table.rows)


def test_the_console_shows_headline_and_table_without_colours_where_there_is_no_terminal():
    out = io.StringIO()
    print_result(sample_report(), out)
    assert "2.00×  speedup" in out.getvalue() and "masked program, dense" in out.getvalue()
    assert "\x1b" not in out.getvalue()


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_the_console_uses_rich_on_a_terminal_and_respects_no_color(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = _Terminal(), _Terminal()
    print_result(sample_report(), coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    print_result(sample_report(), plain)
    assert "\x1b[1;32m" in coloured.getvalue() and "\x1b[1;32m" not in plain.getvalue()
    assert "masked program, dense" in plain.getvalue()


def test_without_rich_a_terminal_gets_plain_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    out = _Terminal()
    print_result(sample_report(), out)
    assert plain_table(main_table(sample_report()))[0] in out.getvalue()


def test_the_masked_program_is_the_baseline_where_no_other_was_given():
    result = sample_report()
    result["baseline"]["kind"] = "masked program"
    assert [row[0] for row in main_table(result).rows] == ["masked program, dense", "Foveate, adaptive"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("realization"), "realization is missing"),
        (lambda r: r.update(extra=1), "extra is unknown"),
        (lambda r: r.update(speedup="2"), "speedup is str, not number"),
        (lambda r: r.update(speedup=float("nan")), "speedup is NaN"),
        (lambda r: r.update(schema_version=99), "schema_version 99"),
        (lambda r: r["sweep"][3].pop("selective_ms"), r"sweep\[\].selective_ms is missing"),
        (lambda r: r["latency"]["dense"].update(n=1.5), r"latency.\*.n is float"),
        (lambda r: r["parity"].update(passed=1), "parity.passed is int"),
        (lambda r: r["settings"].update(rounds=True), "settings.rounds is bool"),
    ],
)
def test_a_result_that_does_not_follow_the_schema_is_refused(tmp_path, change, message):
    result = sample_report()
    change(result)
    with pytest.raises(InputError, match=message):
        write_report(result, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_report_names_the_file(tmp_path):
    with pytest.raises(InputError, match=r"report\.json"):
        read_report(tmp_path)


def test_the_document_describes_every_key_and_no_other():
    text = (ROOT / "docs/report.md").read_text()
    described = set(re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE))
    assert described == {path for path in FIELDS if not path.endswith("[]")}


def test_the_issue_s_keys_are_at_the_top_level():
    required = (
        "schema_version speedup ideal_speedup realization active_fraction dense_ms adaptive_ms break_even"
    )
    assert {*required.split(), "accuracy", "parity", "environment", "efficiency"} <= FIELDS.keys()
    assert {
        "accuracy.dense",
        "accuracy.adaptive",
        "parity.max_rel_error",
        "parity.decision_agreement",
    } <= FIELDS.keys()
    check_report(sample_report())
