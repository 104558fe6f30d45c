"""Foveate's plugins of TensorRT. An engine that was built with them needs them when it is opened, too."""

from __future__ import annotations

import functools
from typing import Any

from ..errors import EngineError, told
from . import library as lib

PLUGINS = {"EnergyMask": "1", "DeformableSample": "1"}  # by op: the version that plugins.cpp says


@functools.cache
def load_plugins(trt: Any) -> tuple[str, ...]:
    """Registers them with a flavour of TensorRT (its module), once per process. Their names with versions, as sidecars
    of engines name what they need: "EnergyMask 1"; none where there is no library (library.why_missing says why).
    Raises EngineError where TensorRT does not take it."""
    names = tuple(f"{name} {version}" for name, version in PLUGINS.items())
    if lib.library() is None:
        return ()
    registry, said = trt.get_plugin_registry(), "a refusal"
    if names[0] in {f"{creator.name} {creator.plugin_version}" for creator in registry.all_creators}:
        return names  # whoever has loaded them: a second time they would be refused
    try:
        handle = registry.load_library(str(lib.path()))
    except Exception as error:  # of several kinds in several versions
        handle, said = None, told(error)
    if handle is None:
        raise EngineError(
            f"loading the plugins of {lib.path()}",
            got=said,
            expected=f"a library that {trt.__name__} {trt.__version__} takes",
            fix=f"pip install --force-reinstall foveate, or set {lib.SWITCH}=0 to do without plugins.",
        )
    return names
