"""An ONNX file that torch runs, recorded anew for each shape of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor

from .protos import to_tensor
from .tape import Known, Recorder, Tape

_TAPES = 64  # shapes that are remembered


class TorchProgram:
    """`program(feeds) -> outputs`, tensors on `device`. Choices that are not fed have the file's values. float32 is
    float32, not TF32. `search`: see `engine.TorchConfig`."""

    def __init__(self, path: Path, device: torch.device, search: bool = False):
        model = onnx.load(path)
        self._graph = model.graph
        self._functions = {(f.domain, f.name): f for f in model.functions}
        initial = {i.name: to_tensor(i) for i in model.graph.initializer}
        self.inputs = tuple(i.name for i in model.graph.input if i.name not in initial)
        self.optional = tuple(i.name for i in model.graph.input if i.name in initial)
        self.outputs = tuple(o.name for o in model.graph.output)
        self.defaults = {name: initial.pop(name).to(device) for name in self.optional}
        self._weights = {name: (Known(value), _laid_out(value.to(device))) for name, value in initial.items()}
        self._device, self._search = device, search
        self._tapes: dict[tuple[object, ...], Tape] = {}
        self.last: Tape | None = (
            None  # that ran: it holds constants, which a graph of the run goes on reading
        )
        del self._graph.initializer[:]  # they are tensors by now

    def __call__(self, feeds: Mapping[str, Tensor], outputs: Sequence[str]) -> list[Tensor]:
        given = {**self.defaults, **feeds}
        ordered = {name: given[name] for name in (*self.inputs, *self.optional)}
        key = (tuple(outputs), *((tuple(t.shape), t.dtype) for t in ordered.values()))
        chosen = torch.backends.cudnn.flags(enabled=True, benchmark=self._search, allow_tf32=False)
        with torch.no_grad(), chosen:
            if key not in self._tapes:
                if len(self._tapes) >= _TAPES:
                    self._tapes.pop(next(iter(self._tapes)))
                recorder = Recorder(self._functions, self._weights, self._device)
                self._tapes[key] = recorder.record(self._graph, ordered, outputs)
            self.last = self._tapes[key] = self._tapes.pop(key)  # that of the longest ago goes first
            return self.last(list(ordered.values()))


def _laid_out(weight: Tensor) -> Tensor:
    """Kernels of convolutions as tensor cores read them: channels innermost. Maps follow their layout."""
    lowered = weight.dtype in (torch.float16, torch.bfloat16) and weight.ndim == 4
    return weight.contiguous(memory_format=torch.channels_last) if lowered else weight
