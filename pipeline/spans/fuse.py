"""Fusion: an op that only changes what another made becomes steps of that other."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from ...runtime.native.plan import Combine, Copy, Op, Part

_COMMUTE = ("add", "multiply")


def fuse(ops: Sequence[Op], channels: Sequence[int], outputs: Collection[int]) -> list[Op]:
    """The same computation with fewer ops. An op that takes over steps moves to the place of the last of them, where
    all tensors that they read exist."""
    fused = _without_unread(ops, outputs)
    for op in list(fused):
        if not (isinstance(op, Copy) and _is_whole(op, channels)):
            continue
        host = _host(fused, op, outputs)
        if host is None:
            continue
        made, steps = host
        fused[fused.index(op)] = dataclasses.replace(made, target=op.target, steps=(*made.steps, *steps))
        fused.remove(made)
    return fused


def sources(op: Op) -> list[int]:
    """The tensors that an op reads."""
    own = [part.source for part in op.parts] if isinstance(op, Copy) else [op.source]
    return own + [step.tensor for step in op.steps if isinstance(step, Combine)]


def _host(ops: list[Op], op: Copy, outputs: Collection[int]):
    """The op that can take over `op`, and the steps for it: the one that makes its source, or, of a sum or product, the
    one that makes the other operand."""
    first, *rest = op.steps or (None,)
    choices = [(op.parts[0].source, op.steps)]
    if isinstance(first, Combine) and first.how in _COMMUTE:
        swapped = Combine(first.how, op.parts[0].source)
        choices.append((first.tensor, (swapped, *rest)))
    for tensor, steps in choices:
        made = next((o for o in ops if o.target == tensor), None)
        readers = sum(sources(o).count(tensor) for o in ops)
        if made is not None and readers == 1 and tensor not in outputs:
            return made, steps
    return None


def _is_whole(op: Copy, channels: Sequence[int]) -> bool:
    source = op.parts[0].source
    return op.parts == (Part(source, 0, channels[source], 0),) and channels[source] == channels[op.target]


def _without_unread(ops: Sequence[Op], outputs: Collection[int]) -> list[Op]:
    kept: list[Op] = []
    read = set(outputs)
    for op in reversed(ops):
        if op.target in read:
            kept.append(op)
            read.update(sources(op))
    return kept[::-1]
