"""A benchmark on a GPU: all runs by the bundle's backend, dense engines too, on images that lie on the device."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime import Model, Result, load
from ...runtime.cuda_device import compute_capability
from ...runtime.device.device import DeviceArray
from ...runtime.engine import Config, CudaConfig, TorchConfig
from ...runtime.precision import files_for
from ..build import build
from ..ideal import balance
from ..interleave import interleave
from ..lower_precision import KINDS
from ..targets import target_of
from .energy import joules_per_call
from .nvml import Gpu, open_gpu
from .timer import DeviceTimer
from .watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from ..contenders import Choices

CONV, RELU = (1, 256, 128, 128), (1, 64, 1024, 512)  # maps that fill a GPU: see `ideal.balance`
_ROUNDS = 7


class DeviceDense:
    """A program as one engine on the device, tuned: `contenders.DenseEngine`."""

    def __init__(self, model: Model, words: str):
        self.model, self._words, self._choices = model, words, dict[str, Any]()

    def __call__(self, image: Any, choices: Mapping[str, Any] | None = None) -> Result:
        known = self.model.choices
        chosen = {name: value for name, value in (choices or {}).items() if name in known}
        if chosen != self._choices:
            self._choices = chosen
            self.model.set_choices(chosen)
        return self.model.dense(image)

    def words(self) -> str:
        return self._words


class GpuTestbed:
    """Of a bundle that runs on a device. `config`: its engines', in the fastest of their settings on the program run
    densely; contenders take it, too."""

    batches: tuple[int, ...] = (1, 4, 16, 64)
    scales: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __init__(self, stack: ExitStack, usual: Model, gpu: Gpu | None, why_unknown: str):
        self._stack, self._bundle, self._manifest = stack, usual.path, usual.manifest
        self._gpu, self._why = gpu, why_unknown
        self.watch = Watch(gpu)
        self.timer = DeviceTimer(self.watch)
        self.config: Config = usual.config
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._dense: dict[Path, DeviceDense] = {}
        self._placed: dict[
            int, tuple[np.ndarray, DeviceArray]
        ] = {}  # by id, with themselves for it to stay theirs
        assert usual.device is not None
        self._device = usual.device

    def load(self, bundle: Path, **options: Any) -> Model:
        model = load(bundle, **{"backend": self.config, **options})
        assert model.device is not None
        self.timer.devices.append(model.device)
        return model

    def close(self, model: Model) -> None:
        self.timer.devices = [device for device in self.timer.devices if device is not model.device]
        model.close()

    def tune(self, program: Path, image: np.ndarray, static: bool, choices: Choices) -> DeviceDense:
        """The engines serve all shapes, so they are opened once."""
        if program not in self._dense:
            own = program == self._bundle / self._manifest.program
            bundle = self._bundle if own else self._built(program, image.shape)
            self._dense[program] = self._fastest(bundle, image)
        return self._dense[program]

    def place(self, image: np.ndarray) -> DeviceArray:
        if id(image) not in self._placed:
            self._placed[id(image)] = image, self._device.put(np.ascontiguousarray(image))
        return self._placed[id(image)][1]

    def balance(self) -> float:
        """Of the program's bytes, of which engines in 16 bits move the half."""
        lowered = files_for(self.config, self._manifest) is not None
        precisions = {engine.precision for engine in self._manifest.engines} if lowered else set()
        return balance(self._fastest_call, CONV, RELU) * (0.5 if precisions & KINDS.keys() else 1.0)

    def joules(self, run: Callable[[], object]) -> float | None:
        if self._gpu is None:
            return None

        def run_and_wait() -> None:
            run()
            self.timer.wait()

        return joules_per_call(self._gpu, run_and_wait)

    def facts(self) -> dict[str, Any]:
        fingerprint = self._device.fingerprint
        return {
            "name": self._gpu.name if self._gpu else fingerprint["device"],
            "compute": fingerprint.get("compute", compute_capability()),
            "driver": self._gpu.driver if self._gpu else None,
            "unknown": self._why or None,
            "watched": self.watch.facts(),
        }

    def _built(self, program: Path, shape: Sequence[int]) -> Path:
        """Of another program, a bundle like this one, where the engines are not of the programs themselves."""
        target = "cpu" if files_for(self.config, self._manifest) is None else target_of(self._manifest)
        return build(program, self._folder / program.stem, sample=tuple(shape), target=target)

    def _fastest(self, bundle: Path, image: np.ndarray) -> DeviceDense:
        """In the fastest of its settings, measured interleaved. It stays open as long as the testbed."""
        tried = {
            words: DeviceDense(self.load(bundle, backend=config, strategy="dense"), words)
            for words, config in candidates(self.config).items()
        }
        best = next(iter(tried))
        if len(tried) > 1:
            times = interleave(tried, [self.place(image)], _ROUNDS, timer=self.timer)
            best = min(tried, key=lambda words: times.wall[words].min())
        for words, engine in tried.items():
            if words != best:
                self.close(engine.model)
        self.config = tried[best].model.config
        self._stack.callback(tried[best].model.close)
        return tried[best]

    def _fastest_call(self, model: onnx.ModelProto, image: np.ndarray) -> float:
        import onnx

        path = self._folder / f"{model.graph.name}.onnx"
        onnx.save(model, path)
        found, placed = self.load(self._built(path, image.shape), strategy="dense"), self._device.put(image)
        try:
            return min(self.timer.time(lambda: found.dense(placed))[1].wall for _ in range(_ROUNDS)) / 1e3
        finally:
            self.close(found)


def candidates(config: Config) -> dict[str, Config]:
    """What the engines of a backend may be tuned in, by words; all of them replay graphs where that is faster."""
    if isinstance(config, CudaConfig) and config.provider == "cuda":
        graph = replace(config, graph=True)
        return {
            f"ONNX Runtime CUDA, {config.precision}, channels first, CUDA graphs": replace(graph, nhwc=False),
            f"ONNX Runtime CUDA, {config.precision}, channels last, CUDA graphs": replace(graph, nhwc=True),
        }
    if isinstance(config, TorchConfig) and config.device == "cuda":
        return {
            f"torch, {config.precision}, cuDNN's choice of algorithms, CUDA graphs": replace(
                config, search=False
            ),
            f"torch, {config.precision}, algorithms searched, CUDA graphs": replace(config, search=True),
        }
    return {f"{config.backend}, {getattr(config, 'precision', 'the program')}, CUDA graphs": config}


@contextlib.contextmanager
def open_testbed(usual: Model) -> Iterator[GpuTestbed]:
    gpu, why = open_gpu()
    with ExitStack() as stack:
        yield GpuTestbed(stack, usual, gpu, why)
