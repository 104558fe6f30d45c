"""The README's figures come from a report, and its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def readme_table():
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "benchmarks" / "readme_table.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_marked_block_alone_is_replaced(readme_table, monkeypatch):
    monkeypatch.setattr(readme_table, "block", lambda result: f"speedup {result['speedup']}")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    once = readme_table.fill(text, {"speedup": 2.5})
    assert "speedup 2.5" in once
    assert readme_table.fill(once, {"speedup": 3.5}) == once.replace("speedup 2.5", "speedup 3.5")
    start, end = text.index(readme_table.BEGIN), text.index(readme_table.END)
    assert once.startswith(text[:start]) and once.endswith(text[end:])


def test_a_readme_without_the_block_is_refused(readme_table):
    with pytest.raises(SystemExit, match="no block"):
        readme_table.fill("# Another project", {})


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/*.md"))]
)
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in t]
    missing = [t for t in targets if not ((ROOT / page).parent / t).exists()]
    assert not missing


def test_every_command_of_the_documentation_exists():
    from foveate.pipeline.cli.main import COMMANDS

    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    used = {
        c
        for page in pages
        for c in re.findall(r"^(?:\$ )?foveate ([a-z]+)", page.read_text(encoding="utf-8"), re.M)
    }
    assert used and used <= set(COMMANDS)
