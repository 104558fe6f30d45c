"""What verify --equivariance found: per engine and element of the group, per layer, and the verdict."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ..runtime.errors import CheckFailed, EngineError
from .equivariance_layers import LayerError, OffCenter


@dataclass(frozen=True)
class ElementError:
    """Of one element g, means over images. Outputs [N, K] should not change, maps [N, K, h, w] turn with the image.

    `error`: ‖F(gx) − gF(x)‖ ÷ ‖F(x)‖, the largest of all outputs. Of the first output, turned back, `kl`:
    KL(softmax F(x) ‖ softmax F(gx)) in nats, and `consistency`: share with the same class; of maps over their
    positions. `masks`: share of positions that are decided alike; None without masks."""

    element: str
    error: float
    kl: float
    consistency: float
    masks: float | None


@dataclass(frozen=True)
class EngineErrors:
    """An engine, or what it is compared with, over the whole group."""

    name: str
    elements: tuple[ElementError, ...]

    @property
    def error(self) -> float:
        """Mean over the group's elements but the identity."""
        return _mean([e.error for e in self.elements])

    def line(self) -> str:
        worst = max(self.elements, key=lambda e: e.error)
        masks = [e.masks for e in self.elements if e.masks is not None]
        return (
            f"{self.name}: relative error {self.error:.2g} (worst {worst.error:.2g}, {worst.element}), "
            f"mean KL {_mean([e.kl for e in self.elements]):.2g}, "
            f"consistent on {_mean([e.consistency for e in self.elements]):.1%}"
            + (f", masks agree at {_mean(masks):.1%} of positions" if masks else "")
        )


@dataclass(frozen=True)
class EquivarianceReport:
    """`baseline`: what the engines are compared with. They may exceed its error, and layers their bound, by
    `tolerance`. `not_run`: why TensorRT runs none of the bundle's engines here; ""."""

    bundle: str
    data: str
    images: int
    group: str
    tolerance: float
    baseline: EngineErrors
    engines: tuple[EngineErrors, ...]
    layers: tuple[LayerError, ...]
    off_center: tuple[OffCenter, ...]
    notes: tuple[str, ...] = ()
    not_run: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def broken(self) -> tuple[str, ...]:
        """What is beyond the tolerance, in words."""
        found = []
        for engine in self.engines:
            pairs = zip(engine.elements, self.baseline.elements, strict=True)
            excess, element = max((mine.error - theirs.error, mine.element) for mine, theirs in pairs)
            if not excess <= self.tolerance:
                found.append(
                    f"{engine.name} exceeds the error of {self.baseline.name} by {excess:.2g} at {element}"
                )
        for layer in self.layers:
            if not layer.error <= layer.bound + self.tolerance:
                found.append(
                    f"weights {layer.tensor} have error {layer.error:.2g} beyond their bound {layer.bound:.2g}"
                )
        return tuple(found)

    @property
    def passed(self) -> bool:
        return not self.broken

    def lines(self) -> list[str]:
        lines = [f"{self.group} over {self.images} images", self.baseline.line()]
        lines += [engine.line() for engine in self.engines]
        if self.layers:
            worst = max(self.layers, key=lambda layer: layer.bound)
            lines.append(
                f"{len(self.layers)} softened tensors: error of weights ≤ {max(x.error for x in self.layers):.2g}, "
                f"bound ≤ {worst.bound:.2g} ({worst.tensor})"
            )
        if self.off_center:
            lines.append(f"not equivariant, off the center: {'; '.join(o.line() for o in self.off_center)}")
        if self.not_run:
            lines.append(self.said_of_not_run())
        return [
            *lines,
            *(f"note: {note}" for note in self.notes),
            *(f"broken: {what}" for what in self.broken),
        ]

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "broken": list(self.broken), "passed": self.passed}

    def require(self, engines: bool = False) -> EquivarianceReport:
        """Itself if passed; else raises CheckFailed (exit code 1). `engines`: also that TensorRT ran them; else raises
        EngineError (exit code 3)."""
        if not self.passed:
            raise CheckFailed(
                f"equivariance of {self.bundle}",
                got="; ".join(self.broken),
                expected=f"errors at most {self.tolerance:g} above",
                fix="Keep the layers that quantization broke in floats, or the masks open; or pass a larger "
                "--tolerance.",
            )
        if engines and self.not_run:
            raise EngineError(
                f"equivariance of {self.bundle}",
                got=self.said_of_not_run(),
                expected="its engines run by TensorRT",
                fix="Verify on a machine with that GPU; or leave out --require-engines.",
            )
        return self

    def said_of_not_run(self) -> str:
        return f"NOT RUN by TensorRT: {self.not_run}"


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)
