"""compile: program -> bundle, verified and measured. Runs every stage, and only those whose inputs changed.

export ──▶ calibrate ──▶ build ──▶ verify ──▶ bench
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.bundle import open_bundle
from ..runtime.errors import BundleError, InputError
from ..runtime.manifest import Manifest, Preprocess
from .files import write_text
from .progress import Progress, size_of
from .sample import example_of, shape_of
from .stages import Ledger, code_digest, data_digest, digest, file_digest

if TYPE_CHECKING:
    from .data import Dataset

PerDecision = float | Mapping[str, float] | None

VERIFY_IMAGES = 16  # at most; each one is run under every strategy and densely


@dataclass(frozen=True)
class Job:
    """What is asked for; the fields are `compile`'s arguments."""

    program: Any
    out: Path
    target: str = "cpu"
    data: str | Path | None = None
    sample: Any = None
    baseline: Any = None
    threshold: PerDecision = None
    active: PerDecision = None
    preprocess: Preprocess | None = None
    limit: int | None = None
    threads: int | None = None
    dry_run: bool = False
    force: bool = False


def compile(
    program: Any,
    out: str | Path,
    *,
    target: str = "cpu",
    data: str | Path | None = None,
    sample: Any = None,
    baseline: Any = None,
    threshold: PerDecision = None,
    active: PerDecision = None,
    preprocess: Preprocess | None = None,
    limit: int | None = None,
    threads: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Compile `program` into the bundle folder `out` and return that folder.

    `program` is an ONNX file or a torch module; `baseline`, of either kind, is the same network without masks, which
    the report compares with. `sample`: the input's shape [N, C, H, W] that the plan is made for (default: from
    `preprocess.size`, else from the first image of `data`; a torch module also takes an example tensor). With `data`
    thresholds are calibrated (`threshold` or `active`, see `calibrate`) and the bundle is measured: report.html,
    .json and .md lie in its folder report/. Stages whose inputs have not changed are skipped, unless `force`;
    `dry_run` says what would run and why. An existing bundle is replaced only by a finished one.

    Raises FoveateError; CheckFailed if the bundle does not answer as its program does.
    """
    names = [field.name for field in dataclasses.fields(Job)]
    values = {**{name: value for name, value in locals().items() if name in names}, "out": Path(out)}
    return _Driver(Job(**values), progress or Progress(quiet=True)).run()


class _Driver:
    """One run. Each method is one stage: its inputs, why it runs, what it does."""

    def __init__(self, job: Job, progress: Progress):
        self.job, self.progress = job, progress
        self.manifest = _read_manifest(job.out)
        self.ledger = Ledger(self.manifest.stages if self.manifest else None, job.force)
        self.report = job.out / "report"
        self.preprocess = job.preprocess

    def run(self) -> Path:
        program = self.export(self.job.program, "export", self.job.out.with_name(f"{self.job.out.name}.onnx"))
        if self.preprocess is None and program.is_file():
            from .metadata import read_preprocess

            self.preprocess = read_preprocess(program)
        choices = self.calibrate(program)
        self.build(program, choices)
        self.verify()
        if self.job.data is not None:
            self.bench()
        return self.job.out

    def export(self, source: Any, stage: str, path: Path) -> Path:
        """A torch module becomes the program `path`; an ONNX file is one already."""
        if isinstance(source, str | Path):
            return _existing(Path(source))
        inputs = {
            "weights": _weights_digest(source),
            "network": digest(str(source) + str(getattr(source, "code", ""))),
            "sample": self._sample(),
            "preprocess": self._preprocess_facts(),
            "foveate": code_digest(),
        }
        if self._needed(stage, inputs, path.is_file()):
            from ..export.program import export_program

            with self.progress.stage(stage) as shown:
                export_program(
                    source, example_of(self.job.sample, self._sample()), path, preprocess=self.preprocess
                )
                shown.note = size_of(path)
            self.ledger.record(stage, inputs)
        return path

    def calibrate(self, program: Path) -> Any:
        """The Choices; None without data."""
        job, path = self.job, self.job.out / "choices.json"
        if job.data is None:
            if job.threshold is not None or job.active is not None:
                raise InputError(
                    "choices", got="no data", expected="images to calibrate on", fix="Add --data."
                )
            return None
        inputs = {
            "program": file_digest(program),
            "data": data_digest(job.data),
            "limit": job.limit,
            "preprocess": self._preprocess_facts(),
            "threshold": job.threshold,
            "active": job.active,
            "foveate": code_digest(),
        }
        if self._needed("calibrate", inputs, path.is_file(), after=("export",)):
            from ..calibration.calibrate import measure
            from ..calibration.source import open_source

            with self.progress.stage("calibrate") as shown:
                source = open_source(program)
                found = measure(
                    source, self._data(), job.threshold, job.active, threads=job.threads, tick=shown.tick
                )
                shown.note = ", ".join(f"{name} {a.mean:.1%} active" for name, a in found.activity.items())
            self.ledger.record("calibrate", inputs)
            return found
        return _read_choices(path)

    def build(self, program: Path, choices: Any) -> None:
        job = self.job
        inputs = {
            "program": file_digest(program),
            "target": job.target,
            "sample": self._sample(),
            "preprocess": self._preprocess_facts(),
            "foveate": code_digest(),
        }
        if self._needed("build", inputs, self.manifest is not None, after=("export",)):
            from .build import build

            with self.progress.stage("build") as shown:
                build(
                    program,
                    job.out,
                    sample=self._sample(),
                    target=job.target,
                    preprocess=self.preprocess,
                    choices=choices.choices if choices else None,
                    active_fraction=choices.active_fraction if choices else None,
                )
                shown.note = size_of(job.out)
            self.ledger.record("build", inputs)
        if not job.dry_run:
            self._store(choices)

    def _store(self, choices: Any) -> None:
        """The choices and the ledger, in the bundle's manifest and choices.json."""
        self.manifest = open_bundle(self.job.out, verify=False).manifest
        if choices is not None:
            from ..calibration.source import with_choices

            self.manifest = with_choices(self.manifest, choices.choices, choices.active_fraction)
            choices.write(self.job.out / "choices.json")
        self._store_ledger()

    def _store_ledger(self) -> None:
        assert self.manifest is not None
        self.manifest = dataclasses.replace(self.manifest, stages=self.ledger.entries)
        write_text(self.job.out / "manifest.json", self.manifest.to_json())

    def verify(self) -> None:
        job = self.job
        inputs = {"data": data_digest(job.data), "limit": job.limit, "choices": self._choice_values()}
        if self._needed("verify", inputs, True, after=("build", "calibrate")):
            from .verify import verify

            with self.progress.stage("verify") as shown:
                limit = min(job.limit or VERIFY_IMAGES, VERIFY_IMAGES)
                data = self._data() if job.data is not None else None
                report = verify(job.out, data, limit=limit, threads=job.threads, tick=shown.tick)
                report.require()
            self.ledger.record("verify", inputs)
            self._store_ledger()

    def bench(self) -> None:
        job = self.job
        baseline = None
        if job.baseline is not None:
            baseline = self.export(
                job.baseline, "baseline", job.out.with_name(f"{job.out.name}.baseline.onnx")
            )
        inputs = {
            "data": data_digest(job.data),
            "limit": job.limit,
            "threads": job.threads,
            "choices": self._choice_values(),
            "baseline": file_digest(baseline),
        }
        done = (self.report / "report.json").is_file()
        if self._needed("bench", inputs, done, after=("build", "calibrate", "baseline")):
            from .bench import bench
            from .report import write_report

            with self.progress.stage("bench") as shown:
                facts = bench(
                    job.out,
                    self._data(),
                    baseline=baseline,
                    limit=job.limit,
                    threads=job.threads,
                    tick=shown.tick,
                )
                write_report(facts, self.report)
            self.ledger.record("bench", inputs)
            self._store_ledger()

    def _needed(
        self, stage: str, inputs: Mapping[str, Any], present: bool, after: tuple[str, ...] = ()
    ) -> bool:
        """Whether the stage is to be run now; says so if it is skipped or only would be run."""
        why = self.ledger.why(stage, inputs, present, after)
        if why is None:
            self.progress.skipped(stage)
            return False
        self.ledger.ran(stage)
        if self.job.dry_run:
            self.progress.skipped(stage, f"would run ({why})")
        return not self.job.dry_run

    def _choice_values(self) -> dict[str, Any]:
        return {choice.name: choice.value for choice in self.manifest.choices} if self.manifest else {}

    def _preprocess_facts(self) -> dict[str, Any] | None:
        return dataclasses.asdict(self.preprocess) if self.preprocess else None

    def _data(self) -> Dataset:
        from .data import open_data

        assert self.job.data is not None
        return open_data(self.job.data, self.preprocess, self.job.limit)

    def _sample(self) -> tuple[int, ...] | None:
        """The input's shape; None leaves it to `build`."""
        return shape_of(self.job.sample, self.preprocess, self._data if self.job.data is not None else None)


def _existing(program: Path) -> Path:
    if program.suffix != ".onnx" or not program.is_file():
        raise InputError(
            f"program {program}",
            got="no such file" if program.suffix == ".onnx" else f"a {program.suffix or 'nameless'} file",
            expected="an ONNX file or a torch module",
            fix="Check the path; a checkpoint needs its module: foveate compile CKPT --model MODULE:FUNCTION.",
        )
    return program


def _read_manifest(out: Path) -> Manifest | None:
    """Of an earlier bundle; one that is broken counts as none and is built anew."""
    try:
        return open_bundle(out, verify=False).manifest
    except BundleError:
        return None


def _read_choices(path: Path) -> Any:
    from ..calibration.choices import read_choices

    return read_choices(path) if path.is_file() else None  # a dry run has none yet


def _weights_digest(module: Any) -> str:
    """Of a torch module's state dict: names, types and values."""
    total = hashlib.sha256()
    for name, value in module.state_dict().items():
        total.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return total.hexdigest()
