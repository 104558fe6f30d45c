"""A network as an editable graph that still has the network's module names and state-dict keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from ..runtime.errors import InputError, ProgramError
from .energy_mask_layer import EnergyMaskLayer

MODULES = "foveate.modules"  # node.meta: names of the modules whose output this node is
_DROPOUTS = {F.dropout: nn.Dropout, F.dropout2d: nn.Dropout2d, torch.dropout: nn.Dropout}


class MaskedModule(fx.GraphModule):
    """A traced network, with its energy masks. Parameters are the traced network's own, not copies."""

    @property
    def masks(self) -> tuple[EnergyMaskLayer, ...]:
        """The mask layers, in the order they were inserted."""
        return tuple(m for m in self.children() if isinstance(m, EnergyMaskLayer))

    @property
    def insertions(self) -> list[dict]:
        """The arguments of each `insert_energy_mask` call, as JSON can hold them."""
        return self.meta.setdefault("insertions", [])


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if super().is_leaf_module(m, module_qualified_name) or isinstance(m, EnergyMaskLayer):
            return True
        has_conv = any(isinstance(c, nn.Conv2d) for c in m.modules())
        return type(m).__module__.startswith("timm.layers") and not has_conv

    def call_module(self, m, forward, args, kwargs):
        out = super().call_module(m, forward, args, kwargs)
        if isinstance(out, fx.Proxy):
            out.node.meta.setdefault(MODULES, []).append(self.path_of_module(m))
        return out


def trace(network: nn.Module) -> MaskedModule:
    """The network as a graph (a MaskedModule as it is). Raises ProgramError if it cannot be traced."""
    if isinstance(network, MaskedModule):
        return network
    tracer = _Tracer()
    try:
        graph = tracer.trace(network)
    except Exception as error:  # the network's own code runs here and may raise anything
        raise ProgramError(
            f"{type(network).__name__} cannot be traced by torch.fx",
            got=f"{type(error).__name__}: {error}",
            expected="a forward without branches on tensor values",
            fix="put an EnergyMaskLayer into the network's forward by hand: x = x * self.mask0(x)",
        ) from error
    module = MaskedModule(network, graph, type(network).__name__)
    _keep_unused_state(network, module)
    _dropout_as_modules(module)
    module.train(network.training)
    return module


def _keep_unused_state(network: nn.Module, module: fx.GraphModule) -> None:
    """Modules that the forward does not use keep their keys, so that checkpoints still load."""
    for key in network.state_dict().keys() - module.state_dict().keys():
        owner, _, name = key.rpartition(".")
        if owner:
            module.add_submodule(owner, network.get_submodule(owner))
        else:
            setattr(module, name, getattr(network, name))


def _dropout_as_modules(module: fx.GraphModule) -> None:
    """F.dropout(x, training=self.training) was traced with today's value; a module follows train()."""
    found = [n for n in module.graph.nodes if n.op == "call_function" and n.target in _DROPOUTS]
    for number, node in enumerate(found):
        probability = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        name = f"dropout_{number}"
        module.add_submodule(name, _DROPOUTS[node.target](probability))
        with module.graph.inserting_after(node):
            node.replace_all_uses_with(module.graph.call_module(name, (node.args[0],)))
        module.graph.erase_node(node)
    module.recompile()


def shapes(module: fx.GraphModule, sample: Tensor) -> dict[fx.Node, torch.Size]:
    """The shape of every tensor of the graph for this sample; BatchNorm statistics are untouched."""
    was_training = {m: m.training for m in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            ShapeProp(module).propagate(sample)
    except RuntimeError as error:
        raise InputError(
            "the sample does not fit the network",
            got=f"{sample.dtype} {list(sample.shape)} ({str(error).splitlines()[0]})",
            expected="a batch that the network's forward accepts",
            fix="pass sample=torch.zeros(1, channels, height, width)",
        ) from error
    finally:
        for m, training in was_training.items():
            m.training = training
    return {
        n: n.meta["tensor_meta"].shape
        for n in module.graph.nodes
        if hasattr(n.meta.get("tensor_meta"), "shape")
    }


def output_of(module: fx.GraphModule, name: str) -> fx.Node:
    """The node that is the output of the module `name`. Raises InputError that lists candidates."""
    found = [n for n in module.graph.nodes if name in n.meta.get(MODULES, ())]
    if len(found) == 1:
        return found[0]
    names = [m for n in module.graph.nodes for m in n.meta.get(MODULES, ()) if m]
    shallow = [m for m in names if m.count(".") <= name.count(".")] or names
    raise InputError(
        f"after={name!r}",
        got=f"a module that runs {len(found)} times"
        if found
        else "no module of that name in the forward pass",
        expected="a module that runs once, such as " + ", ".join(dict.fromkeys(shallow)),
        fix="name one of these; nested ones such as layer1.0 work too",
    )
