"""The engines of a bundle: one for every file that a step or a segment runs, and for the whole program."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx

from ...runtime.bundle import hash_file
from ...runtime.cuda import library
from ...runtime.cuda.plugins import load_plugins
from ...runtime.engine import TensorRTConfig, TorchTensorRTConfig, parts
from ...runtime.layouts import AUTO
from ...runtime.manifest import IF, EngineFile, ExitChain, ExitPaths, Manifest, Region, Step
from .engine_build import Built, build_plan
from .engine_cache import EngineCache, Entry, make_key
from .engine_model import EngineModel, EngineModels
from .flavour import Flavour, find_flavour, find_torch
from .layout_choice import choose_engines
from .precision import check_quantized
from .profiles import Profiles, Range, Shapes, choose_ranges, measure_shapes
from .sidecar import describe
from .timing_cache import TimingCache
from .torch_build import build_by_torch

FOLDER = "engines"

Tell = Callable[[str], None]


def build_engines(
    folder: Path,
    manifest: Manifest,
    config: TensorRTConfig | TorchTensorRTConfig,
    ranges: Mapping[str, Range],
    tell: Tell,
) -> tuple[tuple[EngineFile, ...], tuple[str, ...]]:
    """Builds the engines of the bundle in `folder`, whose programs are there, or takes them from the cache, and copies
    them to engines/; they, and notes on what was chosen. `ranges`: of `profiles.choose_ranges`. `tell` is told of each
    engine where it came from.

    Raises MissingExtraError, InputError, ProgramError, EngineError."""
    by_torch = isinstance(config, TorchTensorRTConfig)
    flavour = find_torch() if by_torch else find_flavour(config.compute)
    targets = flavour.compute_of(config.compute)
    program = onnx.load(folder / manifest.program, load_external_data=False)
    kind, _ = parts(config.precision)
    if kind:
        check_quantized(program, kind)
    ranges, notes = choose_ranges(manifest, ranges), ()
    layout = manifest.layout
    if manifest.layouts and layout == AUTO:
        batch = next((opt for name, (_, opt, _) in ranges.items() if name.endswith("batch")), 1)
        layout, why = choose_engines(manifest, config.precision, batch, IF if by_torch else "")
        notes = (why,)
    shapes = measure_shapes(folder, manifest, ranges)
    plugins = () if by_torch else load_plugins(flavour.module)
    models, build = (
        EngineModels(program, config.precision, plugins),
        build_by_torch if by_torch else build_plan,
    )
    builder = _Builder(flavour, config.precision, models, build, tell)
    (folder / FOLDER).mkdir()
    made = []
    for file, profiles in engine_profiles(manifest, shapes, layout).items():
        profiles = profiles[:1] if by_torch else profiles  # Torch-TensorRT takes one
        for compute, entry in builder.entries(folder / file, profiles, targets):
            made.append(_copy(entry, file, folder, compute, flavour, config.precision))
    return tuple(made), notes


def engine_profiles(manifest: Manifest, shapes: Shapes, layout: str) -> dict[str, Profiles]:
    """The files that engines are built of, with their profiles: the whole program, the steps of that layout, if there
    are several, and local segments, for windows. Not what takes over from the native kernels in a stream."""
    found: dict[str, Profiles] = {
        manifest.one_engine: (shapes.profile([spec.name for spec in manifest.inputs]),)
    }
    for step in manifest.layouts.get(layout, manifest.steps):
        found |= _step_profiles(step, shapes)
    return found


def _step_profiles(step: Step, shapes: Shapes) -> Iterator[tuple[str, Profiles]]:
    if isinstance(step, ExitChain | ExitPaths):
        for stage in step.stages if isinstance(step, ExitChain) else step.paths:
            yield stage.file, (shapes.profile(stage.inputs),)
    elif isinstance(step, Region):
        yield step.fallback, (shapes.profile(step.inputs),)
        for segment in step.segments:
            if segment.strategy != "dense":
                yield segment.file, shapes.windows(segment)
    else:
        yield step.file, (shapes.profile(step.inputs),)


class _Builder:
    """One engine after another, from the cache where it has it."""

    def __init__(
        self, flavour: Flavour, precision: str, models: EngineModels, build: Callable[..., Built], tell: Tell
    ):
        self.flavour, self.precision, self.models, self.build, self.tell = (
            flavour,
            precision,
            models,
            build,
            tell,
        )
        self.cache = EngineCache()
        self.library = hash_file(library.path()) if models.plugins else ""

    def entries(self, file: Path, profiles: Profiles, targets: Sequence[str]) -> Iterator[tuple[str, Entry]]:
        """Of each compute capability; the model that they are built from is the same."""
        with tempfile.TemporaryDirectory() as name:
            model = self.models.write(file, Path(name))
            for compute in targets:
                yield compute, self._entry(model, profiles, compute)

    def _entry(self, model: EngineModel, profiles: Profiles, compute: str) -> Entry:
        flavour, name = self.flavour, model.path.name
        plugins = [f"{plugin} {self.library}" for plugin in model.plugins]
        said = flavour.name, flavour.version, compute, self.precision, profiles, flavour.flags, plugins
        key = make_key(model.digest, *said)
        found, why = self.cache.find(key)
        self.tell(f"{name} {compute}: {why}")
        if found is not None:
            return found
        timing = None
        if flavour.is_full:
            timing = TimingCache(self.cache.folder / f"timing-{flavour.version}-{compute}.bin")
        built = self.build(model.path, profiles, compute, flavour, timing, name)
        sidecar = describe(name, built, flavour, compute, self.precision, profiles, model.plugins)
        return Entry(self.cache.add(key, built.plan, sidecar), key, sidecar)


def _copy(
    entry: Entry, program: str, folder: Path, compute: str, flavour: Flavour, precision: str
) -> EngineFile:
    """From the cache into the bundle."""
    assert entry.sidecar is not None  # of an entry that is not broken
    stem = f"{FOLDER}/{Path(program).stem}.{compute}"
    plan, sidecar = f"{stem}.plan", f"{stem}.json"
    shutil.copyfile(entry.plan, folder / plan)
    text = json.dumps(
        dataclasses.asdict(dataclasses.replace(entry.sidecar, name=Path(program).name)), indent=1
    )
    (folder / sidecar).write_text(text, encoding="utf-8")
    return EngineFile(program, plan, sidecar, flavour.name, flavour.version, compute, precision)
