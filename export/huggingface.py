"""A Hugging Face checkpoint folder (config.json, model.safetensors) as an early-exit model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..runtime.errors import InputError, told
from .deformable_detr import deformable_detr
from .early_exit_model import EarlyExitModel
from .mask2former import mask2former
from .torchvision_import import import_transformers

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = "*.safetensors"
SAMPLE = (1, 3, 512, 512)  # what a plan is made for where nobody says
ARCHITECTURES: dict[str, tuple[str, Callable[[Any, Sequence[int]], EarlyExitModel]]] = {
    "mask2former": ("Mask2FormerForUniversalSegmentation", mask2former),
    "deformable_detr": ("DeformableDetrForObjectDetection", deformable_detr),
}  # by the config's model_type: the class of transformers, and what makes an early-exit model of it


def is_folder(path: str | Path) -> bool:
    """Whether this is such a folder."""
    return (Path(path) / CONFIG).is_file()


def load_folder(path: str | Path, exits: Sequence[int] | None = None) -> EarlyExitModel:
    """The folder's model, in eval mode, with a gate that takes all layers until it is trained. Nothing is
    downloaded, and nothing unpickled.

    exits: numbers of encoder layers, the last one all of them; None takes all from the second layer on. Raises
    InputError for a folder that cannot be read, an architecture without an adapter, or tensors that do not fit;
    MissingExtraError."""
    path, config = Path(path), _json(Path(path) / CONFIG)
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise InputError(
            f"checkpoint {path}",
            got=f"model_type {kind!r}",
            expected=f"one of {', '.join(ARCHITECTURES)}",
            fix="Wrap other networks yourself: see EarlyExitModel in docs/early-exit.md.",
        )
    if not any(path.glob(WEIGHTS)):
        raise InputError(
            f"checkpoint {path}",
            got=f"no {WEIGHTS} among {', '.join(sorted(p.name for p in path.iterdir()))}",
            expected="the weights as safetensors",
            fix="Write them with model.save_pretrained(FOLDER) in the program that has them.",
        )
    return with_exits(_load(getattr(import_transformers(), ARCHITECTURES[kind][0]), path), exits)


def with_exits(model: Any, exits: Sequence[int] | None = None) -> EarlyExitModel:
    """A model of transformers that is loaded already, one of `ARCHITECTURES`, as `load_folder` gives it. It is changed:
    it shares its weights with the answer, and goes into eval mode. Raises InputError as `load_folder` does."""
    kinds = {name: adapter for name, adapter in ARCHITECTURES.values()}
    if type(model).__name__ not in kinds:
        raise InputError(
            "model",
            got=type(model).__name__,
            expected=f"{' or '.join(kinds)} of transformers",
            fix="Wrap other networks yourself: see EarlyExitModel in docs/early-exit.md.",
        )
    layers = len(_encoder_layers(model))
    return kinds[type(model).__name__](model, exits or range(min(2, layers - 1), layers + 1))


def read_folder(path: str | Path) -> dict[str, Any]:
    """What the folder says beside tensors, as a checkpoint's config does: labels, preprocess, the sample's shape."""
    path, config = Path(path), _json(Path(path) / CONFIG)
    labels = {int(number): str(name) for number, name in config.get("id2label", {}).items()}
    names = [labels[number] for number in sorted(labels)]
    if names == [
        f"LABEL_{number}" for number in range(len(names))
    ]:  # transformers' own, where nobody gave any
        names = []
    facts: dict[str, Any] = {"labels": names, "sample": SAMPLE}
    if (path / PREPROCESSOR).is_file():
        facts["preprocess"] = _preprocess(_json(path / PREPROCESSOR))
    return facts


def _preprocess(said: dict[str, Any]) -> dict[str, Any]:
    """An image processor's numbers. Its sizes are left out: they follow each image's own, and any multiple will do."""
    found: dict[str, Any] = {}
    if said.get("do_rescale", True):
        found["scale"] = said.get("rescale_factor", 1 / 255)
    else:
        found["scale"] = 1.0
    if said.get("do_normalize", True) and "image_mean" in said:
        found.update(mean=said["image_mean"], std=said["image_std"])
    return found


def _load(kind: Any, path: Path) -> Any:
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # what is wrong is raised below
    logging.disable_progress_bar()
    try:
        model, found = kind.from_pretrained(
            path, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # transformers' and safetensors' errors have no common root
        raise InputError(
            f"checkpoint {path}",
            got=told(error),
            expected=f"a folder that {kind.__name__}.from_pretrained reads",
            fix="Write it with model.save_pretrained(FOLDER); copies are compared by sha256.",
        ) from error
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
    wrong = sorted([*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])])
    if wrong:
        raise InputError(
            f"checkpoint {path}: {len(wrong)} tensors are missing or do not fit",
            got=f"no {wrong[0]}",
            expected=f"all tensors of a {kind.__name__}",
            fix="Write the folder with model.save_pretrained(FOLDER).",
        )
    return model


def _encoder_layers(model: Any) -> Any:
    inner = model.model
    return (
        inner.encoder.layers if hasattr(inner, "encoder") else inner.pixel_level_module.decoder.encoder.layers
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            str(path), got=f"{type(error).__name__}: {error}", expected="JSON", fix="Copy the folder again."
        ) from error
    return found if isinstance(found, dict) else {}
