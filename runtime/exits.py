"""Runs the stages of an early-exit encoder: images leave where the gate says, the others go on as a smaller batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .errors import DecisionError
from .manifest import ExitChain, ExitStage

Tensors = dict[str, np.ndarray]
RunStage = Callable[[ExitStage, Tensors], Tensors]


def run_exits(chain: ExitChain, tensors: Mapping[str, np.ndarray], run: RunStage) -> np.ndarray:
    """What each image leaves with, [N, …]. `run` gives a stage's outputs for its inputs, which hold the images that are
    still there. Raises DecisionError for a depth that is no exit, or scores that are not finite."""
    depth = check_depths(chain, tensors)
    held, images = dict(tensors), np.arange(len(depth))
    gone = [(images[depth <= chain.first], held[chain.shallow][depth <= chain.first])]
    if len(gone[0][0]) == len(images):
        return held[chain.shallow]
    for number, stage in enumerate(chain.stages):
        stays = depth[images] > chain.exits[number]
        if not stays.any():
            break
        if (
            not stays.all()
        ):  # compacted: a smaller batch takes less time, and a copy of what it reads next to none
            images = images[stays]
            held = {name: held[name][stays] for name in _read_from(chain, number) if name in held}
        held.update(run(stage, {name: held[name] for name in stage.inputs}))
        leaves, answer = depth[images] <= stage.exit, held[stage.outputs[0]]
        if leaves.all() and len(images) == len(depth):
            return answer
        gone.append((images[leaves], answer[leaves]))
    chosen = np.empty((len(depth), *gone[0][1].shape[1:]), gone[0][1].dtype)
    for which, rows in gone:
        chosen[which] = rows
    return chosen


def _read_from(chain: ExitChain, first: int) -> set[str]:
    return {name for stage in chain.stages[first:] for name in stage.inputs}


def check_depths(chain: ExitChain, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """The images' depths, [N]. Raises DecisionError for one that is no exit, or scores that are not finite: which of
    several is the largest would then be left to the runtime."""
    depth = tensors[chain.depth]
    if chain.scores:
        for index in np.flatnonzero(~np.isfinite(tensors[chain.scores]).all(axis=1)):
            raise DecisionError(
                f"the gate's scores of image {index}",
                got=str(tensors[chain.scores][index].tolist()),
                expected="finite scores",
                fix="Check the image's preprocessing and the gate's weights.",
            )
    for index in np.flatnonzero(~np.isin(depth, chain.exits)):
        raise DecisionError(
            f"the depth of image {index}",
            got=str(depth[index]),
            expected=f"one of {', '.join(map(str, chain.exits))}",
            fix="Give the program a gate whose exits are those of its ExitSelect nodes.",
        )
    return depth
