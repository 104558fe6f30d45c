"""The state of a stream as a file: numpy's .npz, without pickle, so that a video goes on in another process."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import InputError
from .files import replacing

_FORMAT = "foveate stream 1"


@dataclass(frozen=True)
class StreamState:
    """fingerprint: of its plan and weights. held: what the native state holds, as bytes. rms: of each
    layer; empty for none. last: by input, what was propagated last. frames: since the state was whole."""

    fingerprint: str
    held: np.ndarray
    rms: np.ndarray
    last: list[np.ndarray]
    frames: int


def write_state(path: str | os.PathLike[str], state: StreamState) -> None:
    """The file appears whole or not at all. Raises OSError."""
    head = json.dumps(
        {
            "format": _FORMAT,
            "fingerprint": state.fingerprint,
            "frames": state.frames,
            "inputs": len(state.last),
        }
    )
    with replacing(Path(path)) as temporary, temporary.open("wb") as file:
        np.savez(file, *state.last, head=np.array(head), held=state.held, rms=state.rms)


def read_state(path: str | os.PathLike[str], fingerprint: str) -> StreamState:
    """Raises InputError for a file that is none, is damaged, or is of another plan or other weights."""
    try:
        with np.load(path, allow_pickle=False) as file:
            head = json.loads(str(file["head"]))
            if head["format"] != _FORMAT:
                raise ValueError(f"format {head['format']!r}")
            state = StreamState(
                head["fingerprint"],
                file["held"],
                file["rms"],
                [file[f"arr_{i}"] for i in range(head["inputs"])],
                int(head["frames"]),
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"stream state {os.fspath(path)}",
            got=f"{type(error).__name__}: {error}",
            expected="a file that stream.save wrote",
            fix="Begin anew: the first frame is computed whole.",
        ) from error
    if state.fingerprint != fingerprint:
        raise InputError(
            f"stream state {os.fspath(path)}",
            got=f"one of a plan and weights {state.fingerprint[:12]}…",
            expected=f"{fingerprint[:12]}…, this bundle's",
            fix="Load it into a stream of the bundle that it was saved with, or begin anew.",
        )
    return state
