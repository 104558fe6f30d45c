"""The parts of a program between which batches may be formed anew: all of it is one, or an encoder's stem, each of its
stages, and its head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .exits import check_depths
from .manifest import ExitChain, Manifest
from .request import Request
from .steps import Steps, last_uses


@dataclass(frozen=True)
class Part:
    """`reads`: the tensors that it needs of each image."""

    reads: tuple[str, ...]
    run: Callable[[Steps, Request], None]


class Route:
    """How images go from part to part. `divisible`: whether several may run as one batch, and be parted again.

    A request that goes along it holds one image."""

    def __init__(self, manifest: Manifest, by_depth: bool, run_all: Callable[[Steps, Request], None]):
        """by_depth: images leave a program's exits; else all of it is one part, which `run_all` runs."""
        steps = manifest.steps
        self._at = next((i for i, step in enumerate(steps) if by_depth and isinstance(step, ExitChain)), None)
        inputs = tuple(spec.name for spec in manifest.inputs)
        if self._at is None:
            self._parts = (Part(inputs, run_all),)
        else:
            at, chain = self._at, steps[self._at]
            assert isinstance(chain, ExitChain)
            self._chain, self._stages, self._dropped = chain, len(chain.stages), last_uses(manifest)[at]
            stem = Part(inputs, lambda executor, request: executor.run(request, 0, at))
            stages = tuple(self._stage(number) for number in range(self._stages))
            behind = steps[at + 1 :]
            made = {name for step in behind for name in step.outputs}
            read = dict.fromkeys(name for step in behind for name in step.inputs if name not in made)
            head = Part(tuple(read), lambda executor, request: executor.run(request, at + 1))
            self._parts = (stem, *stages, *([head] if behind else []))
        self.divisible = _divisible(manifest, [name for part in self._parts for name in part.reads])

    def advance(self, executor: Steps, part: int, requests: Sequence[Request]) -> list[int | None]:
        """Runs a part on images of one size, as one batch, and gives the next part of each; None where it is done.
        After an error in a batch of several all requests are as they were."""
        reads = self._parts[part].reads
        batch = _join(requests, reads)
        self._parts[part].run(executor, batch)
        if self._at is None:
            _part(batch, requests, reads)
            following: list[int | None] = [None] * len(requests)
        else:
            if part == 0:
                check_depths(self._chain, batch.tensors)
            _part(batch, requests, reads)
            following = [self._next(part, request) for request in requests]
        for request, then in zip(requests, following, strict=True):
            if then is None:
                executor.own_outputs(request)
        return following

    def _stage(self, number: int) -> Part:
        stage = self._chain.stages[number]

        def run(executor: Steps, request: Request) -> None:
            request.tensors.update(executor.run_stage(self._chain, stage, request.tensors, request))

        return Part(stage.inputs, run)

    def _next(self, part: int, request: Request) -> int | None:
        """The image leaves behind the last stage that its depth asks for, with that stage's answer."""
        chain, tensors, head = self._chain, request.tensors, self._stages + 1
        if part == head:
            return None
        depth = tensors[chain.depth]
        if part < self._stages and depth[0] > chain.exits[part]:
            return part + 1
        request.depth, features = depth.copy(), tensors.get(chain.features)
        request.features = None if features is None else features.copy()
        tensors[chain.chosen] = tensors[chain.stages[part - 1].outputs[0] if part else chain.shallow]
        for name in self._dropped:
            tensors.pop(name, None)
        return head if head < len(self._parts) else None


def _divisible(manifest: Manifest, reads: Sequence[str]) -> bool:
    """Whether the first axis of all that goes in, across and out is the batch, which is free."""
    batch = manifest.inputs[0].shape[0]
    outputs = [spec.name for spec in manifest.outputs]
    specs = {spec.name: spec for spec in (*manifest.tensors, *manifest.inputs, *manifest.outputs)}
    return isinstance(batch, str) and all(specs[n].shape[:1] == (batch,) for n in (*reads, *outputs))


def _join(requests: Sequence[Request], names: Sequence[str]) -> Request:
    if len(requests) == 1:
        return requests[0]
    one = requests[0]
    tensors = {name: np.concatenate([request.tensors[name] for request in requests]) for name in names}
    return Request(
        tensors,
        len(requests),
        one.elements,
        one.strategy,
        one.choices,
        symbols=one.symbols,
        observe=one.observe,
    )


def _part(batch: Request, requests: Sequence[Request], read: Sequence[str]) -> None:
    """Gives each request its image of the batch. Times are those of the batch: an image was there all along."""
    if batch is requests[0]:
        return
    for i, request in enumerate(requests):
        for name in read:
            if name not in batch.tensors:
                request.tensors.pop(name, None)
        mine = {name: value[i : i + 1] for name, value in batch.tensors.items() if name not in read}
        request.tensors.update(mine)
        request.fed |= {id(value) for value in mine.values()}
        for phase, ms in batch.timing.items():
            request.timing[phase] += ms
        request.segments.update(batch.segments)
        request.strategies.update((region, (each[i],)) for region, each in batch.strategies.items())
        request.whole = batch.whole
        request.active.update((name, each[i : i + 1]) for name, each in batch.active.items())
        if batch.depth is not None:
            request.depth, request.features = batch.depth[i : i + 1], batch.features
            if batch.features is not None:
                request.features = batch.features[i : i + 1]
