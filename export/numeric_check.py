"""Does stock onnxruntime answer as torch does?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..runtime.errors import ProgramError
from .extras import needs

TOLERANCE = 1e-4  # of the largest value: float32 sums in another order through a deep network
_TRIES = (
    3  # a token exactly at the threshold may fall on either side: other images decide whether that was it
)


def check_against_torch(
    model: onnx.ModelProto,
    module: nn.Module,
    samples: Sequence[Tensor],
    dynamic: Sequence[str],
    multiple: int = 1,
) -> None:
    """Raises ProgramError if the outputs differ at the samples' size or at a second one, of multiples."""
    session = _session(model)
    names = [o.name for o in model.graph.output]
    inputs = [i.name for i in session.get_inputs()][: len(samples)]
    for shapes in _sizes(module, samples, dynamic, multiple):
        errors = []
        for attempt in range(_TRIES):
            batch = _images(samples, shapes, attempt)
            with torch.no_grad():
                expected = pytree.tree_leaves(module(*batch))
            got = session.run(names, dict(zip(inputs, [b.cpu().numpy() for b in batch], strict=True)))
            errors.append(
                max(_error(np.asarray(g), e.cpu().numpy()) for g, e in zip(got, expected, strict=True))
            )
            if errors[-1] <= TOLERANCE:
                break
        else:
            raise ProgramError(
                f"the program's answers at {shapes}",
                got=f"relative errors {', '.join(f'{e:.1e}' for e in errors)} against torch",
                expected=f"at most {TOLERANCE:g}",
                fix="the export is wrong: compare layer by layer, and report it with the module",
            )


def _session(model: onnx.ModelProto):
    with needs("cpu", "checking an exported program"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of every choice, for being an input with a default
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def _sizes(
    module: nn.Module, samples: Sequence[Tensor], dynamic: Sequence[str], multiple: int
) -> Iterator[list[tuple[int, ...]]]:
    """The samples' own shapes, then the first other ones that torch itself accepts."""
    yield [tuple(s.shape) for s in samples]
    for stretch in (lambda n: n * 3 // 4 | 1, lambda n: n + 8, lambda n: n + 32, lambda n: n * 2):
        shapes = [_other(tuple(s.shape), dynamic, stretch, multiple) for s in samples]
        if any(a[2:] == tuple(s.shape)[2:] for a, s in zip(shapes, samples, strict=True)) and multiple > 1:
            continue  # rounded up to the samples' own
        try:
            with torch.no_grad():
                module(*_images(samples, shapes, 0))
        except RuntimeError:
            continue
        yield shapes
        return


def _other(shape: tuple[int, ...], dynamic: Sequence[str], stretch, multiple: int) -> tuple[int, ...]:
    batch = shape[0] + 1 if "batch" in dynamic else shape[0]
    if len(shape) != 4:
        return (batch, *shape[1:])
    height = stretch(shape[2]) if "height" in dynamic else shape[2]
    width = stretch(stretch(shape[3])) if "width" in dynamic else shape[3]
    height, width = (-(-n // multiple) * multiple for n in (height, width))
    return batch, shape[1], height, width


def _images(samples: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], attempt: int) -> list[Tensor]:
    """The samples themselves where they fit at the first attempt, else noise like them."""
    random = torch.Generator().manual_seed(attempt)
    found = []
    for sample, shape in zip(samples, shapes, strict=True):
        values = sample.float()
        spread = float(values.std(correction=0)) or 1.0
        noise = torch.randn(shape, generator=random) * spread + float(values.mean())
        same = attempt == 0 and tuple(sample.shape) == tuple(shape)
        found.append(sample if same else noise.to(sample))
    return found


def _error(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference ÷ largest value."""
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    return float(np.abs(got - expected).max(initial=0.0)) / scale
