"""What a bundle's answers are worth: each image run once under each choice, and kept in the bundle.

Another budget runs no image again that it need not, and a run that was cut off goes on where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from ..pipeline.environment import versions
from ..pipeline.metrics import count_of, metric_source, padded
from ..pipeline.stages import code_digest
from ..runtime import Model, Result
from ..runtime.files import replacing

KEPT = "answers.npz"
SECONDS = 10.0  # between two savings

Choices = Mapping[str, Any]  # values by name: all that the bundle has


@dataclass(frozen=True)
class Answer:
    """counts: what it adds to the metric, float64 [K, 2]; features: what the gate of its exits reads, [D], or none."""

    counts: np.ndarray
    features: np.ndarray


class Answers:
    """Of `model`, in `metric`, against those under the choices `reference` (which "agreement" compares with), of the
    same model, or of that of the answers `against`. Kept in the file `kept` for this `program`, a hash. A context
    manager: what is new is kept when it ends, however it ends."""

    def __init__(
        self,
        model: Model,
        metric: str,
        reference: Choices,
        kept: Path,
        program: str,
        against: Answers | None = None,
    ):
        self.metric, self.runs = metric, 0
        self._model, self._count, self._reference = model, count_of(metric), dict(reference)
        self._path, self._saved, self._new = kept, monotonic(), False
        self._against, self._program = against or self, program
        said = {"program": program, "against": self._against._program, "metric": metric_source(metric)}
        said |= {"onnxruntime": str(versions().get("onnxruntime")), "foveate": code_digest()}
        self._key = key_of({**said, "reference": key_of(reference)})
        self._rows = _read(kept, self._key)

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self._save()

    def of(self, image: np.ndarray, label: Any, tried: Sequence[Choices]) -> list[Answer]:
        """Of one image under each of these choices."""
        content = digest(image, label)
        keys = [hashlib.sha256(content + key_of(choices).encode()).digest() for choices in tried]
        missing = {key: choices for key, choices in zip(keys, tried, strict=True) if key not in self._rows}
        if missing:
            reference = self._against._run(image, self._reference)
            for key, choices in missing.items():
                known = self._against is self and dict(choices) == self._reference
                result = reference if known else self._run(image, choices)
                features = np.empty(0, np.float32) if result.features is None else result.features[0]
                self._rows[key] = Answer(self._count(plain(result), label, plain(reference)), features)
            self._new = True
            if monotonic() - self._saved > SECONDS:
                self._save()
        return [self._rows[key] for key in keys]

    def _run(self, image: np.ndarray, choices: Choices) -> Result:
        self.runs += 1
        self._model.set_choices(dict(choices))
        return self._model(image)

    def _save(self) -> None:
        if not self._new:
            return
        digests = np.array([np.frombuffer(digest, np.uint8) for digest in self._rows])
        counts = padded([answer.counts for answer in self._rows.values()])
        features = np.stack([answer.features for answer in self._rows.values()])
        with replacing(self._path) as temporary, temporary.open("wb") as file:
            np.savez(file, key=np.array(self._key), digests=digests, counts=counts, features=features)
        self._new, self._saved = False, monotonic()


def key_of(choices: Mapping[str, Any]) -> str:
    """The same for equal values."""
    plain = {name: np.asarray(v).tolist() if not isinstance(v, str) else v for name, v in choices.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def plain(result: Any) -> dict[str, np.ndarray]:
    """With arrays of numpy, whosever they are."""
    return {name: np.asarray(value) for name, value in result.items()}


def _read(path: Path, key: str) -> dict[bytes, Answer]:
    """None of a file that is of no use for this key."""
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError), np.load(path) as found:
        if str(found["key"]) == key:
            columns = (found[name] for name in ("digests", "counts", "features"))
            return {d.tobytes(): Answer(c, f) for d, c, f in zip(*columns, strict=True)}
    return {}


def digest(*values: Any) -> bytes:
    """Of images and labels, all of them: the repr of an array leaves out what lies in its middle."""
    total = hashlib.sha256()
    for value in values:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = [getattr(value, field.name) for field in dataclasses.fields(value)]
        if isinstance(value, list | tuple):
            total.update(digest(*value))
        else:
            total.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return total.digest()
