"""What a node of a traced network is to a mask: a convolution, an activation, something a mask passes."""

from __future__ import annotations

import operator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import fx, nn

Role = Literal["conv", "activation", "add", "through", "other"]

_CONVS = (nn.Conv2d, nn.ConvTranspose2d)
_CONV_CALLS = {F.conv2d, torch.conv2d, F.conv_transpose2d, torch.conv_transpose2d}
_ADD_CALLS = {operator.add, operator.iadd, torch.add}
_ACTIVATION_NAMES = {
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "elu", "elu_", "celu", "selu", "gelu"),
    *("silu", "mish", "hardswish", "hardtanh", "hardsigmoid", "sigmoid", "tanh", "softplus", "softsign"),
}
_THROUGH_NAMES = {"batch_norm", "group_norm", "instance_norm", "layer_norm", "contiguous"}
_NOT_ELEMENTWISE = ("Softmax", "LogSoftmax", "Softmin", "MultiheadAttention", "AdaptiveLogSoftmax")
_THROUGH_FILES = {
    *("torch.nn.modules.batchnorm", "torch.nn.modules.instancenorm", "torch.nn.modules.normalization"),
    *("torch.nn.modules.dropout", "timm.layers.drop", "timm.layers.norm", "timm.layers.layer_scale"),
}
_NORM_ACT_FILES = {"timm.layers.norm_act", "timm.layers.evo_norm", "timm.layers.filter_response_norm"}


def role(node: fx.Node, modules: dict[str, nn.Module]) -> Role:
    """The role of a node; `modules` are the traced network's, by qualified name."""
    if node.op == "call_module":
        return _module_role(modules[str(node.target)])
    if node.op == "call_method":
        name = str(node.target)
        return "add" if name in ("add", "add_") else _role_of_name(name)
    if node.op == "call_function":
        if node.target in _CONV_CALLS:
            return "conv"
        if node.target in _ADD_CALLS:
            return "add"
        return _role_of_name(getattr(node.target, "__name__", ""))
    return "other"


def _role_of_name(name: str) -> Role:
    if name in _ACTIVATION_NAMES:
        return "activation"
    return "through" if name in _THROUGH_NAMES else "other"


def _module_role(module: nn.Module) -> Role:
    file = type(module).__module__
    if isinstance(module, _CONVS):
        return "conv"
    if isinstance(module, nn.Identity) or file in _THROUGH_FILES:
        return "through"
    if file in _NORM_ACT_FILES:  # a norm with its activation inside, which may be none
        return "through" if isinstance(getattr(module, "act", None), nn.Identity) else "activation"
    if file.startswith("timm.layers.activations"):
        return "activation"
    if file == "torch.nn.modules.activation" and not type(module).__name__.startswith(_NOT_ELEMENTWISE):
        return "activation"
    return "other"
