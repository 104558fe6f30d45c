"""The stages of compile in their order, each skipped if its inputs have not changed since its result was made.

export ──▶ calibrate ──▶ build ──▶ verify ──▶ bench

A budget is searched on the bundle, which is built first; what is verified and measured is the bundle that it chose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.bundle import open_bundle
from ..runtime.costs import fingerprint
from ..runtime.errors import BundleError, InputError
from ..runtime.manifest import Manifest, Preprocess
from ..runtime.native.library import native_isa
from .environment import usable_cores
from .files import write_text
from .network import Network, open_network
from .progress import Parts, Progress, size_of
from .report_budget import read_tradeoff
from .sample import example_of, shape_of
from .stages import Ledger, code_digest, data_digest, digest, file_digest

if TYPE_CHECKING:
    from ..calibration.budget import Budget
    from ..calibration.choices import Choices
    from .data import Dataset

PerDecision = float | Mapping[str, float] | None

RECORD_IMAGES = 128  # at most, where calibration records how active images are and chooses nothing
VERIFY_IMAGES = 16  # at most; each one is run under every strategy and densely


@dataclass(frozen=True)
class Job:
    """What is asked for: the arguments of `compile`. `program` and `baseline` may also be a Network."""

    program: Any
    out: Path
    target: str = "cpu"
    ranges: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    data: str | Path | None = None
    baseline: Any = None
    sample: Any = None
    threshold: PerDecision = None
    active: PerDecision = None
    budget: Budget | None = None
    precision: str | None = None
    metric: str | None = None
    seed: int = 0
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()
    limit: int | None = None
    threads: int | None = None
    dry_run: bool = False
    force: bool = False


class Driver:
    """One run of a Job. Each stage's method lists its inputs, asks whether it is needed, and does it."""

    def __init__(self, job: Job, progress: Progress):
        self.job, self.progress = job, progress
        self.ledger = Ledger(force=job.force)
        self._turn_to(job.out)
        self.source = as_program(job.program)
        facts = self.source if isinstance(self.source, Network) else None
        self.preprocess = job.preprocess or (facts.preprocess if facts else None)
        self.labels = job.labels or (facts.labels if facts else ())
        self.usual = facts.sample if facts else None

    def run(self) -> Path:
        self._check_budget()
        program = self.export("export", self.source, ".onnx")
        if self.preprocess is None and program.is_file():
            from .metadata import read_preprocess

            self.preprocess = read_preprocess(program)
        if not self.labels and program.is_file():
            from .metadata import read_labels

            self.labels = read_labels(program)
        if self.job.budget is None:
            self.build(program, self.calibrate(program))
        else:
            self.build(program, None)
            self.search(self.job.budget)
        if self.job.target == "null":
            self.progress.skipped("verify", "target null computes nothing")
            return self.bundle
        self.verify()
        if self.job.data is not None:
            self.bench()
        return self.bundle

    def _turn_to(self, bundle: Path) -> None:
        """What comes next looks at that bundle."""
        self.bundle, self.manifest = bundle, _read_manifest(bundle)
        self.ledger.entries = dict(self.manifest.stages) if self.manifest else {}

    def _check_budget(self) -> None:
        job = self.job
        limited = job.budget is not None or job.precision is not None
        wrong = {
            "--precision without a budget": job.precision is not None and job.budget is None,
            "a budget without --data": limited and job.data is None,
            "a budget with --threshold or --active": limited and (job.threshold, job.active) != (None, None),
            "a budget for target null": limited and job.target == "null",
        }
        if got := next((words for words, there in wrong.items() if there), None):
            raise InputError(
                "compile",
                got=got,
                expected="a budget, as --max-drop 0.5%, with --data: it searches thresholds, exits and --precision",
                fix="See docs/calibration.md.",
            )

    def export(self, stage: str, source: Path | Network, suffix: str) -> Path:
        """A network becomes a program beside the bundle; an ONNX file is one already."""
        if isinstance(source, Path):
            return source
        path = self.job.out.with_name(self.job.out.name + suffix)
        inputs = {**source.identity, "sample": self._shape(), "preprocess": self._preprocess_facts()}
        inputs["labels"] = self.labels
        if self._needed(stage, inputs, path.is_file()):
            from ..export.program import export_program

            with self.progress.stage(stage) as shown:
                example = example_of(self.job.sample, self._shape())
                export_program(source.module, example, path, preprocess=self.preprocess, labels=self.labels)
                shown.note = size_of(path)
            self._record(stage, inputs)
        return path

    def calibrate(self, program: Path) -> Choices | None:
        """None without data."""
        job, path = self.job, self.job.out / "choices.json"
        if job.data is None:
            if job.threshold is not None or job.active is not None:
                raise InputError(
                    "choices", got="no data", expected="images to calibrate on", fix="Add --data."
                )
            return None
        from ..calibration.choices import read_choices

        inputs = {
            "program": file_digest(program),
            **self._data_facts(),
            "threshold": job.threshold,
            "active": job.active,
        }
        if not self._needed("calibrate", inputs, path.is_file(), after=("export",)):
            return read_choices(path) if path.is_file() else None  # a dry run may have none yet
        from ..calibration.source import open_source
        from ..calibration.thresholds import measure

        records = job.threshold is None and job.active is None
        with self.progress.stage("calibrate") as shown:
            found = measure(
                open_source(program),
                self._data(),
                job.threshold,
                job.active,
                limit=min(job.limit or RECORD_IMAGES, RECORD_IMAGES) if records else job.limit,
                threads=job.threads,
                tick=shown.tick,
            )
            shown.note = ", ".join(f"{name} {a.mean:.1%} active" for name, a in found.activity.items())
        for note in found.notes:
            self.progress.note(note)
        self._record("calibrate", inputs)
        return found

    def search(self, budget: Budget) -> None:
        """The bundle that was built takes the choices, or one in low precision beside it: verify and bench go on with
        that. Latencies hold for this device."""
        job = self.job
        inputs = {
            **self._data_facts(),
            "bundle": self._bundle_facts().get("bundle"),
            "budget": dataclasses.asdict(budget),
            "precision": job.precision,
            "metric": job.metric,
            "seed": job.seed,
            "device": fingerprint(job.threads or usable_cores(), isa=native_isa()),
        }
        chosen = self._chosen()
        if self._needed("calibrate", inputs, chosen is not None, after=("export", "build")):
            from ..calibration.search import calibrate_budget

            with self.progress.stage("calibrate") as shown:
                found, choices, path = calibrate_budget(
                    job.out,
                    self._data(),
                    budget=budget,
                    metric=job.metric,
                    seed=job.seed,
                    limit=job.limit,
                    threads=job.threads,
                    precision=job.precision,
                    progress=Parts(shown),
                )
                shown.note = found.words()
            for note in filter(None, (found.precision, *choices.notes)):
                self.progress.note(note)
            self._record("calibrate", inputs)
            self._store()
            chosen = path.parent
        if chosen is not None:
            self._turn_to(chosen)

    def _chosen(self) -> Path | None:
        """The bundle that the last search chose: the one that was built, or that in low precision."""
        job = self.job
        for bundle in (job.out, job.out.with_name(f"{job.out.name}-{job.precision}")):
            manifest = _read_manifest(bundle)
            if manifest is not None and read_tradeoff(job.out, manifest) is not None:
                return bundle
        return None

    def build(self, program: Path, choices: Choices | None) -> None:
        """The choices are no input: they change the manifest alone."""
        job = self.job
        inputs = {
            "program": file_digest(program),
            "target": job.target,
            "ranges": job.ranges,
            "sample": self._shape(),
            "preprocess": self._preprocess_facts(),
            "labels": self.labels,
        }
        if self._needed("build", inputs, self.manifest is not None, after=("export",)):
            from .build import build

            with self.progress.stage("build") as shown:
                build(
                    program,
                    job.out,
                    sample=self._shape(),
                    target=job.target,
                    preprocess=self.preprocess,
                    choices=choices.choices if choices else None,
                    active_fraction=choices.active_fraction if choices else None,
                    labels=self.labels,
                    ranges=job.ranges,
                )
                shown.note = size_of(job.out)
            self._record("build", inputs)
        if not job.dry_run:
            self._store(choices)

    def verify(self) -> None:
        job = self.job
        inputs = {**self._data_facts(), **self._bundle_facts()}
        if self._needed("verify", inputs, True, after=("build", "calibrate")):
            from .verify import verify

            with self.progress.stage("verify") as shown:
                limit = min(job.limit or VERIFY_IMAGES, VERIFY_IMAGES)
                data = self._data() if job.data is not None else None
                report = verify(self.bundle, data, limit=limit, threads=job.threads, tick=shown.tick)
                report.require()
                shown.note = f"error {report.worst.max_rel_error:.1e}"
            if report.not_run:
                self.progress.note(report.said_of_not_run())
            self._record("verify", inputs)
            self._store()

    def bench(self) -> None:
        job, folder = self.job, self.bundle / "report"
        baseline = None
        if job.baseline is not None:
            baseline = self.export("baseline", as_program(job.baseline), ".baseline.onnx")
        inputs = {
            **self._data_facts(),
            **self._bundle_facts(),
            "threads": job.threads,
            "metric": job.metric,
            "baseline": file_digest(baseline),
            "budget": read_tradeoff(self.bundle, self.manifest) if self.manifest else None,
        }
        done = (folder / "report.json").is_file()
        if self._needed("bench", inputs, done, after=("build", "calibrate", "baseline")):
            from .bench import bench
            from .report import write_report

            with self.progress.stage("bench") as shown:
                facts = bench(
                    self.bundle,
                    self._data(),
                    baseline=baseline,
                    metric=job.metric,
                    limit=job.limit,
                    threads=job.threads,
                    tick=shown.tick,
                )
                write_report(facts, folder)
            self._record("bench", inputs)
            self._store()

    def _needed(
        self, stage: str, inputs: Mapping[str, Any], present: bool, after: tuple[str, ...] = ()
    ) -> bool:
        """Whether the stage is to be run now; says so if it is skipped, or only would be run.

        A dry run cannot know what the stages `after` would give, so what would follow them would run."""
        dry = self.job.dry_run
        why = self.ledger.why(stage, _with_code(inputs), present, after if dry else ())
        if why is None:
            self.progress.skipped(stage)
        elif dry:
            self.ledger.would_run(stage)
            self.progress.skipped(stage, f"would run ({why})")
        return why is not None and not dry

    def _record(self, stage: str, inputs: Mapping[str, Any]) -> None:
        self.ledger.record(stage, _with_code(inputs))

    def _store(self, choices: Choices | None = None) -> None:
        """The record, and new choices, in the bundle's manifest."""
        manifest = open_bundle(self.bundle, verify=False).manifest
        if choices is not None:
            from ..calibration.source import with_choices

            manifest = with_choices(manifest, choices)
            choices.write(self.bundle / "choices.json")
        self.manifest = dataclasses.replace(manifest, stages=self.ledger.entries)
        write_text(self.bundle / "manifest.json", self.manifest.to_json())

    def _bundle_facts(self) -> dict[str, Any]:
        """What verify and bench look at: the files and the values of the choices."""
        if self.manifest is None:
            return {}
        return {
            "bundle": digest({name: entry.sha256 for name, entry in self.manifest.files.items()}),
            "choices": {choice.name: choice.value for choice in self.manifest.choices},
        }

    def _data_facts(self) -> dict[str, Any]:
        facts = {"data": data_digest(self.job.data), "limit": self.job.limit}
        return {**facts, "preprocess": self._preprocess_facts()}

    def _preprocess_facts(self) -> dict[str, Any] | None:
        return dataclasses.asdict(self.preprocess) if self.preprocess else None

    def _data(self) -> Dataset:
        from .data import open_data

        assert self.job.data is not None
        return open_data(self.job.data, self.preprocess, self.job.limit, self.labels)

    def _shape(self) -> tuple[int, ...] | None:
        """The input's shape; None leaves it to `build`."""
        data = self._data if self.job.data is not None else None
        return shape_of(self.job.sample, self.preprocess, self.usual, data)


def as_program(source: Any) -> Path | Network:
    """An ONNX file's path, or a network to export. Raises InputError for a path that does not exist."""
    if isinstance(source, Network):
        return source
    if not isinstance(source, str | Path) or str(source).startswith("timm:"):
        return open_network(source)
    path = Path(source)
    if not path.is_file():
        raise InputError(
            f"program {path}",
            got="a folder" if path.is_dir() else "no such file",
            expected="an ONNX file, a checkpoint or a torch module",
            fix="Check the path; a bundle is built anew with `foveate build`.",
        )
    return path if path.suffix == ".onnx" else open_network(path)


def _with_code(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {**inputs, "foveate": code_digest()}


def _read_manifest(out: Path) -> Manifest | None:
    """Of an earlier bundle; one that is broken counts as none and is built anew."""
    try:
        return open_bundle(out, verify=False).manifest
    except BundleError:
        return None
