"""Dense engines for comparison: an ONNX file run whole in stock onnxruntime, as its user would ship it, or with the
native kernels that a bundle's engines have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.backends.ort import cpu_session, spin, use_kernels
from ..runtime.engine import OrtConfig
from ..runtime.errors import EngineError, MissingExtraError, ProgramError
from ..runtime.native.library import library
from .interleave import interleave


@dataclass(frozen=True)
class DenseSettings:
    """What a dense engine may be tuned in; the number of threads is the same for all contenders."""

    spin_us: int | None = None  # as `OrtConfig.spin_us`; None is onnxruntime's own way
    static: bool = False  # the image's shape is fixed when the engine opens
    kernels: bool = False  # native kernels run what they know of the file
    exact: bool = False  # Q/DQ nodes are computed as written, see `as_written`

    def words(self) -> str:
        spinning = "spinning" if self.spin_us is None else f"spinning {self.spin_us} µs"
        kernels = ", native kernels" if self.kernels else ""
        return f"{'static' if self.static else 'dynamic'} shape, {spinning}{kernels}"


CANDIDATES = tuple(
    DenseSettings(us, static) for static in (False, True) for us in (None, OrtConfig().spin_us)
)


class Dense:
    """One inference of one image: `dense(image, choices) -> outputs by name`.

    `choices` replace the file's own values; those that the file does not have are ignored (a baseline has none).
    """

    def __init__(
        self,
        path: Path,
        threads: int,
        settings: DenseSettings = DenseSettings(),
        tensors: Sequence[str] = (),
        shape: tuple[int, ...] | None = None,
    ):
        """`tensors`: inner tensors to return beside the outputs. `shape`: the image's, for `static`."""
        self._session, self.settings = _open(Path(path), threads, settings, tuple(tensors), shape)
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ProgramError(
                f"program {path}",
                got=f"{len(inputs)} inputs ({', '.join(i.name for i in inputs)})",
                expected="one image input",
                fix="verify and bench feed images only; export the program with one input.",
            )
        self._input = inputs[0].name
        self.shape: tuple[int | str | None, ...] = tuple(
            inputs[0].shape
        )  # the image's; what is no int is free
        self._choices = frozenset(i.name for i in self._session.get_overridable_initializers())
        self.outputs = tuple(o.name for o in self._session.get_outputs())

    def words(self) -> str:
        return self.settings.words()

    def __call__(self, image: np.ndarray, choices: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        feeds = {k: np.asarray(v, np.float32) for k, v in (choices or {}).items() if k in self._choices}
        values: Any = self._session.run(None, {self._input: image, **feeds})
        return dict(zip(self.outputs, values, strict=True))


def tune(
    path: Path,
    threads: int,
    image: np.ndarray,
    static: bool = True,
    choices: Mapping[str, Any] | None = None,
    rounds: int = 7,
    kernels: bool = True,
) -> Dense:
    """The fastest of `CANDIDATES` on `image`, measured interleaved: by the least of its times, for other work of the
    machine only ever adds to them. `static`: all images have its shape. `kernels`: native kernels run what they know of
    the file, as in a bundle's engines; without, it is stock onnxruntime."""
    candidates = [replace(s, kernels=kernels) for s in CANDIDATES if static or not s.static]
    engines = {s.words(): Dense(path, threads, s, shape=image.shape) for s in candidates}
    contenders = {name: partial(engine, choices=choices) for name, engine in engines.items()}
    times = interleave(contenders, [image], rounds)
    return engines[min(engines, key=lambda name: times.wall[name].min())]


def _open(
    path: Path,
    threads: int,
    settings: DenseSettings,
    tensors: tuple[str, ...],
    shape: tuple[int, ...] | None,
) -> tuple[Any, DenseSettings]:
    """The session, and the settings without what the file has nothing for."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu", "running a program densely") from error
    if not path.is_file():
        raise ProgramError(
            f"program {path}", got="no such file", expected="an ONNX file", fix="Check the path."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # an error is raised, and told there
    spin(options, settings.spin_us)
    try:
        model = _without_weights(path)
        if exact := settings.exact and _is_quantized(model):
            model = _as_written(path, options)
        frozen = _freeze_weights(model)
        kernels = settings.kernels and library() is not None and _has_samples(model)
        if kernels:
            use_kernels(options)
        if settings.static and shape is not None:
            for name, size in _free_dims(model, shape).items():
                options.add_free_dimension_override_by_name(name, size)
        source: str | bytes = str(path)
        if tensors or model.functions or frozen or exact:
            from .lean import lean

            folder = str(path.parent.resolve())
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
            source = lean(_with_outputs(model, tensors)).SerializeToString()
        session = cpu_session(source, options)
        return session, replace(settings, kernels=kernels, exact=exact)
    except MissingExtraError:
        raise
    except Exception as error:  # onnx's and onnxruntime's exceptions have no common root of their own
        raise EngineError(
            f"program {path}",
            got=f"{type(error).__name__}: {error}",
            expected="a file that onnxruntime opens",
            fix="Check it with `foveate inspect`; a newer opset needs a newer onnxruntime.",
        ) from error


def _without_weights(path: Path):
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "export", "reading a program") from error
    return onnx.load(path, load_external_data=False)


def _is_quantized(model) -> bool:
    from .as_written import is_quantized

    return is_quantized(model)


def _as_written(path: Path, options: Any):
    import onnx

    from .as_written import compute_as_written, with_float_weights

    compute_as_written(options)
    return with_float_weights(onnx.load(path))


def _has_samples(model) -> bool:
    from .graph import SAMPLE, op_key

    return any(op_key(node) == SAMPLE for node in model.graph.node)


def _freeze_weights(model) -> bool:
    """Whether weights were inputs, which onnxruntime cannot fold or pack: that may take twice the time."""
    from .normalize.weights_as_inputs import weights_as_inputs

    before = len(model.graph.input)
    weights_as_inputs(model)
    return len(model.graph.input) < before


def _free_dims(model, shape: tuple[int, ...]) -> dict[str, int]:
    """Symbolic dims of the image input by name, with their sizes in `shape`."""
    initial = {i.name for i in model.graph.initializer}
    images = [i for i in model.graph.input if i.name not in initial]
    dims = images[0].type.tensor_type.shape.dim if images else ()
    return {d.dim_param: n for d, n in zip(dims, shape, strict=False) if d.dim_param}


def _with_outputs(model, tensors: tuple[str, ...]):
    import onnx

    present = {o.name for o in model.graph.output}
    for name in tensors:
        if name not in present:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return model
