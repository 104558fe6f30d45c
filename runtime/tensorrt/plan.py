"""A serialized engine, opened: what it reads and makes, and between which shapes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..cuda.library import why_missing
from ..cuda.plugins import load_plugins
from ..device.device import DeviceArray, Shape
from ..engine import Ports
from ..errors import EngineError, InputError
from .flavour import Flavour, open_flavour, said

REBUILD = "Build the bundle again with `foveate build`; backend='ort' runs it meanwhile."
_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT64": np.int64,
    "INT32": np.int32,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


class Plan:
    """A file of engines/, deserialized for the GPU whose context is current.

    inputs, outputs: all of the engine's, in its order. host: inputs that shapes depend on, which TensorRT reads in the
    host's memory. ranges: of each profile, by input, its least, opt and most shape; the first takes whole images, the
    others are for some of its shapes, or for more of them."""

    def __init__(self, path: Path):
        self.name = path.name
        facts = _read_facts(path)
        self.flavour = open_flavour(facts.flavour)
        self.sha256 = facts.sha256
        _check_plugins(self.flavour, facts, path)
        self._runtime, self.engine = _deserialize(self.flavour, path)
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        modes = {name: self.engine.get_tensor_mode(name).name for name in names}
        self.inputs = tuple(name for name in names if modes[name] == "INPUT")
        self.outputs = tuple(name for name in names if modes[name] == "OUTPUT")
        self.dtypes = {name: self._dtype(name) for name in names}
        self.host = tuple(n for n in self.inputs if self.engine.get_tensor_location(n).name == "HOST")
        numbers = range(self.engine.num_optimization_profiles)
        self.ranges = [{name: self._range(name, number) for name in self.inputs} for number in numbers]

    def _dtype(self, name: str) -> np.dtype:
        kind = self.engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise EngineError(
                f"{name!r} of {self.name}",
                got=f"TensorRT's type {kind}",
                expected=f"one of {', '.join(_DTYPES)}",
                fix=REBUILD,
            )
        return np.dtype(_DTYPES[kind])

    def _range(self, name: str, profile: int) -> tuple[Shape, ...]:
        fixed = tuple(self.engine.get_tensor_shape(name))
        if -1 not in fixed or name in self.host:  # the profile has no shape of it, or its values
            return fixed, fixed, fixed
        return tuple(tuple(shape) for shape in self.engine.get_tensor_profile_shape(name, profile))

    def most(self, sizes: Mapping[str, Shape], ports: Ports) -> int:
        """The largest batch of inputs whose last dims are these; 0 where no profile has such sizes."""
        names = [name for name in self.inputs if name in sizes]
        held = [
            min(ranges[name][2][0] for name in names)
            for ranges in self.ranges
            if names and all(_within(sizes[n], _last(ranges[n], len(sizes[n]))) for n in names)
        ]
        return max(held, default=0)

    def profile(self, feeds: Mapping[str, DeviceArray], ports: Ports) -> int:
        """The number of the last one that has these shapes. Raises InputError where none has."""
        for name in self.inputs:
            if feeds[name].dtype != self.dtypes[name]:
                raise InputError(
                    f"input {name!r} of {self.name}",
                    got=str(feeds[name].dtype),
                    expected=str(self.dtypes[name]),
                    fix=REBUILD,
                )
        for number, ranges in reversed(list(enumerate(self.ranges))):
            if all(_within(feeds[name].shape, ranges[name]) for name in self.inputs):
                return number
        ranges = self.ranges[0]
        name = next(name for name in self.inputs if not _within(feeds[name].shape, ranges[name]))
        shown = zip(ranges[name][0], ranges[name][2], strict=True)
        dim = _symbol_outside(name, feeds[name].shape, ranges[name], ports)
        raise InputError(
            f"input {name!r} of {self.name}",
            got=str(list(feeds[name].shape)),
            expected=f"[{', '.join(str(a) if a == b else f'{a}..{b}' for a, b in shown)}], its profile",
            fix=f"Build with a wider profile, e.g. `foveate build --profile {dim}=LEAST:OPT:MOST`, "
            "or load with backend='ort'.",
        )


def _within(shape: Shape, sizes: tuple[Shape, ...]) -> bool:
    least, _, most = sizes
    return len(shape) == len(least) and all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))


def _last(sizes: tuple[Shape, ...], count: int) -> tuple[Shape, ...]:
    return tuple(shape[len(shape) - count :] for shape in sizes)


def _symbol_outside(name: str, shape: Shape, sizes: tuple[Shape, ...], ports: Ports) -> str:
    """The program's last dim that goes beyond the profile, for of images there may be more: what --profile is given."""
    spec = next((t for t in ports.inputs if t.name == name), None)
    dims = spec.shape if spec is not None and len(spec.shape) == len(shape) == len(sizes[0]) else ()
    for dim, n, least, most in reversed(list(zip(dims, shape, sizes[0], sizes[2], strict=False))):
        if isinstance(dim, str) and not least <= n <= most and (found := re.search(r"[A-Za-z_]\w*", dim)):
            return found.group()
    return "batch"


@dataclass(frozen=True)
class _Facts:
    """What is read of the sidecar beside a plan."""

    flavour: str
    sha256: str
    plugins: frozenset[str]


def _read_facts(path: Path) -> _Facts:
    sidecar = path.with_suffix(".json")
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
        return _Facts(str(facts["flavour"]), str(facts["sha256"]), frozenset(facts.get("plugins", ())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            f"engine {path}",
            got=f"{sidecar.name}: {type(error).__name__}: {error}",
            expected="the facts of its build beside it",
            fix=REBUILD,
        ) from error


def _check_plugins(flavour: Flavour, facts: _Facts, path: Path) -> None:
    """Loads those that a plan needs."""
    if facts.plugins and (missing := facts.plugins - set(load_plugins(flavour.module))):
        raise EngineError(
            f"engine {path.name}",
            got=f"no plugin {', '.join(sorted(missing))} ({why_missing() or 'another version'})",
            expected="Foveate installed with the plugins that it was built with",
            fix=REBUILD,
        )


def _deserialize(flavour: Flavour, path: Path) -> tuple[Any, Any]:
    plan = path.read_bytes()
    with flavour.logged() as log:
        runtime = flavour.runtime()
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            reason = flavour.why_invalid(runtime, plan)
            raise EngineError(
                f"opening {path.name} with {flavour.name} {flavour.version}",
                got=f"{reason}; {said(log)}" if reason else said(log),
                expected="an engine that was built for this GPU, by this version",
                fix=REBUILD,
            )
    return runtime, engine
