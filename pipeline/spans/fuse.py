"""Fusion: an op that only changes what another made becomes steps of that other."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from ...runtime.native.plan import Combine, Conv, ConvTranspose, Copy, Format, Op, Part, Round

_COMMUTE = ("add", "multiply")


Formats = Sequence[Format | None]


def fuse(ops: Sequence[Op], channels: Sequence[int], formats: Formats, outputs: Collection[int]) -> list[Op]:
    """The same computation with fewer ops. An op that takes over steps moves to the place of the last of them, where
    all tensors that they read exist."""
    fused = _without_unread(_without_copies(ops, channels, formats), outputs)
    for op in list(fused):
        if not (isinstance(op, Copy) and _is_whole(op, channels)):
            continue
        host = _host(fused, op, outputs)
        if host is None:
            continue
        made, steps = host
        format = formats[made.target]
        if format is not None:  # its bytes are no more, but what they could not hold is lost as before
            steps = (Round(format), *steps)
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


def _without_copies(ops: Sequence[Op], channels: Sequence[int], formats: Formats) -> list[Op]:
    """What reads a copy of a tensor reads the tensor, where it can: convolutions of floats read no bytes."""
    kept: list[Op] = []
    original: dict[int, int] = {}
    for op in ops:
        known = dict(original)
        if isinstance(op, Conv | ConvTranspose) and formats[known.get(op.source, op.source)] is not None:
            del known[op.source]
        op = _reading(op, known)
        if isinstance(op, Copy) and not op.steps and _is_whole(op, channels):
            source = op.parts[0].source
            if formats[op.target] in (None, formats[source]):
                original[op.target] = source
        kept.append(op)
    return kept


def _reading(op: Op, instead: Mapping[int, int]) -> Op:
    """The op with other tensors in the place of some that it reads."""
    steps = tuple(
        dataclasses.replace(s, tensor=instead.get(s.tensor, s.tensor)) if isinstance(s, Combine) else s
        for s in op.steps
    )
    if isinstance(op, Copy):
        parts = tuple(dataclasses.replace(p, source=instead.get(p.source, p.source)) for p in op.parts)
        return dataclasses.replace(op, parts=parts, steps=steps)
    return dataclasses.replace(op, source=instead.get(op.source, op.source), steps=steps)


def _without_unread(ops: Sequence[Op], outputs: Collection[int]) -> list[Op]:
    kept: list[Op] = []
    read = set(outputs)
    for op in reversed(ops):
        if op.target in read:
            kept.append(op)
            read.update(sources(op))
    return kept[::-1]
