"""Runs an early-exit encoder: stage by stage, where images leave as the gate says and the others go on as a smaller
batch, or all images of one depth together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol

import numpy as np

from .errors import DecisionError
from .exit_costs import ExitCosts, shapes_of
from .manifest import ExitChain, ExitPaths, ExitStage, ExitStep

Tensors = dict[str, Any]
RunStage = Callable[[ExitStage, Tensors], Tensors]  # given its inputs, and whatever else is held
Timed = Callable[..., AbstractContextManager[None]]  # `told` is told the ms that was spent in it


class Rows(Protocol):
    """How images are taken out of a batch, wherever it lies. `rows`: int [n]."""

    def take(self, array: Any, rows: np.ndarray) -> Any: ...
    def put(self, target: Any, rows: np.ndarray, values: Any) -> None: ...
    def copy(self, array: Any) -> Any: ...
    def empty(self, images: int, like: Any) -> Any:
        """For so many images as those of `like`."""
        ...


class HostRows:
    """Of numpy arrays."""

    def take(self, array: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return array[rows]

    def put(self, target: np.ndarray, rows: np.ndarray, values: np.ndarray) -> None:
        target[rows] = values

    def copy(self, array: np.ndarray) -> np.ndarray:
        return array.copy()

    def empty(self, images: int, like: np.ndarray) -> np.ndarray:
        return np.empty((images, *like.shape[1:]), like.dtype)


HOST_ROWS = HostRows()


def untimed(told: object) -> AbstractContextManager[None]:
    """Nothing is told."""
    return nullcontext()


def run_exits(
    chain: ExitChain,
    depth: np.ndarray,
    tensors: Tensors,
    run: RunStage,
    rows: Rows = HOST_ROWS,
    timed: Timed = untimed,
    costs: ExitCosts | None = None,
) -> Any:
    """What each image leaves with, [N, …]. `depth`: of `check_depths`. `run` gives a stage's outputs for its inputs,
    which hold the images that are still there, and those that `costs` find cheaper to run along than to take out."""
    costs = costs or ExitCosts()
    exits = set(depth.tolist())
    held = {name: tensors[name] for name in chain.inputs}
    if len(exits) == 1:
        return _run_together(chain, held, run, *exits)
    chosen, images = rows.copy(held[chain.shallow]), np.arange(len(depth))
    for number, stage in enumerate(chain.stages):
        stays = depth[images] > chain.exits[number]
        if not stays.any():
            break
        going, read = int(stays.sum()), [name for name in chain.read_from[number] if name in held]
        copied = sum(held[name].nbytes for name in read) * going // len(images)
        if going < len(images) and costs.division_pays(stage, held, len(images) - going, copied):
            images, kept = images[stays], np.flatnonzero(stays)
            with timed(told=partial(costs.saw_division, copied)):
                held = {name: rows.take(held[name], kept) for name in read}
        with timed(told=partial(costs.saw_stage, stage, shapes_of(stage, held))):
            held = _run_stage(chain, number, held, run)
        leaves = np.flatnonzero(depth[images] == stage.exit)
        if len(leaves) == len(images):
            rows.put(chosen, images, held[stage.outputs[0]])
        elif len(leaves):
            rows.put(chosen, images[leaves], rows.take(held[stage.outputs[0]], leaves))
    return chosen


def run_paths(
    paths: ExitPaths, depth: np.ndarray, tensors: Tensors, run: RunStage, rows: Rows = HOST_ROWS
) -> Tensors:
    """The outputs of all images, [N, …]. `depth`: of `check_depths`. `run` gives a path's outputs for its inputs."""
    exits = set(depth.tolist())
    taken = [path for path in paths.paths if path.exit in exits]
    if len(taken) == 1:
        return run(taken[0], {name: tensors[name] for name in taken[0].inputs})
    joined: Tensors = {}
    for path in taken:
        own = np.flatnonzero(depth == path.exit)
        held = {
            name: tensors[name] if name in paths.shared else rows.take(tensors[name], own)
            for name in path.inputs
        }
        for name, value in run(path, held).items():
            if name not in joined:
                joined[name] = rows.empty(len(depth), value)
            rows.put(joined[name], own, value)
    return joined


def _run_together(chain: ExitChain, held: Tensors, run: RunStage, exit: int) -> np.ndarray:
    """All images leave at one exit: nothing to divide, nor to learn of what division costs."""
    answer = chain.shallow
    for number, stage in enumerate(chain.stages):
        if stage.exit <= exit:
            held, answer = _run_stage(chain, number, held, run), stage.outputs[0]
    return held[answer]


def _run_stage(chain: ExitChain, number: int, held: Tensors, run: RunStage) -> Tensors:
    """The stage's outputs, and what else later ones read."""
    made = run(chain.stages[number], held)
    later = chain.read_from[number + 1]
    return {name: value for name, value in held.items() if name in later} | made


def check_depths(chain: ExitStep, tensors: Tensors) -> np.ndarray:
    """The images' depths, [N]. Raises DecisionError for one that is no exit, or scores that are not finite: which of
    several is the largest would then be left to the runtime."""
    depth = tensors[chain.depth]
    if chain.scores and not (finite := np.isfinite(tensors[chain.scores])).all():
        index = int(np.flatnonzero(~finite.all(axis=1))[0])
        raise DecisionError(
            f"the gate's scores of image {index}",
            got=str(tensors[chain.scores][index].tolist()),
            expected="finite scores",
            fix="Check the image's preprocessing and the gate's weights.",
        )
    for index, taken in enumerate(depth.tolist()):
        if taken not in chain.exits:
            raise DecisionError(
                f"the depth of image {index}",
                got=str(taken),
                expected=f"one of {', '.join(map(str, chain.exits))}",
                fix="Give the program a gate whose exits are those of its ExitSelect nodes.",
            )
    return depth
