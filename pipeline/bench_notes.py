"""What a reader should know before quoting a benchmark's figures."""

from __future__ import annotations

from typing import Any

NEVER_SLOWER = 1.05  # adaptive ÷ dense, at most, on any input
ENQUEUE_BOUND = 0.8  # of a call's time on a GPU: from there on, queueing its work is what it waits for


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
    low, high = result["worst_case"]["ratio_interval"]
    if low > NEVER_SLOWER:
        worst = "every position active" if result["sweep"] else "all layers computed"
        notes.append(
            f"With {worst} the bundle took {result['worst_case']['ratio']:.2f} times as long as its program run "
            f"densely (95 % interval {low:.2f} to {high:.2f}), which should be at most {NEVER_SLOWER}."
        )
    if result["gpu"]:
        return [*notes, *_bound_by_host(result), *_gpu_notes(result["gpu"])]
    return [*notes, *machine_notes(result["environment"])]


def _bound_by_host(result: dict[str, Any]) -> list[str]:
    """Times of a GPU that waits for work say little of the work."""
    places = {
        f"{name} at batch {point['batch']}, {point['height']}×{point['width']}": (
            point[f"{name}_enqueue_ms"],
            point[f"{name}_ms"],
        )
        for point in result["shapes"]
        for name in ("dense", "adaptive")
    }
    places |= {name: (each["enqueue_ms"], each["mean_ms"]) for name, each in result["latency"].items()}
    bound = [name for name, (enqueue, ms) in places.items() if enqueue >= ENQUEUE_BOUND * ms]
    if not bound:
        return []
    return [
        f"Bound by the host, which took {ENQUEUE_BOUND:.0%} of the time or more to queue the work: {', '.join(bound)}. "
        "The GPU waited; a larger batch, or a faster host, would show more of it."
    ]


def _gpu_notes(gpu: dict[str, Any]) -> list[str]:
    watched = gpu["watched"]
    if watched is None:
        return [
            f"The GPU's clocks are not known ({gpu['unknown']}): it may have been throttled. Trust ratios."
        ]
    notes = []
    if not watched["settled"]:
        notes.append("The GPU's clocks did not become stable within 15 s: trust ratios, not times.")
    if watched["rejected"]:
        kept = (
            f"; {watched['kept_throttled']} that were throttled again count"
            if watched["kept_throttled"]
            else ""
        )
        notes.append(f"The GPU was throttled in {watched['rejected']} steps, which were timed again{kept}.")
    if capped := watched["reasons"].get("power cap"):
        notes.append(
            f"The GPU ran at its power limit of {watched['most_watts']:.0f} W in {capped:.0%} of the samples."
        )
    return notes


def machine_notes(environment: dict[str, Any]) -> list[str]:
    load, cores = (environment["load_average"] or [0.0])[0], environment["usable_cores"]
    if load > cores + 0.5:
        busy = f"The machine was busy (load {load:.1f} on {cores} cores)"
        return [f"{busy}: times are long and noisy, ratios and CPU times hold better."]
    if environment["governor"] != "performance":
        return ["Clocks were not fixed and the machine may have been shared: trust ratios, not times."]
    return []
