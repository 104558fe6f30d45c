"""A network to export: a torch module, or a checkpoint that is loaded only when it is needed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..runtime.errors import InputError, MissingExtraError
from ..runtime.manifest import Preprocess
from .metadata import preprocess_of
from .stages import digest, file_digest

TIMM = "timm:"


class Network:
    """`identity` tells one network from another (hashes, by name); the rest is what its checkpoint says of it."""

    def __init__(
        self, load: Callable[[], Any], identity: dict[str, Any], config: dict[str, Any] | None = None
    ):
        config = config or {}
        self._load, self.identity = load, identity
        self.labels: tuple[str, ...] = tuple(config.get("labels", ()))
        self.sample: tuple[int, ...] | None = tuple(config["sample"]) if config.get("sample") else None
        facts = config.get("preprocess")
        self.preprocess: Preprocess | None = (
            preprocess_of(facts, "a checkpoint's preprocess") if facts else None
        )

    @functools.cached_property
    def module(self) -> Any:
        """The torch module, in eval mode."""
        return self._load()


def open_network(
    source: Any,
    model: str | None = None,
    after: str | None = None,
    exits: Sequence[int] | None = None,
) -> Network:
    """`source`: a torch module, a checkpoint's path, a Hugging Face folder, or "timm:NAME" with random weights.

    `model` is for checkpoints that do not say what they belong to: "timm:NAME", a name of Foveate's own, or
    "module:function" that returns the torch module. `after` inserts an energy mask behind that module. `exits` are
    those of a Hugging Face model's encoder. Raises InputError if the checkpoint cannot be read.
    """
    if hasattr(source, "state_dict"):
        code = str(source) + str(getattr(source, "code", ""))
        return Network(lambda: source, {"weights": weights_digest(source), "network": digest(code)})
    try:
        from ..export.checkpoint import load_checkpoint, read_config
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "export", "reading a checkpoint") from error
    path = Path(source)
    if path.is_dir():
        return _open_folder(path, exits)
    config = None if str(source).startswith(TIMM) else read_config(path)
    identity = {"checkpoint": file_digest(path) or str(source), "model": model, "mask after": after}
    target: Any = _function(model)
    if callable(target):
        target = target()
        identity["network"] = digest(str(target) + str(getattr(target, "code", "")))
    return Network(lambda: load_checkpoint(source, target, after=after), identity, config)


def _open_folder(path: Path, exits: Sequence[int] | None) -> Network:
    from ..export.huggingface import CONFIG, WEIGHTS, is_folder, load_folder, read_folder

    if not is_folder(path):
        raise InputError(
            f"checkpoint {path}",
            got=f"a folder without {CONFIG}",
            expected="a Hugging Face folder, or a file",
            fix="Write one with model.save_pretrained(FOLDER).",
        )
    files = [path / CONFIG, *sorted(path.glob(WEIGHTS))]
    identity = {"folder": [file_digest(file) for file in files], "exits": list(exits or ())}
    return Network(lambda: load_folder(path, exits), identity, read_folder(path))


def _function(model: str | None) -> Any:
    """A callable for "module:function"; names of architectures stay names."""
    if model is None or model.startswith(TIMM) or ":" not in model:
        return model
    from .names import import_function

    return import_function(model, "model")


def weights_digest(module: Any) -> str:
    """Of a torch module's state dict: names, types and values."""
    total = hashlib.sha256()
    for name, value in module.state_dict().items():
        total.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return total.hexdigest()
