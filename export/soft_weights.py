"""Softly equivariant networks: `soften` before training, `fold` after it (arXiv 2603.26657; formulas: equivariance.py).

What is softened are kernels of more than one position (patch projections are such, and energy masks' weights),
position embeddings on a square grid of tokens, and for vector fields every linear layer and conv, and its bias. Each
becomes a torch parametrization: the parameter that is trained stays, and the layer sees its projection.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterator, Sequence
from math import isqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..runtime.errors import InputError
from . import equivariance
from .energy_mask_layer import EnergyMaskLayer
from .groups import FIELDS, Group
from .softness import Softness, SoftTensor

EMBEDDINGS = ("pos_embed", "pos_embedding", "position_embedding", "position_embeddings")
_NOTES = "_foveate_soft"  # a module's attribute: its tensors' Softness by name, also after folding


class SoftProjection(nn.Module):
    """The parametrization: a tensor -> the same shape, its directions damped by level. It has no parameters."""

    matrix: Tensor

    def __init__(self, softness: Softness, tensor: Tensor):
        super().__init__()
        self.softness = softness
        self.register_buffer("matrix", torch.as_tensor(softness.matrix()).to(tensor), persistent=False)

    def forward(self, tensor: Tensor) -> Tensor:
        with torch.autocast(tensor.device.type, enabled=False):
            return _with_blocks(tensor, self.softness, self.softness.blocks(tensor) @ self.matrix)


def _with_blocks(tensor: Tensor, how: Softness, blocks: Tensor) -> Tensor:
    """The tensor that has these blocks; what is no block (class tokens) is the tensor's."""
    if how.kind == "embedding":
        return torch.cat([tensor[:, : tensor.shape[1] - how.grid**2], blocks.T[None]], 1)
    if how.kind == "mask":
        return blocks.T.reshape(tensor.shape)
    y, x = FIELDS[how.outputs], FIELDS[how.inputs]
    return blocks.unflatten(2, (y, x * how.grid**2)).transpose(1, 2).reshape(tensor.shape)


def soften(
    model: nn.Module,
    group: str = "C4",
    softness: float = 0.3,
    layers: str | Sequence[str] | None = None,
    *,
    cut: bool = False,
    inputs: str = "scalar",
    outputs: str = "scalar",
) -> nn.Module:
    """`model` itself, with softly equivariant weights; it trains on as it did, and `fold` makes plain weights of it.

    group: "C4", "D4" or "C<n>". softness: 0 (strictly equivariant layers) to 1 (left as they are); directions of level
    σ are damped by softness^σ, or with `cut` kept up to the level softness · (the highest). layers: names of modules,
    or of position embeddings, or patterns such as "layer1.*"; None takes all that apply. inputs, outputs: "scalar" or
    "vector", what the channels of these layers are; vectors stand in adjacent channels, x (to the right) before y
    (downwards).

    1 × 1 kernels and linear layers of scalars have nothing to soften; kernels that are not square are left. A strict
    layer is so where its stride leaves its positions centered: `foveate verify --equivariance` names those where it
    does not. Raises InputError.
    """
    if not 0 <= softness <= 1:
        raise InputError(
            "softness", got=f"{softness:g}", expected="0 (strict) to 1 (as it is)", fix="Try 0.3."
        )
    for field in (inputs, outputs):
        if field not in FIELDS:
            raise InputError("field", got=repr(field), expected=" or ".join(FIELDS), fix="Name one.")
    base = Softness("kernel", Group(group).name, float(softness), cut, inputs, outputs)
    chosen = _choose(model, base, [layers] if isinstance(layers, str) else layers)
    for owner, _, tensor, how in chosen:
        _check(how, model.get_submodule(owner), tensor)
    for owner, _, tensor, how in chosen:
        module = model.get_submodule(owner)
        parametrize.register_parametrization(module, tensor, SoftProjection(how, getattr(module, tensor)))
        _note(module, tensor, how)
    return model


def mark_softened(model: nn.Module, softened: Sequence[dict[str, Any]]) -> None:
    """Say of a network with plain weights that they are the folded ones of these `soften` calls."""
    for arguments in softened:
        facts = {key: value for key, value in arguments.items() if key != "layers"}
        for owner, _, tensor, how in _choose(model, Softness("kernel", **facts), arguments["layers"]):
            _note(model.get_submodule(owner), tensor, how)


def softened(model: nn.Module) -> list[dict[str, Any]]:
    """The arguments of the `soften` calls that made the network, folded or not, as JSON can hold them."""
    calls: dict[tuple, dict[str, Any]] = {}
    for name, tensor, how in _notes(model):
        if how.kind == "bias":
            continue  # goes with its layer
        facts = {key: getattr(how, key) for key in ("group", "softness", "cut", "inputs", "outputs")}
        call = calls.setdefault(tuple(facts.values()), {**facts, "layers": []})
        call["layers"].append(f"{name}.{tensor}".lstrip(".") if how.kind == "embedding" else name)
    return list(calls.values())


_Candidate = tuple[str, str, str, Softness]  # owner, its name as a layer, tensor


def _choose(model: nn.Module, base: Softness, layers: Sequence[str] | None) -> list[_Candidate]:
    found = list(_candidates(model, base))
    names = list(dict.fromkeys(layer for _, layer, _, _ in found))
    for pattern in layers or ():
        if not fnmatch.filter(names, pattern):
            raise InputError(
                "layers",
                got=f"{pattern!r}, where nothing can be softened",
                expected="some of " + (", ".join(names) or "none: there is none"),
                fix="1 × 1 kernels and linear layers of scalars have nothing to soften.",
            )
    return [c for c in found if layers is None or any(fnmatch.fnmatchcase(c[1], p) for p in layers)]


def _candidates(model: nn.Module, base: Softness) -> Iterator[_Candidate]:
    """What there is to soften and is not yet."""
    vectors = "vector" in (base.inputs, base.outputs)
    for name, module in model.named_modules():
        if isinstance(module, SoftProjection | parametrize.ParametrizationList):
            continue
        for tensor, value in list(module.named_parameters(recurse=False)):
            how = None
            if isinstance(module, EnergyMaskLayer) and tensor == "weight":
                how = _with(base, "mask", module.patch) if module.patch > 1 and not vectors else None
            elif isinstance(module, nn.Conv2d) and tensor == "weight":
                rows, columns = module.kernel_size
                how = _with(base, "kernel", rows) if rows == columns and (rows > 1 or vectors) else None
            elif isinstance(module, nn.ConvTranspose2d) and tensor == "weight":
                rows, columns = (
                    module.kernel_size
                )  # [in, out, rows, columns]: of scalars, one map like the other
                how = _with(base, "kernel", rows) if rows == columns > 1 and not vectors else None
            elif isinstance(module, nn.Linear) and tensor == "weight":
                how = _with(base, "kernel", 1) if vectors else None
            elif isinstance(module, nn.Conv2d | nn.Linear) and tensor == "bias":
                how = _with(base, "bias", 1, inputs="scalar") if base.outputs == "vector" else None
            elif tensor in EMBEDDINGS and value.ndim == 3 and not vectors and (grid := _grid(module, value)):
                how = _with(base, "embedding", grid)
                yield name, f"{name}.{tensor}".lstrip("."), tensor, how
                continue
            if how is not None:
                yield name, name, tensor, how


def _with(base: Softness, kind: str, grid: int, inputs: str | None = None) -> Softness:
    return Softness(kind, base.group, base.softness, base.cut, inputs or base.inputs, base.outputs, grid)


def _grid(module: nn.Module, embedding: Tensor) -> int:
    """The side of the square of tokens that an embedding [1, prefix + grid², D] ends with; 0: there is none."""
    tokens = embedding.shape[1]
    size = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    if size is not None:
        return size[0] if size[0] == size[1] and size[0] ** 2 <= tokens else 0
    return next((isqrt(n) for n in range(tokens, max(tokens - 6, 3), -1) if isqrt(n) ** 2 == n), 0)


def _check(how: Softness, module: nn.Module, tensor: str) -> None:
    shape = list(getattr(module, tensor).shape)
    counts = [shape[0] // (getattr(module, "groups", 1)), shape[1] if len(shape) > 1 else 1]
    if how.kind in ("kernel", "bias") and (counts[0] % FIELDS[how.outputs] or counts[1] % FIELDS[how.inputs]):
        raise InputError(
            f"{type(module).__name__} {tensor} {shape}",
            got=f"{how.outputs} outputs of {how.inputs} inputs",
            expected="vectors in pairs of channels of one group",
            fix="Choose layers=…, or give it an even number of channels.",
        )
    sigma, _ = equivariance.levels(Group(how.group), *how.spaces)
    if how.kind == "kernel" and not how.softness and sigma.min() > 0:
        raise InputError(
            f"softness 0 for {type(module).__name__} {tensor} {shape}",
            got=f"no weights but 0 that {how.group} leaves as they are, on so small a grid",
            expected="some",
            fix="Take C4 or D4, which do not interpolate, or a softness above 0.",
        )


def _note(module: nn.Module, tensor: str, how: Softness) -> None:
    setattr(module, _NOTES, {**getattr(module, _NOTES, {}), tensor: how})


def _notes(model: nn.Module) -> Iterator[tuple[str, str, Softness]]:
    for name, module in model.named_modules():
        for tensor, how in getattr(module, _NOTES, {}).items():
            yield name, tensor, how


def soft_tensors(model: nn.Module) -> tuple[SoftTensor, ...]:
    """What of the network is softened, folded or not, with the weights that it computes with now."""
    return tuple(
        SoftTensor(f"{name}.{tensor}".lstrip("."), how, _numbers(getattr(model.get_submodule(name), tensor)))
        for name, tensor, how in _notes(model)
    )


def _numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def fold(model: nn.Module) -> nn.Module:
    """A copy of the network with plain weights, the projected ones: the same answers and shapes, and no trace of the
    projection. What was softened how can still be asked (`soft_tensors`) and is written into the program's metadata.
    `model` stays as it is, and trains on."""
    folded = copy.deepcopy(model)
    for module in list(folded.modules()):
        if isinstance(module, SoftProjection | parametrize.ParametrizationList):
            continue
        for tensor in getattr(module, _NOTES, {}):
            if parametrize.is_parametrized(module, tensor):
                _own_class(module)
                parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
    return folded


def _own_class(module: nn.Module) -> None:
    """torch puts a parametrized tensor's property into a class that copies of the module share: without this, removing
    it from the copy would remove it from `model`, too."""
    shared = type(module)
    setattr(module, "__class__", type(shared.__name__, shared.__bases__, dict(vars(shared))))  # noqa: B010
