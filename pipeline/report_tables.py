"""The report's tables, once for the console, Markdown and HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .report_format import NOT_AVAILABLE, error, figure, ms, share, tail, times

SHAPES = "Batches and sizes"


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
    latency, accuracy, energy = result["latency"], result["accuracy"], result["energy"]
    rows = [
        (
            label,
            ms(latency[name]["mean_ms"]),
            times(latency["dense"]["mean_ms"] / latency[name]["mean_ms"]),
            ms(latency[name]["cpu_ms"]),
            *(tail(latency[name][f"p{p}_ms"]) for p in (50, 90, 99)),
            *([f"{energy[name]:.3g}"] if energy else []),
            figure(accuracy[name]),
        )
        for name, label in contenders(result).items()
        if name != "dense" or result["baseline"]["kind"] == "unmasked"
    ]
    settings, baseline = result["settings"], result["baseline"]
    calls = latency["adaptive"]["n"]
    return Table(
        "Speed and accuracy",
        (
            *("", "mean ms", "speedup", "CPU ms", "p50 ms", "p90 ms", "p99 ms"),
            *(["J an image"] if energy else []),
            accuracy["metric"],
        ),
        tuple(rows),
        f"{settings['images']} images × {settings['rounds']} rounds = {calls} calls each, interleaved, "
        f"{_where(result)}, input {'×'.join(map(str, settings['shape']))}. "
        f"Baseline: {baseline['kind']}, {baseline['settings']}.",
    )


def _where(result: dict[str, Any]) -> str:
    gpu = result["gpu"]
    return f"on {gpu['name']} by its events" if gpu else f"{result['settings']['threads']} threads"


def tables(result: dict[str, Any]) -> list[Table]:
    return [
        main_table(result),
        *([_sweep(result)] if result["sweep"] else []),
        *([_shapes(result)] if result["shapes"] else []),
        *([_mixed(result)] if result["mixed"] else []),
        *([_tradeoff(result)] if result["tradeoff"] else []),
        _waterfall(result),
        _share_of_saving(result),
        _worst_case(result),
        _parity(result),
        *([_gpu(result["gpu"])] if result["gpu"] else []),
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


def _shapes(result: dict[str, Any]) -> Table:
    rows = tuple(
        (
            f"{point['batch']} of {point['height']}×{point['width']}",
            ms(point["dense_ms"]),
            ms(point["masked_dense_ms"]),
            ms(point["adaptive_ms"]),
            f"{1e3 / point['adaptive_ms']:.0f}",
            times(point["speedup"]),
            f"{times(point['speedup_interval'][0])} … {times(point['speedup_interval'][1])}",
            times(point["ideal_speedup"]),
            share(point["realization"]),
        )
        for point in result["shapes"]
    )
    names = contenders(result)
    header = (
        "images",
        names["dense"],
        names["masked_dense"],
        names["adaptive"],
        "images a second",
        "speedup",
        "95 %",
        "ideal",
        "realization",
    )
    return Table(SHAPES, header, rows, "ms an image; dense engines are tuned for each shape.")


def _mixed(result: dict[str, Any]) -> Table:
    mixed = result["mixed"]
    rows = (
        ("all layers, dense", ms(mixed["dense_ms"]), times(1.0)),
        ("Foveate, mixed", ms(mixed["mixed_ms"]), times(mixed["speedup"])),
        ("ideal", ms(mixed["ideal_ms"]), times(mixed["dense_ms"] / mixed["ideal_ms"])),
    )
    taken = ", ".join(map(str, mixed["depths"]))
    note = (
        f"{mixed['batch']} images of {taken} layers. Ideal: each at its share of a batch in which all take its depth; "
        f"{share(mixed['of_ideal'])} of it was reached."
    )
    return Table("A batch of mixed depths", ("", "ms an image", "speedup"), rows, note)


def _gpu(gpu: dict[str, Any]) -> Table:
    watched = gpu["watched"]
    state = (
        (
            ("clock", f"{_span(watched['sm_mhz'])} MHz, of {watched['most_sm_mhz']:.0f}"),
            ("memory clock", f"{_span(watched['memory_mhz'])} MHz"),
            ("temperature", f"{_span(watched['celsius'])} °C"),
            ("power", f"{_span(watched['watts'])} W, of {watched['most_watts']:.0f}"),
            (
                "kept low by",
                ", ".join(f"{r} {share(n, 0)}" for r, n in watched["reasons"].items()) or "nothing",
            ),
            ("throttled steps", f"{watched['rejected']} timed again, {watched['kept_throttled']} kept"),
        )
        if watched
        else (("clocks", f"not known: {gpu['unknown']}"),)
    )
    named = (("GPU", f"{gpu['name']}, {gpu['compute']}"), ("driver", gpu["driver"] or NOT_AVAILABLE))
    return Table("GPU", ("", "value"), (*named, *state), "Least, mean and most over all steps, by NVML.")


def _span(values: dict[str, float]) -> str:
    return f"{values['least']:.0f} … {values['mean']:.0f} … {values['most']:.0f}"


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
    low, high = worst["ratio_interval"]
    ratio = f"{worst['ratio']:.2f} ({low:.2f} to {high:.2f})"
    rows = (
        (f"to {contenders(result)['masked_dense']}", ms(worst["masked_dense_ms"]), ratio),
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
