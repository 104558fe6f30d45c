"""What lies on the borders between a bundle's engines: its program, run whole, with those tensors among its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...runtime.backends.ort import cpu_session, spin
from ...runtime.manifest import Manifest


class Borders:
    """`borders(feeds)` gives every tensor that crosses a border, by name, as stock onnxruntime computes it on the CPU;
    what is fed is among them. Choices are the program's own unless they are fed. A context manager."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int = 0):
        self._path, self._threads = folder / manifest.program, threads
        self._names = [t.name for t in (*manifest.tensors, *manifest.outputs)]

    def __enter__(self) -> Borders:
        model = onnx.load(self._path, load_external_data=False)
        given = {o.name for o in model.graph.output} | {i.name for i in model.graph.input}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names if name not in given)
        self._session: Any = open_session(model, self._path.parent, self._threads)
        self._choices = {i.name for i in self._session.get_overridable_initializers()}
        self._inputs = {i.name for i in self._session.get_inputs()}
        self._outputs = [o.name for o in self._session.get_outputs()]
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        taken = {k: v for k, v in feeds.items() if k in self._inputs or k in self._choices}
        arrays: Sequence[Any] = self._session.run(self._outputs, taken)
        return {**feeds, **dict(zip(self._outputs, arrays, strict=True))}


def open_session(model: onnx.ModelProto, folder: Path, threads: int = 0) -> Any:
    """A session of a model whose weights may lie in `folder`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # an error is raised, and told there
    spin(options, 0)
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder.resolve())
    )
    return cpu_session(model.SerializeToString(), options)
