"""The manifest: everything that the runtime needs to know of a bundle, as plain data.

A bundle is a folder:

    manifest.json                this file's `Manifest`
    programs/program.onnx        the dense reference; every other file is cut from it
    programs/whole.onnx          the same as one engine: no function bodies, decisions among the outputs
    programs/<segment>.onnx      one per segment, one fallback per region
    programs/<region>.json       one per region that the native kernels can run: its span plan
    programs/stream.json         the span plan of videos, where there is one; rest.onnx, what lies behind it
    programs/tail<number>.onnx   what lies behind a part of it
    programs/weights.bin         the weights, once, as ONNX external data of all of the above
    engines/<file>.<gpu>.plan    each of those files as an engine of another backend, with a .json that says what it is
    engines/<file>.fp16.onnx     or in fewer bits; engines/weights.bin, their weights
    device.json                  measured costs with the fingerprint of the device they hold for (optional)

A program runs as a list of *steps*, in order: dense segments, regions, and encoders with exits. A `Region` is a run of
local segments between two barriers. Its `fallback` computes all of it densely in one engine. A program with exits has
other lists of steps, its *layouts*, for the same answer.

Geometry. A local segment is covered by a grid of *cells*: the smallest blocks in which each of its tensors has a whole
number of positions. Tensor `t` has `positions` p = (py, px) a cell, so the cells [c0, c1) are its positions
[c0·p, min(c1·p, size)). One window in cells therefore slices every input, and crops every output, of a segment.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cached_property

from .decode import decode

SCHEMA_VERSION = 1
ONNX = "onnx"  # flavour of engines that onnxruntime or torch makes of an ONNX file on load
CHAIN, PER_DEPTH, IF = "chain", "per-depth", "if"  # layouts of a program with exits

Pair = tuple[int, int]  # along (height, width)


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that crosses an engine's border. A dim is an int, or a string over the program's symbolic input dims:
    a name ("batch", "height") or a fraction of one, rounded up ("height/4", "width*2/3", "(height-2)/2")."""

    name: str
    dtype: str  # numpy's name: "float32"
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Preprocess:
    """How a uint8 image becomes the program's input. `size` is (height, width), None keeps the image's own."""

    size: Pair | None = None
    letterbox: bool = False
    color: str = "rgb"  # or "bgr", "gray"
    scale: float = 1 / 255  # before mean and std
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    layout: str = "nchw"  # or "nhwc"


@dataclass(frozen=True)
class Choice:
    """A value calibration may change: a graph input of the engines with an initializer as its default."""

    name: str
    value: float | list[float]
    about: str = ""


@dataclass(frozen=True)
class Decision:
    """What a node of domain ai.foveate computes at run time. For `energy_mask`: keep [B,1,H,W], where 0 is inactive,
    logits and energy [B,1,⌈H/p⌉,⌈W/p⌉]. Names of tensors that the segment of the node puts out; None: not computed
    (the energy is, where the program has it for an output)."""

    name: str
    kind: str  # "energy_mask"
    keep: str
    logits: str | None = None
    energy: str | None = None


@dataclass(frozen=True)
class Term:
    """One reason for a position o of a tensor to differ from the reference state: any position of `source` in
    [floor(o·num/den) + low, floor(o·num/den) + high] (per axis) is dirty.

    `source` is a mask tensor (dirty = nonzero) or another tensor of the region (dirty as propagated; a region's own
    non-mask inputs are dirty everywhere)."""

    source: str
    num: Pair = (1, 1)
    den: Pair = (1, 1)
    low: Pair = (0, 0)
    high: Pair = (0, 0)


@dataclass(frozen=True)
class GridTensor:
    """A local segment's input or output: positions a cell, and the axes that hold height and width."""

    name: str
    positions: Pair = (1, 1)
    axes: Pair = (2, 3)
    dirty: tuple[Term, ...] = ()  # outputs only: the union of these


@dataclass(frozen=True)
class DenseSegment:
    """Runs on whole maps, whole batches."""

    name: str
    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reason: str = ""  # why it is dense, in words for `inspect`
    macs: float = 0.0  # at the manifest's sample resolution
    kind: str = "dense"


@dataclass(frozen=True)
class LocalSegment:
    """Can run on a window: cells [c0 - halo_low, c1 + halo_high) clamped to the image give cells [c0, c1) exactly."""

    name: str
    file: str
    inputs: tuple[GridTensor, ...]
    outputs: tuple[GridTensor, ...]
    halo_low: Pair
    halo_high: Pair
    strategy: str = "rects"
    reason: str = ""
    macs_per_cell: float = 0.0
    whole_cells: bool = (
        False  # True: exact only where every tensor's size is a multiple of its positions a cell
    )
    nodes: tuple[str, ...] = ()
    kind: str = "local"


@dataclass(frozen=True)
class Region:
    """Local segments between two barriers. `masks` are those inputs that are mask tensors: 0 where inactive, and 0
    everywhere in the reference state."""

    name: str
    segments: tuple[LocalSegment, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    masks: tuple[str, ...]
    fallback: str  # file of the engine that computes the whole region densely
    reason: str = ""
    spans: str = ""  # file of the span plan, for the native kernels; "" where they cannot run the region …
    spans_refused: str = ""  # … for this reason
    kind: str = "region"


@dataclass(frozen=True)
class ExitStage:
    """Layers between two exits, run on the images that are still there. The first axis of all inputs and outputs is the
    batch. The first output is what images leave with that take `exit` layers."""

    exit: int
    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: float = 0.0


@dataclass(frozen=True)
class Exits:
    """An early-exit encoder, in one of several layouts. `depth` [N] says how many layers each image takes. `gate` is
    the name of what decides, `scores` [N, K] are its scores, `features` [N, D] what it reads; "": none."""

    name: str
    gate: str
    depth: str
    scores: str
    features: str


@dataclass(frozen=True)
class ExitChain(Exits):
    """An engine for each stage. Images take `first` layers, and leave with `shallow`, or up to the exit of a stage.
    `chosen` is what they left with."""

    first: int
    shallow: str
    chosen: str
    stages: tuple[ExitStage, ...]
    kind: str = "exits"

    @cached_property
    def exits(self) -> tuple[int, ...]:
        return (self.first, *(stage.exit for stage in self.stages))

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        made = {name for stage in self.stages for name in stage.outputs}
        read = [name for stage in self.stages for name in stage.inputs if name not in made]
        return tuple(
            dict.fromkeys([self.depth, *filter(None, [self.scores, self.features]), self.shallow, *read])
        )

    @cached_property
    def read_from(self) -> tuple[frozenset[str], ...]:
        """What the stages from each one on read; nothing behind the last."""
        behind = [self.stages[number:] for number in range(len(self.stages) + 1)]
        return tuple(frozenset(name for stage in stages for name in stage.inputs) for stages in behind)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.chosen,)


@dataclass(frozen=True)
class ExitPaths(Exits):
    """An engine for each depth: all that lies behind the stem, as images of that depth take it. `shared`: what they
    read that is the same for all images of a batch, like positions; its first axis is not the batch."""

    paths: tuple[ExitStage, ...]
    shared: tuple[str, ...] = ()
    kind: str = "paths"

    @property
    def exits(self) -> tuple[int, ...]:
        return tuple(path.exit for path in self.paths)

    @property
    def inputs(self) -> tuple[str, ...]:
        read = [name for path in self.paths for name in path.inputs]
        return tuple(dict.fromkeys([self.depth, *filter(None, [self.scores, self.features]), *read]))

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.paths[0].outputs


@dataclass(frozen=True)
class ExitGraph(Exits):
    """Stem, layers and head in one engine, which runs as many layers as the deepest image of a batch takes. The depth,
    scores and features are among its outputs."""

    exits: tuple[int, ...]
    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: float = 0.0
    kind: str = "if"


ExitStep = ExitChain | ExitPaths | ExitGraph
Step = DenseSegment | Region | ExitStep


@dataclass(frozen=True)
class Tail:
    """Where an engine may take over from the kernels in a stream: behind the first `ops` of the span plan, `file` makes
    those `outputs` of the program (or what step `then` and those behind it read) that are left, from `inputs`, of which
    the plan has made some by then."""

    ops: int
    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class StreamPlan:
    """How a video runs through the program: `spans` is the span plan of everything that is local from the inputs on,
    which makes `outputs`; `rest`, an engine, computes from these and the program's inputs what is left ("": nothing
    is). `share`: of the program's multiply-adds that unchanged positions save; `ends`: the nodes with which the rest
    begins, and why; `tails`: in the order of the plan, may be none. `then`: the step of the manifest from which on it
    goes as with single images, for an encoder with exits; 0: nothing is left."""

    spans: str
    outputs: tuple[str, ...]
    rest: str = ""
    rest_inputs: tuple[str, ...] = ()
    rest_outputs: tuple[str, ...] = ()
    share: float = 1.0
    ends: tuple[str, ...] = ()
    tails: tuple[Tail, ...] = ()
    then: int = 0


@dataclass(frozen=True)
class CropPlan:
    """How the whole program, whatever its ops, runs on crops of its image: cut along cells, the smallest blocks (of 16
    pixels a side or more) in which every map of the program has a whole number of positions."""

    image: GridTensor
    outputs: tuple[GridTensor, ...]


@dataclass(frozen=True)
class EngineFile:
    """A file of programs/ as an engine for NVIDIA GPUs: of which flavour of TensorRT ("tensorrt_rtx", "tensorrt"), and
    for which compute capability ("sm89"; "any": all that the flavour knows). `sidecar` says more, as JSON. Of flavour
    "onnx" the plan is an ONNX file in `precision`, and has neither version nor sidecar."""

    program: str
    plan: str
    sidecar: str
    flavour: str
    version: str
    compute: str
    precision: str


@dataclass(frozen=True)
class FileEntry:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tensors: tuple[TensorSpec, ...]  # every tensor that crosses a border between steps or segments
    steps: tuple[Step, ...]
    layouts: dict[str, tuple[Step, ...]] = field(default_factory=dict)  # beside "chain", which is `steps`
    layout: str = "auto"  # that is loaded; "auto": the one measured to be fastest
    program: str = "programs/program.onnx"
    whole: str = ""  # the program as one engine, with the decisions among its outputs; "": the program itself
    backend: str = "ort"
    decisions: tuple[Decision, ...] = ()
    choices: tuple[Choice, ...] = ()
    preprocess: Preprocess = field(default_factory=Preprocess)
    sample: dict[str, list[int]] = field(default_factory=dict)  # input name -> the shape the plan was made at
    sizes: dict[str, int] = field(default_factory=dict)  # what dims are there that follow from no input's
    labels: tuple[str, ...] = ()
    min_size: Pair = (1, 1)
    multiple: Pair = (1, 1)  # of which height and width must be one
    stream: StreamPlan | None = None
    stream_refused: str = ""  # why there is none
    crops: CropPlan | None = None
    crops_refused: str = ""  # why there is none
    stream_policy: dict[str, object] = field(
        default_factory=dict
    )  # fields of StreamPolicy, calibrated; {}: exact
    barriers: tuple[str, ...] = ()  # "node (op): reason", for `inspect`
    notes: tuple[str, ...] = ()
    active_fraction: float | None = None  # mean over calibration images; None: not calibrated
    depths: dict[str, int] = field(
        default_factory=dict
    )  # calibration images by the layers that they took; {}: not calibrated
    stages: dict[str, str] = field(default_factory=dict)  # stage -> hash of its inputs, for skipping
    engines: tuple[EngineFile, ...] = ()  # those that are files of their own
    lowered: tuple[str, ...] = ()  # of `tensors`, those that engines of flavour "onnx" have in float16
    files: dict[str, FileEntry] = field(default_factory=dict)
    created_by: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def one_engine(self) -> str:
        """The file to open for the program as one engine."""
        return self.whole or self.program

    @property
    def exit_step(self) -> ExitStep | None:
        """The encoder with exits."""
        return next((step for step in self.steps if isinstance(step, ExitStep)), None)

    def in_layout(self, name: str) -> Manifest:
        """With that layout's steps. Raises KeyError where it has none of that name."""
        return self if name == CHAIN else dataclasses.replace(self, steps=self.layouts[name])

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Raises ValueError, KeyError or TypeError on anything that is not a manifest of this schema version."""
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
            found = data.get("schema_version") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"manifest schema version {found!r}, this runtime reads {SCHEMA_VERSION}")
        return decode(Manifest, data)
