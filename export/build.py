"""A module from its description in plain data."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..runtime.errors import InputError
from .insert import insert_energy_mask
from .models import resnet34_body, small_resnet

TIMM = "timm:"
MODELS: dict[str, Callable[..., nn.Module]] = {"small_resnet": small_resnet, "resnet34_body": resnet34_body}


def build_module(config: dict[str, Any]) -> nn.Module:
    """`config["model"]` built with `config["args"]`, without its masks and with random weights.

    Raises InputError for a name that is neither in MODELS nor timm's, or arguments that it does not take."""
    name, args = config.get("model"), dict(config.get("args", {}))
    if isinstance(name, str) and name.startswith(TIMM):
        return _timm(name.removeprefix(TIMM), args)
    if name not in MODELS:
        raise InputError(
            "model", got=repr(name), expected=f"{', '.join(MODELS)} or timm:NAME", fix="use one of these"
        )
    try:
        return MODELS[name](**args)
    except TypeError as error:
        raise InputError(
            f"args of {name}", got=str(args), expected=str(error), fix="mend the config"
        ) from error


def _timm(name: str, args: dict[str, Any]) -> nn.Module:
    from .torchvision_import import import_timm

    timm = import_timm()
    known = timm.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise InputError(
            "model",
            got=f"{TIMM}{name}",
            expected="an architecture of timm",
            fix=f"did you mean {TIMM}{near[0]}?" if near else "see timm.list_models()",
        )
    return timm.create_model(name, **{"pretrained": False, **args})


def insert_masks(module: nn.Module, masks: Sequence[dict], config: dict[str, Any] | None) -> nn.Module:
    """The module with one mask per entry, each the arguments of `insert_energy_mask`; for `config["sample"]`."""
    shape = (config or {}).get("sample")
    for arguments in masks:
        module = insert_energy_mask(module, sample=torch.zeros(shape) if shape else None, **arguments)
    return module
