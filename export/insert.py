"""Put an energy mask into a backbone that was written without one."""

from __future__ import annotations

import operator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..runtime.errors import InputError
from .energy_mask_layer import EnergyMaskLayer
from .roles import role
from .trace import MODULES, MaskedModule, output_of, shapes, trace

_PERSIST = "foveate.persist"  # node.meta: this Mul re-applies a mask
_KEEPS = "foveate.keep"  # node.meta of the nodes that are a mask's effective keep: its (height, width)

Persist = Literal["conv", "block"] | None
Size = tuple[int, int]


def insert_energy_mask(
    backbone: nn.Module,
    after: str = "layer1",
    *,
    patch: int = 1,
    persist: Persist = "conv",
    sample: Tensor | None = None,
    name: str | None = None,
    **layer: Any,
) -> MaskedModule:
    """`backbone` with an EnergyMaskLayer behind its module `after`.

    The features behind `after` are multiplied by keep. With persist="conv" (the persistent mask) so is the
    post-activation output of every following conv; with "block" only where a residual add lies between; with
    None nothing more. Further down keep is halved by 2 × 2 max-pooling. `layer` are EnergyMaskLayer's
    arguments; `sample` [B, C, H, W] gives the sizes (default 1 × 3 × 224 × 224); `name` defaults to mask0, ….

    The result shares the backbone's parameters, keeps its state-dict keys and can be given in again: a second
    mask only narrows the first. `result.masks` are the layers. Raises InputError for an unknown `after` or a
    map that keep cannot reach by halving, ProgramError if the network cannot be traced.
    """
    if persist not in ("conv", "block", None):
        raise InputError(
            "persist", got=repr(persist), expected="'conv', 'block' or None", fix="choose one of these"
        )
    module = trace(backbone)
    source = output_of(module, after)
    sizes = shapes(module, _default_sample(module) if sample is None else sample)
    _check_map(after, sizes.get(source))
    name = _free_name(module, name)
    channels, size = sizes[source][1], (sizes[source][2], sizes[source][3])
    ends = _chain_ends(module, source, sizes, persist)  # before the graph is edited
    _check_reachable(ends, sizes, size, name)

    weight = next(backbone.parameters())
    mask = EnergyMaskLayer(channels, patch=patch, **layer).to(weight.device)
    module.add_submodule(name, mask)
    keep = _insert_keep(module, source, name, size)
    _multiply(module, source, keep, after=keep)
    support = _support(module, keep) if mask.soft else keep
    pyramid = {size: support}
    for end in ends:
        pooled = _pooled(module, pyramid, size, (sizes[end][2], sizes[end][3]))
        _apply_persistent(module, end, pooled)
    module.graph.lint()
    module.recompile()
    module.insertions.append({"after": after, "patch": patch, "persist": persist, "name": name, **layer})
    return module


def _free_name(module: MaskedModule, name: str | None) -> str:
    if name is not None and (hasattr(module, name) or not name.isidentifier()):
        taken = [n for n, _ in module.named_children()]
        raise InputError(
            "name", got=repr(name), expected=f"an identifier besides {taken}", fix="choose another name"
        )
    return name or next(n for n in (f"mask{i}" for i in range(10**6)) if not hasattr(module, n))


def _default_sample(module: nn.Module) -> Tensor:
    weight = next(module.parameters())
    return torch.zeros(1, 3, 224, 224, device=weight.device, dtype=weight.dtype)


def _check_map(after: str, shape: torch.Size | None) -> None:
    if shape is None or len(shape) != 4:
        raise InputError(
            f"after={after!r}",
            got="no single tensor" if shape is None else f"an output of shape {list(shape)}",
            expected="a feature map [batch, channels, height, width]",
            fix="name a module before the global pooling",
        )


def _chain_ends(module: MaskedModule, source: fx.Node, sizes: dict, persist: Persist) -> list[fx.Node]:
    """Where the persistent mask is applied: the end of each following conv's chain, once each."""
    if persist is None:
        return []
    modules: dict[str, nn.Module] = dict(module.named_modules())
    behind = {source}
    ends: dict[fx.Node, None] = {}
    for node in module.graph.nodes:
        if not behind.isdisjoint(node.all_input_nodes):
            behind.add(node)
        shape = sizes.get(node, ())
        if (
            node is source
            or node not in behind
            or role(node, modules) != "conv"
            or tuple(shape[2:]) == (1, 1)
        ):
            continue  # a conv on a pooled 1 × 1 map (squeeze-and-excite, a head) has no positions to drop
        end, passed_add = _chain_end(node, modules)
        if passed_add or persist == "conv":
            ends[end] = None
    return list(ends)


def _chain_end(conv: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node, bool]:
    """From a conv along single consumers (norm, add, dropout, identity) to its activation, or as far as they
    go; and whether an add was passed."""
    node, passed_add = conv, False
    while len(node.users) == 1:
        following = next(iter(node.users))
        kind = role(following, modules)
        if kind not in ("through", "add", "activation"):
            break
        node, passed_add = following, passed_add or kind == "add"
        if kind == "activation":
            break
    return node, passed_add


def _halvings(size: Size) -> list[Size]:
    found = [size]
    while found[-1] != (1, 1):
        found.append(((found[-1][0] + 1) // 2, (found[-1][1] + 1) // 2))
    return found


def _check_reachable(ends: list[fx.Node], sizes: dict, size: Size, name: str) -> None:
    reachable = _halvings(size)
    for end in ends:
        at = (sizes[end][2], sizes[end][3])
        if at not in reachable:
            raise InputError(
                f"{name} cannot persist at {end.name}",
                got=f"a map of {at[0]} × {at[1]}",
                expected=f"{size[0]} × {size[1]} halved, rounding up: "
                + ", ".join(f"{h} × {w}" for h, w in reachable),
                fix="pass persist=None, or another `after`",
            )


def _insert_keep(module: MaskedModule, source: fx.Node, name: str, size: Size) -> fx.Node:
    """keep of the new mask, narrowed by the last mask before it (pooled to this resolution)."""
    graph = module.graph
    earlier = _earlier_keep(source, size)
    with graph.inserting_after(source):
        keep = graph.call_module(name, (source,))
    if earlier is not None:
        base, at = earlier
        pooled = _pooled(module, {at: base}, at, size)
        with graph.inserting_after(keep):
            keep = graph.call_function(operator.mul, (keep, pooled))
    keep.meta[_KEEPS] = size
    return keep


def _earlier_keep(source: fx.Node, size: Size) -> tuple[fx.Node, Size] | None:
    """The nearest keep that `source` depends on and that can be pooled to `size`."""
    seen, queue = {source}, [source]
    for node in queue:
        at = node.meta.get(_KEEPS)
        if at and size in _halvings(at):
            return node, at
        fresh = [n for n in node.all_input_nodes if n not in seen]
        seen.update(fresh)
        queue += fresh
    return None


def _support(module: MaskedModule, keep: fx.Node) -> fx.Node:
    """1 where a soft keep is not 0: re-applying m itself at every conv would multiply it up."""
    graph = module.graph
    with graph.inserting_after(keep):
        kept = graph.call_method("bool", (keep,))
    with graph.inserting_after(kept):
        return graph.call_method("type_as", (kept, keep))


def _pooled(module: MaskedModule, pyramid: dict[Size, fx.Node], size: Size, target: Size) -> fx.Node:
    """keep at `target`, halving from `size`; each resolution is computed once and kept in `pyramid`."""
    previous = pyramid[size]
    for at in _halvings(size):
        if at not in pyramid:
            with module.graph.inserting_after(previous):
                call = {"kernel_size": 2, "stride": 2, "ceil_mode": True}
                pyramid[at] = module.graph.call_function(F.max_pool2d, (previous,), call)
        previous = pyramid[at]
        if at == target:
            break
    return previous


def _apply_persistent(module: MaskedModule, end: fx.Node, keep: fx.Node) -> None:
    """Multiply at `end`; where an earlier mask is re-applied already, the narrower one takes its place."""
    for user in end.users:
        if user.meta.get(_PERSIST):
            user.args = (end, keep)
            return
    _multiply(module, end, keep).meta[_PERSIST] = True


def _multiply(module: MaskedModule, node: fx.Node, keep: fx.Node, after: fx.Node | None = None) -> fx.Node:
    """node · keep takes node's place for every consumer but the masks'."""
    consumers = [u for u in node.users if not (u.op == "call_module" and u.target in _mask_names(module))]
    with module.graph.inserting_after(after or node):
        product = module.graph.call_function(operator.mul, (node, keep))
    for consumer in consumers:
        consumer.replace_input_with(node, product)
    product.meta[MODULES] = node.meta.pop(MODULES, [])
    return product


def _mask_names(module: MaskedModule) -> set[str]:
    return {n for n, m in module.named_children() if isinstance(m, EnergyMaskLayer)}
