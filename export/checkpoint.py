"""Checkpoints: a module's tensors in a safetensors file, with what is needed to build the module again.

The file's metadata holds one JSON object under the key "foveate", the *config*:

    model   a name of `build.MODELS`, or "timm:NAME"
    args    the arguments that it is built with
    soft    the arguments of each soften call; the tensors are the trained ones, or folded
    masks   the arguments of each insert_energy_mask call, in order
    sample  the usual input's shape [B, C, H, W]
    …       whatever else the maker adds (labels, preprocess, figures)

Nothing is ever unpickled, and a config names nothing that could be imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.errors import InputError, told
from .build import TIMM, build_module, insert_masks
from .extras import needs
from .soft_weights import mark_softened, soft_tensors, soften, softened
from .trace import MaskedModule

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
CONFIG = "foveate"

Model = str | nn.Module | Callable[[], nn.Module]


def load_checkpoint(path: str | Path, model: Model | None = None, *, after: str | None = None) -> nn.Module:
    """The module with the tensors of `path`, in eval mode; `read_config(path)` is what else the file says.

    `path` is safetensors, a torch file that holds a state dict and nothing that would have to be unpickled, or
    "timm:NAME" for that architecture with random weights. `model` says what the tensors belong to, if the file has
    no config: a module, a function that returns one, a name of MODELS, or "timm:NAME". `after` inserts an open
    energy mask behind that module; tensors of its own are used if the file has them.

    Raises InputError if the file cannot be read, its tensors do not fit, or nothing says what they belong to.
    """
    if str(path).startswith(TIMM):
        module = build_module({"model": str(path)})
        return insert_masks(module, [{"after": after}] if after else [], None).eval()
    path = Path(path)
    tensors, config = _read(path), read_config(path)
    if model is None and config is None:
        raise InputError(
            f"checkpoint {path}",
            got="no config in it, and no model",
            expected="what its tensors are loaded into",
            fix="pass model=…: a module, a function that returns one, or 'timm:NAME'",
        )
    module = _softened(_module(model, config), tensors, config)
    masks = [] if config is None or isinstance(module, MaskedModule) else list(config.get("masks", []))
    module = insert_masks(module, masks + ([{"after": after}] if after else []), config)
    optional = _new_mask(module, tensors) if after else ""
    _check_fit(path, tensors, module, optional)
    module.load_state_dict(tensors, strict=not optional)
    return module.eval()


def save_checkpoint(module: nn.Module, path: str | Path, config: dict[str, Any] | None = None) -> Path:
    """Write the module's tensors and the config; the masks of a MaskedModule are added to it, and what is softened.
    Whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if config is not None and isinstance(module, MaskedModule):
        config = {"masks": module.insertions, **config}
    if config is not None and (calls := softened(module)):
        config = {**config, "soft": calls}
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with needs("export", "writing a checkpoint"):
        from safetensors.torch import save_file
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, temporary, metadata=None if config is None else {CONFIG: json.dumps(config)})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_config(path: str | Path) -> dict[str, Any] | None:
    """The config of a safetensors file; None where there is none. Raises InputError if it cannot be read."""
    path = Path(path)
    if path.suffix in TORCH_SUFFIXES:
        return None
    with needs("export", "reading a checkpoint"):
        from safetensors import safe_open
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(CONFIG)
        return None if text is None else dict(json.loads(text))
    except Exception as error:  # safetensors' errors have no common root
        raise _unreadable(path, error) from error


def _module(model: Model | None, config: dict[str, Any] | None) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, str):
        return build_module({"model": model})
    if model is not None:
        return model()
    assert config is not None
    return build_module(config)


def _softened(module: nn.Module, tensors: dict[str, Tensor], config: dict[str, Any] | None) -> nn.Module:
    """The module, softened as the config says, if it is not yet; by name only where the file has plain weights."""
    calls = [] if config is None or soft_tensors(module) else config.get("soft", [])
    if any(".parametrizations." in f".{name}" for name in tensors):
        for arguments in calls:
            soften(module, **arguments)
    else:
        mark_softened(module, calls)
    return module


def _new_mask(module: nn.Module, tensors: dict[str, Tensor]) -> str:
    """The prefix of the last inserted mask, if the file has nothing of it."""
    prefix = f"{module.insertions[-1]['name']}." if isinstance(module, MaskedModule) else ""
    return "" if any(name.startswith(prefix) for name in tensors) else prefix


def _check_fit(path: Path, tensors: dict[str, Tensor], module: nn.Module, optional: str) -> None:
    state = module.state_dict()
    wanted = {n: list(v.shape) for n, v in state.items() if not (optional and n.startswith(optional))}
    given = {name: list(value.shape) for name, value in tensors.items()}
    wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if wrong:
        name = wrong[0]
        raise InputError(
            f"checkpoint {path}: {len(wrong)} of {len(wanted)} tensors do not fit, {name!r} first",
            got=f"{given[name]}" if name in given else "no such tensor",
            expected=f"{wanted[name]}" if name in wanted else "none of that name",
            fix="Build the module as it was trained, with its energy mask (insert_energy_mask) and what is soft in it "
            "(soften), then load.",
        )


def _read(path: Path) -> dict[str, Tensor]:
    with needs("export", "reading a checkpoint"):
        import safetensors.torch
    try:
        if path.suffix not in TORCH_SUFFIXES:
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        content = content.get("state_dict", content) if isinstance(content, dict) else content
        if isinstance(content, dict) and all(isinstance(v, Tensor) for v in content.values()):
            return content
        raise ValueError("no state dict in it")
    except Exception as error:  # safetensors' and torch's errors have no common root
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"checkpoint {path}",
        got=told(error),
        expected="safetensors, or torch.save(module.state_dict(), …)",
        fix="Write it with foveate.export.save_checkpoint(module, path).",
    )
