"""From a plan to a manifest, and to the models that its files will hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from ..runtime.manifest import (
    IF,
    PER_DEPTH,
    Choice,
    DenseSegment,
    ExitChain,
    ExitGraph,
    ExitPaths,
    ExitStage,
    GridTensor,
    LocalSegment,
    Manifest,
    Preprocess,
    Region,
    Step,
    StreamPlan,
    Tail,
    TensorSpec,
)
from ..runtime.native.plan import SpanPlan
from .analyze import Analysis, NodeInfo
from .crops import plan_crops
from .exit_graph import exit_graph
from .exits import ExitParts, borders, split_exits
from .extract import describe, extract
from .graph import SAMPLE, op_key
from .lean import lean
from .partition import PartitionStep, first_few
from .plan import Plan, PlannedSegment, PlannedStep
from .spans import Place, Unsupported, lower, lower_from_inputs, no_place
from .symbols import fit_shape, unfounded_sizes
from .tails import Cut, find_cuts
from .terms import to_manifest
from .wants import Wants

PROGRAM = "programs/program.onnx"
WHOLE = "programs/whole.onnx"
_STREAM = "programs/stream.json"


@dataclass(frozen=True)
class Assembly:
    """A manifest without hashes; `models` makes the model of each of its ONNX files, `plans` each of its span plans."""

    manifest: Manifest
    models: Mapping[str, Callable[[], onnx.ModelProto]]
    plans: Mapping[str, Callable[[Place], SpanPlan]]


def assemble(plan: Plan, name: str, **facts) -> Assembly:
    """`facts` are further fields of the manifest: preprocess, labels, active_fraction, …"""
    return _Assembler(plan, name).run(facts)


class _Assembler:
    def __init__(self, plan: Plan, name: str):
        self.plan, self.name = plan, name
        self.analysis: Analysis = plan.analysis
        self.wants = Wants(plan.analysis)
        self.models: dict[str, Callable[[], onnx.ModelProto]] = {
            PROGRAM: self._program,
            WHOLE: self._whole,
        }
        self.plans: dict[str, Callable[[Place], SpanPlan]] = {}
        self.notes: list[str] = []
        self.layouts: dict[str, list[Step]] = {}  # of the step with exits, beside its chain
        self._dense = self._regions = 0

    def run(self, facts: dict) -> Assembly:
        analysis = self.analysis
        parts = [list(self._steps(planned)) for planned in self.plan.steps]
        steps = tuple(step for part in parts for step in part)
        sample = analysis.probes.sample
        stream, refused = self._stream(steps)
        crops, crops_refused = plan_crops(analysis)
        crossing = dict.fromkeys(t for s in steps for t in _crossing(s))
        if stream:
            crossing.update(
                dict.fromkeys((*stream.outputs, *(t for tail in stream.tails for t in tail.inputs)))
            )
        own = {*analysis.program.inputs, *analysis.program.outputs}
        specs = [self.spec(t) for t in dict.fromkeys((*crossing, *analysis.program.outputs))]
        manifest = Manifest(
            name=self.name,
            inputs=tuple(self.spec(t) for t in analysis.program.inputs),
            outputs=tuple(self.spec(t) for t in analysis.program.outputs),
            tensors=tuple(self.spec(t) for t in crossing if t not in own),
            steps=steps,
            layouts=self._layouts(parts),
            program=PROGRAM,
            whole=WHOLE,
            decisions=analysis.decisions,
            choices=_choices(analysis),
            preprocess=facts.pop("preprocess", None) or Preprocess(),
            sizes=unfounded_sizes(specs, analysis.program.inputs, analysis.probes),
            sample={t: list(sample.shapes[t]) for t in analysis.program.inputs},
            min_size=analysis.probes.min_size,
            multiple=analysis.probes.multiple,
            stream=stream,
            stream_refused=refused,
            crops=crops,
            crops_refused=crops_refused,
            barriers=analysis.barriers,
            notes=(*self.plan.notes, *self.notes, *_native_notes(analysis)),
            **facts,
        )
        return Assembly(manifest, self.models, self.plans)

    def spec(self, name: str) -> TensorSpec:
        probes = self.analysis.probes
        return TensorSpec(name, probes.sample.dtypes[name], fit_shape(name, probes))

    def _open_spec(self, name: str) -> TensorSpec:
        """For a window: batch, height and width are left open."""
        spec = self.spec(name)
        free = (0, *self.analysis.axes[name])
        return dataclasses.replace(
            spec, shape=tuple("?" if i in free else d for i, d in enumerate(spec.shape))
        )

    def _program(self) -> onnx.ModelProto:
        """The whole program, with the shapes of its outputs as they were measured."""
        program = onnx.ModelProto()
        program.CopyFrom(self.analysis.program.model)
        for value in program.graph.output:
            spec = self.spec(value.name)
            for dim in spec.shape:
                added = value.type.tensor_type.shape.dim.add()
                if isinstance(dim, int):
                    added.dim_value = dim
                else:
                    added.dim_param = dim
        return program

    def _whole(self) -> onnx.ModelProto:
        """The program with the decisions among its outputs, of stock operators."""
        program = self._program()
        given = {o.name for o in program.graph.output}
        decided = dict.fromkeys(t for d in self.analysis.decisions for t in (d.keep, d.logits, d.energy) if t)
        program.graph.output.extend(describe(self.spec(t)) for t in decided if t not in given)
        return lean(program)

    def _steps(self, planned: PlannedStep) -> Iterator[Step]:
        """Of a planned step: itself, or an encoder with exits in its parts."""
        step = planned.step
        if step.local:
            yield self._region(planned)
            return
        parts = split_exits(self.analysis, self.wants, step)
        made = self._exits(parts, step) if isinstance(parts, ExitParts) else parts
        if isinstance(made, str):
            self.notes.append(f"all layers are computed for every image: {made}")
        if isinstance(made, list):
            yield from made
        else:
            yield self._dense_segment(step.nodes, step.inputs, step.outputs, step.reason)

    def _exits(self, parts: ExitParts, step: PartitionStep) -> list[Step] | str:
        """The steps of an encoder with exits, or why its batches cannot be divided."""
        program = self.analysis.program
        each = [parts.stem, *(stage.nodes for stage in parts.stages), parts.head]
        given = [parts.depth, parts.scores, parts.features, parts.first.answer, parts.chosen]
        answers = [stage.answer for stage in parts.stages]
        stem, *stages, head = borders(each, self.wants.sources, {*step.outputs, *given, *answers})
        batch = self.spec(program.inputs[0]).shape[0]
        crossing = dict.fromkeys(t for border in stages for side in border for t in side)
        other = [t for t in crossing if self.spec(t).shape[:1] != (batch,)]
        if other or (batch != 1 and isinstance(batch, int)):
            return (
                f"the first axis of {other[0] if other else program.inputs[0]} is not the batch, or is fixed"
            )
        made = []
        for part, (read, gives) in zip(parts.stages, stages, strict=True):
            gives = (part.answer, *(t for t in gives if t != part.answer))
            file = self._add(f"exits{part.exit}", [n.name for n in part.nodes], read, gives)
            made.append(ExitStage(part.exit, file, read, gives, sum(n.macs for n in part.nodes)))
        chain = ExitChain(
            "exits",
            parts.gate,
            parts.depth,
            parts.scores,
            parts.features,
            parts.first.exit,
            parts.first.answer,
            parts.chosen,
            tuple(made),
        )
        before = self._dense_segment(parts.stem, *stem, "before the first exit")
        behind = [self._dense_segment(parts.head, *head, "behind the exits")] if parts.head else []
        if paths := self._paths(parts, step, before, batch):
            self.layouts[PER_DEPTH] = [before, paths]
        if graph := self._exit_graph(chain, step, before, behind):
            self.layouts[IF] = [graph]
        return [before, chain, *behind]

    def _paths(
        self, parts: ExitParts, step: PartitionStep, stem: DenseSegment, batch: int | str
    ) -> ExitPaths | None:
        """An engine for each depth; None where what lies behind the stem does not begin with the batch."""
        outputs = tuple(t for t in step.outputs if t not in stem.outputs)
        made: list[ExitStage] = []
        for number, last in enumerate([parts.first, *parts.stages]):
            nodes = [n for stage in parts.stages[:number] for n in stage.nodes] + list(parts.head)
            ((read, _),) = borders([nodes], self.wants.sources, outputs)
            other = () if number else (parts.first.answer,)
            read = tuple(dict.fromkeys(t for t in (*other, *read) if t != parts.chosen))
            same = {parts.chosen: last.answer}
            file = self._add(f"depth{last.exit}", [n.name for n in nodes], read, outputs, same)
            made.append(ExitStage(last.exit, file, read, outputs, sum(n.macs for n in nodes)))
        crossing = dict.fromkeys(t for path in made for t in (*path.inputs, *path.outputs))
        other = [t for t in crossing if self.spec(t).shape[:1] != (batch,)]
        if not all(self.analysis.program.is_shared(t) for t in other):
            for path in made:
                del self.models[path.file]
            return None
        gate = parts.gate, parts.depth, parts.scores, parts.features
        return ExitPaths("exits", *gate, tuple(made), tuple(other))

    def _exit_graph(
        self, chain: ExitChain, step: PartitionStep, stem: DenseSegment, head: Sequence[DenseSegment]
    ) -> ExitGraph | None:
        """All of it in one engine; None where a stage gives more than an answer."""
        if any(len(stage.outputs) > 1 for stage in chain.stages) or not head:
            return None
        told = [chain.depth, chain.scores, chain.features]
        outputs = tuple(dict.fromkeys([*step.outputs, *filter(None, told)]))
        files = [stem.file, *(stage.file for stage in chain.stages), head[0].file]
        read = {t for part in (stem, *chain.stages, *head) for t in part.inputs}
        inputs = tuple(t for t in step.inputs if t in read)
        file, answer = "programs/exits.onnx", self.spec(chain.shallow)

        def make() -> onnx.ModelProto:
            before, *stages, behind = (self.models[part]() for part in files)
            described = [describe(self.spec(t)) for t in outputs]
            return exit_graph(chain, before, stages, behind, answer, described)

        self.models[file] = make
        gate = chain.gate, chain.depth, chain.scores, chain.features
        macs = stem.macs + sum(stage.macs for stage in chain.stages) + head[0].macs
        return ExitGraph(chain.name, *gate, chain.exits, file, inputs, outputs, macs)

    def _layouts(self, parts: Sequence[Sequence[Step]]) -> dict[str, tuple[Step, ...]]:
        """Of all steps. A program with several encoders of the kind has none."""
        with_exits = [part for part in parts if any(isinstance(step, ExitChain) for step in part)]
        if len(with_exits) != 1:
            return {}
        return {
            name: tuple(step for part in parts for step in (instead if part is with_exits[0] else part))
            for name, instead in self.layouts.items()
        }

    def _dense_segment(
        self, nodes: Sequence[NodeInfo], inputs: tuple[str, ...], outputs: tuple[str, ...], reason: str
    ) -> DenseSegment:
        name = f"dense{self._dense}"
        self._dense += 1
        file = self._add(name, [n.name for n in nodes], inputs, outputs)
        return DenseSegment(name, file, inputs, outputs, reason, sum(n.macs for n in nodes))

    def _region(self, planned: PlannedStep) -> Region:
        step, name = planned.step, f"region{self._regions}"
        self._regions += 1
        file = self._add(name, [n.name for n in step.nodes], step.inputs, step.outputs)
        masks = tuple(t for t in step.inputs if t in self.analysis.masks)
        segments = tuple(self._segment(f"{name}.{i}", s) for i, s in enumerate(planned.segments))
        spans, refused = self._spans(name, planned)
        return Region(name, segments, step.inputs, step.outputs, masks, file, step.reason, spans, refused)

    def _spans(self, name: str, planned: PlannedStep) -> tuple[str, str]:
        """The file of the region's span plan, or why it has none."""
        nodes, step, file = [n.name for n in planned.step.nodes], planned.step, f"programs/{name}.json"
        try:
            self._plan(file, nodes, step.inputs, step.outputs)
        except Unsupported as reason:
            return "", str(reason)
        return file, ""

    def _plan(
        self, file: str, nodes: Sequence[str], inputs: Sequence[str], outputs: Sequence[str]
    ) -> SpanPlan:
        """Has a span plan written, which is given without its weights' places. Raises Unsupported."""

        def make(place: Place) -> SpanPlan:
            return lower(self.analysis, nodes, inputs, outputs, place)

        found = make(no_place)
        self.plans[file] = make
        return found

    def _stream(self, steps: Sequence[Step]) -> tuple[StreamPlan | None, str]:
        """How videos run, or why they cannot. Up to an encoder's first exit, where there is one."""
        analysis = self.analysis
        then = next((i for i, step in enumerate(steps) if isinstance(step, ExitChain)), 0)
        behind = steps[then:] if then else ()
        inputs, outputs = analysis.program.inputs, _wanted(analysis, behind)
        if analysis.decisions:
            return None, "its decisions are made anew for every frame"
        try:
            names, refused = lower_from_inputs(analysis)
        except Unsupported as reason:
            return None, str(reason)
        found, (live, _) = set(names), self.wants.of(outputs)
        local = [n.name for n in live if n.name in found]
        rest = [n for n in live if n.name not in found]
        if not local:
            return None, "none of its outputs depends on a local op"
        made = [o for n in analysis.nodes if n.name in set(local) for o in n.outputs]
        sources = dict.fromkeys(
            s for n in rest for s in analysis.program.sources(analysis.program.by_name[n.name])
        )
        given = tuple(t for t in made if t in sources or t in outputs)
        try:
            spans = self._plan(_STREAM, local, inputs, given)
        except Unsupported as reason:
            return None, str(reason)
        cuts = find_cuts(analysis, self.wants, spans, set(local), outputs)
        tails = tuple(self._tail(i, cut) for i, cut in enumerate(cuts))
        left = sum(n.macs for n in rest) + sum(_macs(step) for step in behind)
        share = 1 - left / max(analysis.macs, 1.0)
        if not rest:
            return StreamPlan(_STREAM, given, share=share, tails=tails, then=then), ""
        reads = tuple(s for s in sources if s in set(made) or s in inputs)
        answers = tuple(o for n in rest for o in n.outputs if o in outputs)
        ends = tuple(first_few([refused[n.name] for n in rest if n.name in refused], "ends"))
        file = self._add("rest", [n.name for n in rest], reads, answers)
        return StreamPlan(_STREAM, given, file, reads, answers, share, ends, tails, then), ""

    def _tail(self, number: int, cut: Cut) -> Tail:
        file = self._add(f"tail{number}", list(cut.nodes), cut.inputs, cut.outputs)
        return Tail(cut.ops, file, cut.inputs, cut.outputs)

    def _segment(self, name: str, planned: PlannedSegment) -> LocalSegment:
        file = f"programs/{name}.onnx"
        inputs, outputs = ([self._open_spec(t) for t in names] for names in (planned.inputs, planned.outputs))
        nodes = tuple(n.name for n in planned.nodes)
        local = self.analysis.local
        self.models[file] = lambda: extract(local, nodes, inputs, outputs, name)
        geometry = planned.geometry
        return LocalSegment(
            name,
            file,
            tuple(self._grid(t, planned) for t in planned.inputs),
            tuple(self._grid(t, planned) for t in planned.outputs),
            geometry.halo_low,
            geometry.halo_high,
            planned.strategy,
            planned.reason,
            planned.macs_per_cell,
            geometry.whole_cells,
            nodes,
        )

    def _grid(self, name: str, planned: PlannedSegment) -> GridTensor:
        dirty = to_manifest(planned.terms[name]) if name in planned.outputs else ()
        return GridTensor(name, planned.geometry.positions[name], self.analysis.axes[name], dirty)

    def _add(
        self,
        name: str,
        nodes: list[str],
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        same: Mapping[str, str] | None = None,
    ) -> str:
        file = f"programs/{name}.onnx"
        read, made = [self.spec(t) for t in inputs], [self.spec(t) for t in outputs]
        self.models[file] = lambda: extract(self.analysis.program, nodes, read, made, name, same)
        return file


def _native_notes(analysis: Analysis) -> list[str]:
    count = sum(op_key(node) == SAMPLE for node in analysis.program.nodes)
    if not count:
        return []
    return [
        f"{count} nodes read maps by a native kernel (DeformableSample), by GridSample where it is missing"
    ]


def _wanted(analysis: Analysis, behind: Sequence[Step]) -> tuple[str, ...]:
    """What is left to make before these steps: what they read, and the program's outputs that they do not make."""
    made = {name for step in behind for name in step.outputs}
    read = [name for step in behind for name in step.inputs if name not in made]
    outputs = [name for name in analysis.program.outputs if name not in made]
    return tuple(dict.fromkeys(n for n in (*outputs, *read) if n not in analysis.program.inputs))


def _macs(step: Step) -> float:
    if isinstance(step, ExitChain):
        return sum(stage.macs for stage in step.stages)
    return step.macs if isinstance(step, DenseSegment) else 0.0


def _crossing(step: Step) -> list[str]:
    names = [*step.inputs, *step.outputs]
    if isinstance(step, Region):
        names += [t.name for s in step.segments for t in (*s.inputs, *s.outputs)]
    if isinstance(step, ExitChain):
        names += [t for stage in step.stages for t in (*stage.inputs, *stage.outputs)]
    return names


def _choices(analysis: Analysis) -> tuple[Choice, ...]:
    found = []
    for name in analysis.program.choices:
        value = analysis.program.initializer(name)
        assert value is not None  # a choice is an input with an initializer
        plain = float(value) if value.size == 1 else [float(v) for v in value.ravel()]
        reader = next((n for n in analysis.program.nodes if name in n.input), None)
        found.append(Choice(name, plain, f"input of {reader.name} ({reader.op_type})" if reader else ""))
    return tuple(found)
