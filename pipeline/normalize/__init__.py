"""Normal forms of a program, as small passes in a visible order.

`to_program` changes nothing that the program computes at any resolution. `to_local` replaces shape arithmetic by
constants, so that an op may run on a window of its map; what it changes holds where every map's size is a multiple of
its positions a cell, and it says for which nodes that matters.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from ..probe import Probes
from .constants import lift_constants
from .explicit_pads import explicit_pads
from .identities import remove_identities
from .inline_functions import inline_functions
from .names import name_everything
from .resize_scales import resize_scales
from .same_pads import same_pads
from .shape_values import shape_values
from .static_shapes import erase_static_shapes
from .weights_as_inputs import weights_as_inputs

Pass = Callable[[onnx.ModelProto], None]

PROGRAM_PASSES: tuple[Pass, ...] = (
    lift_constants,  # first: the passes below look for initializers only
    weights_as_inputs,  # before shapes: an input that is a weight has no batch or height to free
    remove_identities,  # after constants were lifted: an Identity of a constant is then an initializer's alias
    erase_static_shapes,  # after the graph's tensors are final
    name_everything,  # last: names are given to the nodes that remain
)


def to_program(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with stock ops and nodes of ai.foveate only, all nodes named and H, W and batch free."""
    program = onnx.ModelProto()
    program.CopyFrom(inline_functions(model))  # before all: what is inside other functions is looked at too
    for run in PROGRAM_PASSES:
        run(program)
    return program


def to_local(program: onnx.ModelProto, probes: Probes) -> tuple[onnx.ModelProto, frozenset[str]]:
    """A copy that may run on windows, and the names of the nodes that are exact at whole cells only."""
    local = onnx.ModelProto()
    local.CopyFrom(program)
    # Both before shape_values: they need to know that sizes and pads came from a shape.
    whole = resize_scales(local, probes) | same_pads(local, probes)
    shape_values(local, probes)
    whole |= explicit_pads(
        local, probes
    )  # after shape_values: it reads kernels' shapes, which may be computed
    return local, frozenset(whole)
