"""The report's tables, once for the console, Markdown and HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .report_format import NOT_AVAILABLE, error, figure, ms, share, tail, times


def contenders(result: dict[str, Any]) -> dict[str, str]:
    """What the report calls each."""
    program = "masked program" if result["sweep"] else "all layers" if result["exits"] else "program"
    return {"dense": "baseline, dense", "masked_dense": f"{program}, dense", "adaptive": "Foveate, adaptive"}


@dataclass(frozen=True)
class Table:
    """The first column is text, the others figures. `note` stands below."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def headline(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(figure, what it is, what stands behind it), most important first."""
    low, high = result["speedup_interval"]
    accuracy, parity = result["accuracy"], result["parity"]
    return [
        (times(result["speedup"]), "speedup", f"95 % interval {times(low)} to {times(high)}"),
        (
            share(result["realization"]),
            "realization",
            f"of the time that the skipped work should save; the ideal is {times(result['ideal_speedup'])}",
        ),
        _how_much(result),
        (
            figure(accuracy["adaptive"]),
            accuracy["metric"],
            f"baseline {figure(accuracy['dense'])}, over {accuracy['images']} images",
        ),
        (
            "equal" if parity["passed"] else "DIFFERENT",
            "to the dense reference",
            f"decisions agree {share(parity['decision_agreement'], 2)}, "
            f"largest relative error {error(parity['max_rel_error'])}",
        ),
    ]


def _how_much(result: dict[str, Any]) -> tuple[str, str, str]:
    """Of the work: positions, or without masks layers."""
    if result["sweep"] or not result["exits"]:
        return share(result["active_fraction"]), "active", f"break-even at {share(result['break_even'])}"
    taken = ", ".join(f"{k}: {share(each, 0)}" for k, each in result["exits"]["shares"].items())
    layers = f"layers of {result['exits']['layers']}"
    return f"{result['exits']['mean_depth']:.2f}", layers, f"mean over the images; {taken}"


def main_table(result: dict[str, Any]) -> Table:
    """Speed and accuracy of the three contenders."""
    latency, accuracy = result["latency"], result["accuracy"]
    rows = [
        (
            label,
            ms(latency[name]["mean_ms"]),
            times(latency["dense"]["mean_ms"] / latency[name]["mean_ms"]),
            ms(latency[name]["cpu_ms"]),
            *(tail(latency[name][f"p{p}_ms"]) for p in (50, 90, 99)),
            figure(accuracy[name]),
        )
        for name, label in contenders(result).items()
        if name != "dense" or result["baseline"]["kind"] == "unmasked"
    ]
    settings, baseline = result["settings"], result["baseline"]
    calls = latency["adaptive"]["n"]
    return Table(
        "Speed and accuracy",
        ("", "mean ms", "speedup", "CPU ms", "p50 ms", "p90 ms", "p99 ms", accuracy["metric"]),
        tuple(rows),
        f"{settings['images']} images × {settings['rounds']} rounds = {calls} calls each, interleaved, "
        f"{settings['threads']} threads, input {'×'.join(map(str, settings['shape']))}. "
        f"Baseline: {baseline['kind']}, {baseline['settings']}.",
    )


def tables(result: dict[str, Any]) -> list[Table]:
    return [
        main_table(result),
        *([_sweep(result)] if result["sweep"] else []),
        *([_tradeoff(result)] if result["tradeoff"] else []),
        _waterfall(result),
        _share_of_saving(result),
        _worst_case(result),
        _parity(result),
        environment_table(result),
    ]


def _share_of_saving(result: dict[str, Any]) -> Table:
    work = result["work"]
    rows = (
        ("work, dense", f"{work['dense_macs'] / 1e6:.1f}", f"{work['dense_bytes'] / 1e6:.1f}", "1.00×"),
        (
            "work, active",
            f"{work['active_macs'] / 1e6:.1f}",
            f"{work['active_bytes'] / 1e6:.1f}",
            times(result["ideal_speedup"]),
        ),
    )
    return Table(
        "What the skipped work should save",
        ("", "million MACs", "MB moved", "ideal speedup"),
        rows,
        f"Realization {share(result['realization'])} = (T_dense − T_adaptive) ÷ (T_dense − T_ideal); efficiency "
        f"{share(result['efficiency'])} = T_ideal ÷ T_adaptive. A layer's time is taken as the larger of its MACs and "
        f"its bytes × {work['macs_per_byte']:.0f} MACs a byte, this device's balance. Active work is each layer's "
        f"minimal exact set, never halo or cover.",
    )


def _waterfall(result: dict[str, Any]) -> Table:
    total = sum(part["ms"] for part in result["waterfall"]) or 1.0
    rows = tuple((p["part"], ms(p["ms"]), share(p["ms"] / total)) for p in result["waterfall"])
    used = ", ".join(f"{name} {share(value)}" for name, value in result["strategies"].items())
    return Table(
        "Where the time goes", ("part", "ms", "share"), rows, f"Strategies of region runs: {used or 'none'}."
    )


def _sweep(result: dict[str, Any]) -> Table:
    rows = tuple(
        (
            share(point["active_fraction"]),
            ms(point["dense_ms"]),
            ms(point["masked_dense_ms"]),
            ms(point["adaptive_ms"]),
            ms(point["selective_ms"]),
            times(point["speedup"]),
            f"{times(point['speedup_interval'][0])} … {times(point['speedup_interval'][1])}",
            times(point["cpu_speedup"]),
            times(point["ideal_speedup"]),
            share(point["realization"]),
        )
        for point in result["sweep"]
    )
    header = (
        "active",
        "baseline ms",
        "masked ms",
        "auto ms",
        "selective ms",
        "speedup",
        "95 %",
        "CPU",
        "ideal",
        "realization",
    )
    return Table(
        "Speedup against active fraction",
        header,
        rows,
        "Real images; a quantile of each image's own logits is its threshold. "
        f"Break-even of selective execution with the baseline: {share(result['break_even'])}.",
    )


def _tradeoff(result: dict[str, Any]) -> Table:
    rows = tuple(
        (
            f"{p['threshold']:.4g}",
            share(p["active_fraction"]),
            ms(p["ms"]),
            times(result["dense_ms"] / p["ms"]),
            figure(p["accuracy"]),
        )
        for p in result["tradeoff"]
    )
    header = ("threshold", "active", "auto ms", "speedup", result["accuracy"]["metric"])
    return Table("Accuracy against latency", header, rows, "One threshold for all images.")


def _worst_case(result: dict[str, Any]) -> Table:
    worst = result["worst_case"]
    rows = (
        (f"to {contenders(result)['masked_dense']}", ms(worst["masked_dense_ms"]), f"{worst['ratio']:.2f}"),
        ("to the baseline", ms(worst["dense_ms"]), f"{worst['ratio_to_dense']:.2f}"),
    )
    which = "Every position active" if result["sweep"] else "All layers computed"
    note = f"{which}: adaptive takes {ms(worst['adaptive_ms'])} ms."
    return Table("Worst case", ("adaptive time ÷ dense time", "dense ms", "ratio"), rows, note)


def _parity(result: dict[str, Any]) -> Table:
    p = result["parity"]
    rows = (
        ("images compared", str(p["images"])),
        ("images with every decision equal", str(p["images_agreeing"])),
        ("equal positions", share(p["decision_agreement"], 3)),
        ("flipped positions (within rounding of the threshold)", f"{p['flips']} ({p['near_flips']})"),
        ("largest relative error on agreeing images", error(p["max_rel_error"])),
        ("tolerance", error(p["tolerance"])),
        ("worst image", p["worst_image"] or NOT_AVAILABLE),
        ("verdict", "passed" if p["passed"] else "failed"),
    )
    return Table("Parity with the dense reference", ("", "value"), rows)


def environment_table(result: dict[str, Any]) -> Table:
    e = result["environment"]
    clocks = ", ".join(f"{name} {mhz:.0f} MHz" for name, mhz in (e["clock_mhz"] or {}).items())
    rows = (
        ("CPU", e["cpu"]),
        ("cores", f"{e['usable_cores']} usable of {e['cores']}"),
        ("clock", clocks or NOT_AVAILABLE),
        ("load", ", ".join(f"{load:.2f}" for load in e["load_average"] or []) or NOT_AVAILABLE),
        ("threads", str(e["threads"])),
        ("backend", e["backend"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in e["versions"].items())),
        ("Python, OS", f"{e['python']}, {e['os']}"),
        ("git revision", e["git_revision"] or NOT_AVAILABLE),
        ("data", result["settings"]["data"]),
        *((name, f"sha256 {digest[:16]}…") for name, digest in e["files"].items()),
    )
    return Table("Environment", ("", "value"), rows, "Full hashes are in report.json.")
