"""Opening a bundle on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .batching import Batching
from .bundle import open_bundle
from .engine import Config, config_for
from .model import Model
from .nvidia import able
from .options import MAX_STATE_BYTES, Options, check_options
from .precision import as_built


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    backend: str | Config | None = None,
    strategy: str = "auto",
    choices: Mapping[str, Any] | None = None,
    cache_bytes: int | None = None,
    max_state_bytes: int = MAX_STATE_BYTES,
    memory_bytes: int | None = None,
    verify: bool = True,
    pad: bool = False,
    batching: Batching | None = None,
    layout: str | None = None,
) -> Model:
    """Opens a bundle.

    threads: of each engine; None or 0 takes one per physical core.
    backend: "ort", "cuda", "tensorrt", "null" or a config; None takes the bundle's. What cannot run on this machine is
        replaced, "tensorrt" by "cuda" and that by "ort", with a BackendWarning.
    strategy: "auto" runs each region selectively or densely, for each image (on a GPU, each batch), by measured costs;
        "spans" always selectively, by native kernels where they can and by windows elsewhere; "rects" by windows;
        "dense" never.
    choices: values other than the bundle's, by name.
    cache_bytes: bound of the reference states with their scratch. A resolution above it runs dense. None is 512 MiB,
        on a GPU a quarter of its memory.
    max_state_bytes: bound of what each stream keeps. Frames that would need more are refused.
    memory_bytes: inputs that would need more are refused; None takes the machine's memory.
    verify: check every file's sha256; sizes are always checked.
    pad: images of sizes that the program does not take are padded with zeros, on the right and at the bottom, and
        outputs cropped to the image's own size; decisions are those of the padded image. Else they are refused.
    batching: how images run together that come one by one, to `Model.submit`.
    layout: of a program with exits: "chain" runs it stage by stage, and batches get smaller as images leave;
        "per-depth" has an engine for each depth; "if" is one engine, which runs a batch as deep as its deepest image;
        "auto" takes the one that `measure` found fastest. None is the bundle's.

    Raises BundleError, InputError, EngineError, MissingExtraError.
    """
    bundle = open_bundle(path, verify=verify)
    check_options(
        strategy, cache_bytes=cache_bytes, max_state_bytes=max_state_bytes, memory_bytes=memory_bytes
    )
    named = backend if backend is not None else bundle.manifest.backend
    config = config_for(named, threads) if isinstance(named, str) else named
    if threads is not None and not isinstance(named, str):
        config = replace(config, threads=config_for(config.backend, threads).threads)
    config = as_built(able(config, bundle.manifest), bundle.manifest)
    sizes = cache_bytes, max_state_bytes, memory_bytes
    return Model(
        bundle, Options(config, strategy, choices or {}, *sizes, verify, batching or Batching(), pad, layout)
    )
