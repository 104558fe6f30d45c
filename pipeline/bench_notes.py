"""What a reader should know before quoting a benchmark's figures."""

from __future__ import annotations

from typing import Any

NEVER_SLOWER = 1.05  # adaptive ÷ dense, at most, on any input


def notes_of(result: dict[str, Any]) -> list[str]:
    """`result` as in docs/report.md, complete but for its notes."""
    notes = []
    if result["baseline"]["kind"] == "masked program":
        notes.append(
            "No unmasked baseline was given: speed and accuracy are compared with the masked program run densely, "
            "which is slower than the network that one would otherwise ship. This flatters the speedup."
        )
    if not result["sweep"] and result["work"]["ideal_share"] == 1.0:
        notes.append("The program has no mask, and no image left early: nothing was skipped.")
    if result["realization"] is None:
        notes.append("More than 95 % of the work is active: there is no saving to realize.")
    if result["accuracy"]["metric"] == "agreement":
        notes.append("The data has no labels: the metric is agreement with the program run densely.")
    if result["worst_case"]["ratio"] > NEVER_SLOWER:
        worst = "every position active" if result["sweep"] else "all layers computed"
        notes.append(
            f"With {worst} the bundle took {result['worst_case']['ratio']:.2f} times as long as its "
            f"program run densely, which should be at most {NEVER_SLOWER}."
        )
    return [*notes, *machine_notes(result["environment"])]


def machine_notes(environment: dict[str, Any]) -> list[str]:
    load, cores = (environment["load_average"] or [0.0])[0], environment["usable_cores"]
    if load > cores + 0.5:
        busy = f"The machine was busy (load {load:.1f} on {cores} cores)"
        return [f"{busy}: times are long and noisy, ratios and CPU times hold better."]
    if environment["governor"] != "performance":
        return ["Clocks were not fixed and the machine may have been shared: trust ratios, not times."]
    return []
