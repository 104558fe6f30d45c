"""report.json: every key, its type and what it means. docs/report.md explains the same at length.

A path names nested keys with dots, `[]` stands for the items of a list and `*` for any key. Times are ms of wall
clock an image unless the key says cpu. Shares and fractions are in [0, 1]. Keys whose type ends in "|null" are null
where the figure cannot be given, with the reason among `notes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..runtime.errors import InputError

SCHEMA_VERSION = 1

Fields = Mapping[str, tuple[str, str]]  # path -> type and meaning

LATENCY = {
    "mean_ms": ("number", "mean over images of the median over rounds"),
    "cpu_ms": ("number", "the same of the process's CPU time, all threads"),
    "p50_ms": ("number|text", "median of the timed calls, or 'n too small'"),
    "p90_ms": ("number|text", "needs 64 calls"),
    "p99_ms": ("number|text", "needs 662 calls"),
    "n": ("int", "timed calls: images × rounds"),
}
FIELDS: Fields = {
    "schema_version": ("int", "version of this schema"),
    "name": ("text", "the bundle's name"),
    "created": ("text", "time of the measurement, UTC, ISO 8601"),
    "speedup": ("number", "dense_ms ÷ adaptive_ms"),
    "speedup_interval": ("list", "95 % bootstrap confidence interval of speedup: [low, high]"),
    "speedup_interval[]": ("number", "an end of the interval"),
    "cpu_speedup": ("number", "the same ratio of CPU times"),
    "masked_speedup": ("number", "masked_dense_ms ÷ adaptive_ms"),
    "ideal_speedup": ("number", "dense work ÷ active work: what skipping at no cost would reach"),
    "realization": (
        "number|null",
        "(T_dense − T_adaptive) ÷ (T_dense − T_ideal); null above 95 % active work",
    ),
    "efficiency": ("number", "T_ideal ÷ T_adaptive"),
    "active_fraction": (
        "number",
        "active positions ÷ positions over all decisions, mean over the timed images",
    ),
    "dense_ms": (
        "number",
        "the baseline: the network without masks if one was given, else the program, run densely",
    ),
    "masked_dense_ms": ("number", "the program run densely: masks multiplied in, all layers computed"),
    "adaptive_ms": ("number", "the bundle, strategy auto: everything counted"),
    "break_even": (
        "number|null",
        "active fraction from which on selective execution costs more than dense_ms",
    ),
    "baseline": ("object", "what dense_ms was measured on"),
    "baseline.kind": ("text", "'unmasked'; 'masked program' or, if it has no masks, 'program'"),
    "baseline.file": ("text", "its file"),
    "baseline.settings": ("text", "the fastest of the settings tried"),
    "masked_dense_settings": ("text", "the same of the program"),
    "latency": ("object", "by contender: dense, masked_dense, adaptive"),
    "latency.*": ("object", "one contender"),
    **{f"latency.*.{key}": value for key, value in LATENCY.items()},
    "latency.*.enqueue_ms": (
        "number",
        "mean_ms of the host until the call returns, without its waiting for a GPU; on a CPU all of it",
    ),
    "work": ("object", "of one image, mean over the timed images; active is each layer's minimal exact set"),
    "work.dense_macs": ("number", "multiply-accumulates, everything computed"),
    "work.active_macs": ("number", "multiply-accumulates, active positions only"),
    "work.dense_bytes": ("number", "bytes read and written by each layer, everything computed"),
    "work.active_bytes": ("number", "the same, active positions only"),
    "work.macs_per_byte": ("number", "this device's balance, which weighs the two"),
    "work.ideal_share": ("number", "active work ÷ dense work"),
    "waterfall": ("list", "where adaptive_ms goes, in the order of the work"),
    "waterfall[]": ("object", "one part"),
    "waterfall[].part": (
        "text",
        "stem (with the decisions that it makes), layers to an exit, head, plan, gather, compute, scatter, restore, "
        "fallback, tail, other",
    ),
    "waterfall[].ms": ("number", "mean over the timed calls"),
    "strategies": ("object", "share of region runs by strategy, over the timed images"),
    "strategies.*": ("number", "share"),
    "sweep": ("list", "real images, thresholds forced so that a given fraction is active"),
    "sweep[]": ("object", "one fraction"),
    "sweep[].target": ("number", "the fraction asked for"),
    "sweep[].active_fraction": ("number", "the fraction reached"),
    "sweep[].dense_ms": ("number", "the baseline, in the same rounds"),
    "sweep[].masked_dense_ms": ("number", "the program run densely, in the same rounds"),
    "sweep[].adaptive_ms": ("number", "strategy auto"),
    "sweep[].selective_ms": ("number", "selective execution forced, at any price"),
    "sweep[].speedup": ("number", "dense_ms ÷ adaptive_ms"),
    "sweep[].speedup_interval": ("list", "its 95 % confidence interval"),
    "sweep[].speedup_interval[]": ("number", "an end of the interval"),
    "sweep[].cpu_speedup": ("number", "the same ratio of CPU times"),
    "sweep[].ideal_speedup": ("number", "dense work ÷ active work"),
    "sweep[].realization": ("number|null", "as above"),
    "tradeoff": ("list", "one threshold for all images: what it costs and saves"),
    "tradeoff[]": ("object", "one threshold"),
    "tradeoff[].threshold": ("number", "of the first decision"),
    "tradeoff[].active_fraction": ("number", "mean over the images of accuracy.images"),
    "tradeoff[].ms": ("number", "strategy auto, mean over the timed images"),
    "tradeoff[].accuracy": ("number", "in accuracy.metric, over accuracy.images images"),
    "worst_case": ("object", "every position active; without masks: all layers computed"),
    "worst_case.adaptive_ms": ("number", "strategy auto"),
    "worst_case.dense_ms": ("number", "the baseline, in the same rounds"),
    "worst_case.masked_dense_ms": ("number", "the program run densely, in the same rounds"),
    "worst_case.ratio": ("number", "adaptive_ms ÷ masked_dense_ms: never slower means ≤ 1.05"),
    "worst_case.ratio_interval": ("list", "95 %, bootstrap over images"),
    "worst_case.ratio_interval[]": ("number", "an end of the interval"),
    "worst_case.ratio_to_dense": ("number", "adaptive_ms ÷ dense_ms"),
    "accuracy": ("object", "the task's metric"),
    "accuracy.metric": ("text", "its name"),
    "accuracy.images": ("int", "images it was taken over"),
    "accuracy.dense": ("number", "the baseline"),
    "accuracy.masked_dense": ("number", "the program, run densely"),
    "accuracy.adaptive": ("number", "the bundle"),
    "exits": ("object|null", "of programs with exits: the layers that the timed images took"),
    "exits.layout": ("text", "chain, per-depth or if: the one that `load` takes"),
    "exits.layers": ("int", "all of them"),
    "exits.mean_depth": ("number", "layers, mean over the timed images"),
    "exits.shares": ("object", "of the timed images, by the layers that they took"),
    "exits.shares.*": ("number", "share"),
    "exits.calibrated": (
        "any",
        "exit_tradeoff.json of `foveate calibrate --exits`; null where the gate is not from there",
    ),
    "budget": (
        "any",
        "tradeoff.json of `foveate calibrate`; null where the choices are not from there",
    ),
    "shapes": ("list", "batches and images of other sizes; times are an image's share of its batch"),
    "shapes[]": ("object", "one shape"),
    "shapes[].batch": ("int", "images that run together"),
    "shapes[].height": ("int", "of the input"),
    "shapes[].width": ("int", "of the input"),
    "shapes[].dense_ms": ("number", "the baseline, tuned for this shape"),
    "shapes[].masked_dense_ms": ("number", "the program run densely, tuned for this shape"),
    "shapes[].adaptive_ms": ("number", "strategy auto"),
    "shapes[].dense_enqueue_ms": ("number", "the baseline's enqueue_ms"),
    "shapes[].adaptive_enqueue_ms": ("number", "strategy auto's enqueue_ms"),
    "shapes[].speedup": ("number", "dense_ms ÷ adaptive_ms"),
    "shapes[].speedup_interval": ("list", "its 95 % confidence interval"),
    "shapes[].speedup_interval[]": ("number", "an end of the interval"),
    "shapes[].ideal_speedup": ("number", "dense work ÷ active work"),
    "shapes[].realization": ("number|null", "as above"),
    "mixed": (
        "object|null",
        "of programs with exits: a batch whose images take all depths in turn, by a gate made for it",
    ),
    "mixed.batch": ("int", "images"),
    "mixed.depths": ("list", "the layers that they take"),
    "mixed.depths[]": ("int", "layers"),
    "mixed.dense_ms": ("number", "the baseline, an image"),
    "mixed.mixed_ms": ("number", "the bundle, an image"),
    "mixed.ideal_ms": ("number", "each image at its share of a batch in which all take its depth"),
    "mixed.speedup": ("number", "dense_ms ÷ mixed_ms"),
    "mixed.of_ideal": ("number", "ideal_ms ÷ mixed_ms"),
    "energy": ("object|null", "joules an image, of the whole GPU; null where none is measured"),
    "energy.dense": ("number", "the baseline"),
    "energy.masked_dense": ("number", "the program, run densely"),
    "energy.adaptive": ("number", "strategy auto"),
    "gpu": ("object|null", "the GPU that it was measured on"),
    "gpu.name": ("text", "its model"),
    "gpu.compute": ("text", "its compute capability"),
    "gpu.driver": ("text|null", "version"),
    "gpu.unknown": ("text|null", "why its clocks are not known"),
    "gpu.watched": ("object|null", "its state, by NVML after each step of the measurement"),
    "gpu.watched.samples": ("int", "how often it was asked"),
    "gpu.watched.sm_mhz": ("object", "clock of the multiprocessors, MHz"),
    "gpu.watched.sm_mhz.*": ("number", "least, mean, most"),
    "gpu.watched.memory_mhz": ("object", "clock of the memory, MHz"),
    "gpu.watched.memory_mhz.*": ("number", "least, mean, most"),
    "gpu.watched.celsius": ("object", "temperature"),
    "gpu.watched.celsius.*": ("number", "least, mean, most"),
    "gpu.watched.watts": ("object", "power"),
    "gpu.watched.watts.*": ("number", "least, mean, most"),
    "gpu.watched.most_sm_mhz": ("number", "the highest clock that it has"),
    "gpu.watched.most_watts": ("number", "the power limit that is enforced"),
    "gpu.watched.reasons": ("object", "share of the samples by what kept the clocks low, in NVML's words"),
    "gpu.watched.reasons.*": ("number", "share"),
    "gpu.watched.settled": ("bool", "clocks were stable when each measurement began"),
    "gpu.watched.rejected": ("int", "steps that were throttled, and timed again"),
    "gpu.watched.kept_throttled": ("int", "steps that were throttled still, and count"),
    "parity": ("object", "the bundle against its dense reference, decisions and values apart"),
    "parity.max_rel_error": ("number|null", "over images whose decisions agree; null if there is none"),
    "parity.decision_agreement": ("number", "share of equal positions over all decisions"),
    "parity.images": ("int", "images compared"),
    "parity.images_agreeing": ("int", "images with every decision equal"),
    "parity.flips": ("int", "positions that differ"),
    "parity.near_flips": ("int", "those within rounding of the threshold"),
    "parity.tolerance": (
        "number",
        "largest max_rel_error that passes; of programs in Q/DQ each step is judged by itself (verify.md)",
    ),
    "parity.worst_image": ("text|null", "the image with the largest error"),
    "parity.passed": ("bool", "the check's verdict"),
    "overlays": ("list", "a few images with what the masks kept"),
    "overlays[]": ("object", "one image"),
    "overlays[].name": ("text", "the image"),
    "overlays[].active_fraction": ("number", "as above, of this image"),
    "overlays[].image": ("text", "the image as a data URI"),
    "overlays[].kept": ("text", "the same with inactive positions of the first decision dimmed"),
    "settings": ("object", "how it was measured"),
    "settings.data": ("text", "the data spec"),
    "settings.images": ("int", "timed images"),
    "settings.rounds": ("int", "rounds over them, contenders in reversed order every other time"),
    "settings.sweep_images": ("int", "of them, those of the sweep"),
    "settings.worst_images": ("int", "of them, those of the worst case"),
    "settings.threads": ("int", "threads of every engine"),
    "settings.shape": ("list", "of the first timed image's input"),
    "settings.shape[]": ("int", "a dim"),
    "environment": ("object", "machine, versions and hashes"),
    "environment.cpu": ("text", "model"),
    "environment.cores": ("int|null", "of the machine"),
    "environment.usable_cores": ("int", "that this process may use"),
    "environment.clock_mhz": ("object|null", "as the kernel reports it"),
    "environment.clock_mhz.*": ("number", "now (mean over cores), max"),
    "environment.governor": ("text|null", "frequency governor"),
    "environment.load_average": ("list|null", "1, 5 and 15 minutes, after the measurement"),
    "environment.load_average[]": ("number", "processes"),
    "environment.memory_bytes": ("int|null", "of the machine"),
    "environment.os": ("text", "platform"),
    "environment.python": ("text", "version"),
    "environment.versions": ("object", "of the libraries"),
    "environment.versions.*": ("text", "version"),
    "environment.backend": ("text", "the bundle's"),
    "environment.threads": ("int", "threads of every engine"),
    "environment.git_revision": ("text|null", "of Foveate, if run from a checkout"),
    "environment.files": ("object", "sha256 of the bundle's files, the baseline and file data"),
    "environment.files.*": ("text", "sha256"),
    "notes": ("list", "what a reader should know before quoting a figure"),
    "notes[]": ("text", "one note"),
}
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "number": (int, float),
    "text": (str,),
    "bool": (bool,),
    "object": (dict,),
    "list": (list,),
    "null": (type(None),),
}


def check_report(report: Any, fields: Fields = FIELDS) -> None:
    """Raises InputError naming up to five keys that are missing, unknown or of the wrong type."""
    version = report.get("schema_version") if isinstance(report, dict) else None
    problems = (
        list(_problems(report, "", fields)) if version == SCHEMA_VERSION else [f"schema_version {version!r}"]
    )
    if problems:
        raise InputError(
            "report",
            got="; ".join(problems[:5]),
            expected=f"a report of schema version {SCHEMA_VERSION} (docs/report.md)",
            fix="Write it with `foveate bench` or `foveate stream`.",
        )


def _problems(value: Any, path: str, fields: Fields) -> Iterator[str]:
    """`path` is the schema's, with [] and *."""
    if isinstance(value, dict):
        prefix = f"{path}." if path else ""
        free = f"{prefix}*" in fields
        if not free:
            yield from (
                f"{path} is missing" for path in _children(prefix, fields) if path.split(".")[-1] not in value
            )
        for key, item in value.items():
            child = f"{prefix}*" if free else f"{prefix}{key}"
            yield from _checked(item, child, fields) if child in fields else [f"{child} is unknown"]
    elif isinstance(value, list):
        for item in value:
            yield from _checked(item, f"{path}[]", fields)


def _checked(value: Any, path: str, fields: Fields) -> Iterator[str]:
    kind = fields[path][0]
    if kind == "any":  # plain JSON, whatever it is
        return
    allowed = tuple(t for name in kind.split("|") for t in _TYPES[name])
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        yield f"{path} is {type(value).__name__}, not {kind}"
    elif isinstance(value, float) and value != value:
        yield f"{path} is NaN"
    else:
        yield from _problems(value, path, fields)


def _children(prefix: str, fields: Fields) -> list[str]:
    """Paths right below `prefix`."""
    below = (path for path in fields if path.startswith(prefix))
    return [path for path in below if not set(path[len(prefix) :]) & {".", "["}]
