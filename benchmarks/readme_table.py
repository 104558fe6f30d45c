"""Put the figures of a report into the README, so that none is ever typed by hand, and print them.

python benchmarks/readme_table.py build/demo/report/report.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from foveate.pipeline.files import write_text
from foveate.pipeline.report import markdown_table, print_result, read_report
from foveate.pipeline.report_tables import headline, main_table

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- result: filled by benchmarks/readme_table.py -->", "<!-- /result -->"


def block(result: dict[str, Any]) -> str:
    environment = result["environment"]
    versions = environment["versions"]
    lines = [f"- **{figure}** {what} ({behind})" for figure, what, behind in headline(result)]
    lines += ["", *markdown_table(main_table(result)), ""]
    lines.append(
        f"{environment['cpu']}, {environment['threads']} threads, ONNX Runtime {versions.get('onnxruntime', '?')}, "
        f"{result['created'][:10]}."
    )
    return "\n".join(lines)


def fill(text: str, result: dict[str, Any]) -> str:
    """The README's text with the marked block replaced."""
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise SystemExit(f"error: {README.name} has no block between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{block(result)}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path)
    parser.add_argument("--readme", type=Path, default=README)
    args = parser.parse_args()
    result = read_report(args.report)
    write_text(args.readme, fill(args.readme.read_text(encoding="utf-8"), result))
    print_result(result)


if __name__ == "__main__":
    main()
