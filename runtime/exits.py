"""Runs an early-exit encoder: stage by stage, where images leave as the gate says and the others go on as a smaller
batch, or all images of one depth together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter

import numpy as np

from .errors import DecisionError
from .exit_costs import ExitCosts
from .manifest import ExitChain, ExitPaths, ExitStage, ExitStep

Tensors = dict[str, np.ndarray]
RunStage = Callable[[ExitStage, Tensors], Tensors]  # given its inputs, and whatever else is held


def run_exits(
    chain: ExitChain, tensors: Mapping[str, np.ndarray], run: RunStage, costs: ExitCosts | None = None
) -> np.ndarray:
    """What each image leaves with, [N, …]. `run` gives a stage's outputs for its inputs, which hold the images that are
    still there, and those that `costs` find cheaper to run along than to take out. Raises DecisionError for a depth
    that is no exit, or scores that are not finite."""
    depth, costs = check_depths(chain, tensors), costs or ExitCosts()
    exits = set(depth.tolist())
    held = {name: tensors[name] for name in chain.inputs}
    if len(exits) == 1:
        return _run_together(chain, held, run, *exits)
    chosen, images = held[chain.shallow].copy(), np.arange(len(depth))
    for number, stage in enumerate(chain.stages):
        stays = depth[images] > chain.exits[number]
        if not stays.any():
            break
        going, read = int(stays.sum()), [name for name in chain.read_from[number] if name in held]
        copied = sum(held[name].nbytes for name in read) * going // len(images)
        if going < len(images) and costs.division_pays(stage, held, len(images) - going, copied):
            start = perf_counter()
            images, held = images[stays], {name: held[name][stays] for name in read}
            costs.saw_division(copied, (perf_counter() - start) * 1e3)
        start, before = perf_counter(), held
        held = _run_stage(chain, number, held, run)
        costs.saw_stage(stage, before, (perf_counter() - start) * 1e3)
        leaves = depth[images] == stage.exit
        if leaves.any():
            chosen[images[leaves]] = held[stage.outputs[0]][leaves]
    return chosen


def run_paths(paths: ExitPaths, tensors: Mapping[str, np.ndarray], run: RunStage) -> Tensors:
    """The outputs of all images, [N, …]. `run` gives a path's outputs for its inputs. Raises as `run_exits`."""
    depth = check_depths(paths, tensors)
    exits = set(depth.tolist())
    taken = [path for path in paths.paths if path.exit in exits]
    if len(taken) == 1:
        return run(taken[0], {name: tensors[name] for name in taken[0].inputs})
    joined: Tensors = {}
    for path in taken:
        rows = np.flatnonzero(depth == path.exit)
        held = {name: tensors[name] if name in paths.shared else tensors[name][rows] for name in path.inputs}
        for name, value in run(path, held).items():
            if name not in joined:
                joined[name] = np.empty((len(depth), *value.shape[1:]), value.dtype)
            joined[name][rows] = value
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


def check_depths(chain: ExitStep, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
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
