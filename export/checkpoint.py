"""Checkpoints: a torch module's tensors in a file, and the module that they are loaded into. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ..runtime.errors import InputError, MissingExtraError

TORCH_SUFFIXES = (".pt", ".pth", ".bin")


def load_checkpoint(path: str | Path, model: Callable[[], nn.Module] | nn.Module) -> nn.Module:
    """`model` (or the module that it returns) with the tensors of `path`, in eval mode.

    `path` is safetensors, or a torch file that holds a state dict and nothing that would have to be unpickled.
    Raises InputError if it cannot be read or its tensors do not fit the module.
    """
    path = Path(path)
    tensors = _read(path)
    module = model if isinstance(model, nn.Module) else model()
    wanted = {name: list(value.shape) for name, value in module.state_dict().items()}
    given = {name: list(value.shape) for name, value in tensors.items()}
    wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if wrong:
        name = wrong[0]
        raise InputError(
            f"checkpoint {path}: {len(wrong)} of {len(wanted)} tensors do not fit, {name!r} first",
            got=f"{given[name]}" if name in given else "no such tensor",
            expected=f"{wanted[name]}" if name in wanted else "none of that name",
            fix="Build the module as it was trained, its energy mask included (insert_energy_mask), then load.",
        )
    module.load_state_dict(tensors)
    return module.eval()


def save_checkpoint(module: nn.Module, path: str | Path) -> Path:
    """Write the module's tensors as safetensors, from which `load_checkpoint` reads them."""
    save_file = _safetensors().save_file
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}, temporary
    )
    temporary.replace(path)
    return path


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix in TORCH_SUFFIXES:
            content = torch.load(path, map_location="cpu", weights_only=True)
            content = content.get("state_dict", content) if isinstance(content, dict) else content
            if isinstance(content, dict) and all(isinstance(v, torch.Tensor) for v in content.values()):
                return content
            raise ValueError("no state dict in it")
        return _safetensors().load_file(path)
    except MissingExtraError:
        raise
    except Exception as error:  # safetensors' and pickle's errors have no common root
        raise InputError(
            f"checkpoint {path}",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            expected="safetensors, or torch.save(module.state_dict(), …)",
            fix="Write it with foveate.export.save_checkpoint(module, path).",
        ) from error


def _safetensors():
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingExtraError("safetensors", "export", "reading a checkpoint") from error
    return safetensors.torch
