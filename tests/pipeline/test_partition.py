"""Partition and plan of small masked graphs: what lies in regions, why the rest does not, and where regions are cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from foveate.export.domain import DOMAIN, VERSION, domain_op
from foveate.pipeline.analyze import analyze
from foveate.pipeline.costs import CostModel, group_ms, usual_model
from foveate.pipeline.partition import partition
from foveate.pipeline.plan import plan
from foveate.runtime.engine import PRECISIONS, CudaConfig, NullConfig, OrtConfig, TensorRTConfig, TorchConfig
from foveate.runtime.manifest import Term
from hypothesis import given, settings
from hypothesis import strategies as st

helper = onnx.helper
CHANNELS = 4


class Net:
    """Builds graphs by hand: images -> convs, masks and whatever a test puts between."""

    def __init__(self) -> None:
        self.nodes, self.weights, self.choices = [], {}, []

    def add(self, op, *inputs, name, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def conv(self, x, name, k=3, stride=1, cin=CHANNELS):
        rng = np.random.default_rng(len(self.nodes))
        self.weights[f"{name}.w"] = rng.standard_normal((CHANNELS, cin, k, k)).astype(np.float32) / 4
        strides, pads = [stride] * 2, [k // 2] * 4
        return self.add("Conv", x, f"{name}.w", name=name, strides=strides, pads=pads)

    def mask(self, x, name="mask0"):
        values = {"threshold": 0.5, "temperature": 1.0, "lambda": 0.001, "gamma": 0.001}
        for key, value in values.items():
            self.weights[f"{name}.{key}"] = np.float32(value)
            self.choices.append(f"{name}.{key}")
        self.weights[f"{name}.w"] = np.ones((1, CHANNELS, 1, 1), np.float32)
        self.weights[f"{name}.b"] = np.zeros(1, np.float32)
        inputs = [x, f"{name}.w", f"{name}.b", *(f"{name}.{key}" for key in values)]
        outputs = [f"{name}.{o}" for o in ("keep", "logits", "energy")]
        self.nodes.append(helper.make_node("EnergyMask", inputs, outputs, name=name, domain=DOMAIN, patch=1))
        return f"{name}.keep"

    def mul(self, x, keep, name):
        return self.add("Mul", x, keep, name=name)

    def analysis(self, *outputs, sample=(1, CHANNELS, 32, 32)):
        kind = onnx.TensorProto.FLOAT
        tensors = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in self.weights.items()]
        shape = ["batch", CHANNELS, "height", "width"]
        inputs = [helper.make_tensor_value_info("images", kind, shape)]
        inputs += [helper.make_tensor_value_info(name, kind, []) for name in self.choices]
        results = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "g", inputs, results, tensors)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
        functions = [domain_op("EnergyMask").function()]
        model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9)
        return analyze(model, {"images": sample})


def names(step):
    return {n.name for n in step.nodes}


def kinds(steps):
    return ["region" if s.local else "dense" for s in steps]


def test_stem_region_tail():
    net = Net()
    keep = net.mask(net.conv("images", "stem"))
    x = net.conv(net.mul("stem", keep, "masked"), "conv0")
    x = net.mul(x, keep, "out0")
    net.add("GlobalAveragePool", x, name="y")
    steps = partition(net.analysis("y"))
    assert kinds(steps) == ["dense", "region", "dense"]
    assert names(steps[0]) == {"stem", "mask0"} and names(steps[1]) == {"masked", "conv0", "out0"}
    assert steps[0].reason == "mask0 decides; before the first mask"
    assert steps[2].reason == "y (GlobalAveragePool) pools the whole map"
    assert steps[1].inputs == ("stem", "mask0.keep") and steps[1].outputs == ("out0",)


def test_a_program_without_decisions_is_one_dense_step():
    net = Net()
    net.conv(net.conv("images", "a"), "y")
    result = plan(net.analysis("y"))
    assert kinds([s.step for s in result.steps]) == ["dense"]
    assert "no decisions" in result.notes[0]


def test_a_skip_from_before_the_mask_without_narrowing_stays_dense():
    net = Net()
    keep = net.mask(net.conv("images", "stem"))
    x = net.conv(net.mul("stem", keep, "masked"), "conv0")
    x = net.add("Add", x, "stem", name="joined")
    net.conv(x, "y")
    steps = partition(net.analysis("y"))
    assert kinds(steps) == ["dense", "region", "dense"]
    assert names(steps[2]) == {"joined", "y"}
    assert "stem joins at joined and no mask narrows it" in steps[2].reason


def test_a_skip_from_before_the_mask_that_is_narrowed_lies_in_the_region():
    net = Net()
    keep = net.mask(net.conv("images", "stem"))
    skip = net.conv("stem", "projected")  # needed only where the mask is active
    x = net.conv(net.mul("stem", keep, "masked"), "conv0")
    x = net.mul(net.add("Add", x, skip, name="joined"), keep, "narrowed")
    net.conv(x, "y")
    steps = partition(net.analysis("y"))
    assert kinds(steps) == ["dense", "region"]
    assert names(steps[1]) == {"projected", "masked", "conv0", "joined", "narrowed", "y"}


def test_a_second_mask_starts_a_second_region():
    net = Net()
    keep0 = net.mask(net.conv("images", "stem"))
    x = net.mul(net.conv(net.mul("stem", keep0, "masked0"), "conv0"), keep0, "out0")
    keep1 = net.mul(net.mask(x, "mask1"), keep0, "narrowed1")
    x = net.mul(net.conv(net.mul(x, keep1, "masked1"), "conv1"), keep1, "y")
    analysis = net.analysis("y")
    steps = partition(analysis)
    assert analysis.masks == {"mask0.keep", "mask1.keep", "narrowed1"}
    assert kinds(steps) == ["dense", "region", "dense", "region"]
    assert names(steps[2]) == {"mask1", "narrowed1"} and names(steps[3]) == {"masked1", "conv1", "y"}
    (segment,) = plan(analysis).steps[3].segments
    assert {source for source, _ in segment.terms["y"]} == {"narrowed1"}


def test_squeeze_excite_inside_cuts_the_region():
    net = Net()
    keep = net.mask(net.conv("images", "stem"))
    x = net.mul(net.conv(net.mul("stem", keep, "masked"), "conv0"), keep, "out0")
    gate = net.add("Sigmoid", net.add("GlobalAveragePool", x, name="pool"), name="gate")
    x = net.mul(net.conv(net.mul(x, gate, "scaled"), "conv1"), keep, "y")
    steps = partition(net.analysis("y"))
    assert kinds(steps) == ["dense", "region", "dense", "region"]
    assert "pool (GlobalAveragePool)" in steps[2].reason and "scaled (Mul)" in steps[2].reason
    assert names(steps[3]) == {"conv1", "y"}


def test_a_region_without_work_stays_dense():
    net = Net()
    keep = net.mask(net.conv("images", "stem"))
    net.add("GlobalAveragePool", net.mul("stem", keep, "masked"), name="y")
    steps = partition(net.analysis("y"))
    assert kinds(steps) == ["dense"] and "too little work behind a mask" in steps[0].reason


def test_a_tap_in_the_middle_is_an_output_of_the_region():
    net = Net()
    keep = net.mask(net.conv("images", "stem"))
    tap = net.mul(net.conv(net.mul("stem", keep, "masked"), "conv0"), keep, "tap")
    net.mul(net.conv(tap, "conv1"), keep, "y")
    net.add("GlobalMaxPool", tap, name="z")
    steps = partition(net.analysis("y", "z"))
    assert kinds(steps) == ["dense", "region", "dense"]
    assert set(steps[1].outputs) == {"tap", "y"}


def masked_blocks(count, stride=1, persist=True):
    net = Net()
    keep = net.mask(net.conv("images", "stem"))
    x = net.mul("stem", keep, "masked")
    for i in range(count):
        step = stride if i == count - 1 else 1
        if step == 2:
            pooled = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}
            keep = net.add("MaxPool", keep, name="half", **pooled)
        y = net.add("Relu", net.conv(x, f"b{i}.conv0", stride=step), name=f"b{i}.relu0")
        y = net.mul(y, keep, f"b{i}.masked0") if persist else y
        skip = net.conv(x, f"b{i}.skip", k=1, stride=2) if step == 2 else x
        y = net.add("Add", net.conv(y, f"b{i}.conv1"), skip, name=f"b{i}.add")
        y = net.add("Relu", y, name=f"b{i}.relu1")
        x = net.mul(y, keep, f"b{i}") if persist else y
    return net.analysis(x, sample=(1, CHANNELS, 128, 128)), x


def segments(analysis, **model):
    return [s for step in plan(analysis, model=CostModel(**model)).steps for s in step.segments]


def test_free_calls_cut_at_every_tensor_that_stands_alone_and_dear_ones_nowhere():
    analysis, _ = masked_blocks(3)
    fine, coarse = segments(analysis, call_ms=0.0), segments(analysis, call_ms=1e6)
    assert len(coarse) == 1 and coarse[0].geometry.halo_low == (6, 6)
    assert len(fine) > len(coarse)
    assert [s.outputs[-1] for s in fine][-1] == "b2"


def test_one_segment_has_the_block_s_stride_halo_and_terms():
    analysis, out = masked_blocks(1, stride=2)
    (segment,) = segments(analysis, call_ms=1e6)
    assert segment.geometry.positions == {
        **dict.fromkeys(("stem", "mask0.keep", "masked"), (2, 2)),
        **dict.fromkeys(("b0.conv0", "b0.relu0", "half", "b0.masked0", "b0.conv1"), (1, 1)),
        **dict.fromkeys(("b0.skip", "b0.add", "b0.relu1", "b0"), (1, 1)),
    }
    # conv1 needs one cell on each side, of which conv0's 3×3 at stride 2 reads one position more below only.
    assert segment.geometry.halo_low == (2, 2) and segment.geometry.halo_high == (1, 1)
    assert {s for s, _ in segment.terms[out]} == {"half"}


def test_without_persistence_dirtiness_grows_through_the_block():
    from foveate.pipeline.terms import to_manifest

    analysis, out = masked_blocks(1, persist=False)
    (segment,) = segments(analysis, call_ms=1e6)
    assert to_manifest(segment.terms[out]) == (Term("mask0.keep", low=(-2, -2), high=(2, 2)),)


@pytest.mark.parametrize("stride", [1, 2])
def test_macs_of_the_segments_are_those_of_the_region(stride):
    analysis, _ = masked_blocks(2, stride=stride)
    for step in plan(analysis, model=CostModel(call_ms=0.0)).steps:
        if step.segments:
            cells = [np.prod(analysis.size(s.outputs[0])) / np.prod(s.geometry.positions[s.outputs[0]])
                     for s in step.segments]  # fmt: skip
            total = sum(s.macs_per_cell * n for s, n in zip(step.segments, cells, strict=True))
            assert total == pytest.approx(step.step.macs)


@pytest.fixture(scope="module")
def blocks():
    return masked_blocks(4, stride=2)[0]


def total_ms(planned, model) -> float:
    return sum(
        group_ms(s.nodes, s.geometry, s.outputs, step.step.dirty, planned.analysis, model)
        for step in planned.steps
        for s in step.segments
    )


GPUS = (TorchConfig(), CudaConfig(), TensorRTConfig(precision="fp16"), TensorRTConfig(precision="int8"))


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(GPUS), st.floats(0.01, 1.0), st.integers(1, 5), st.sampled_from([0.0, 1e-4, 0.02, 1.0])
)
def test_a_plan_for_a_gpu_is_never_worse_there_than_one_for_a_cpu(blocks, config, active, objects, call_ms):
    model = replace(usual_model(config, blocks), active=active, objects=objects, call_ms=call_ms)
    own, other = plan(blocks, model=model), plan(blocks)
    assert total_ms(own, model) <= total_ms(other, model) * (1 + 1e-9)
    assert total_ms(own, model) == pytest.approx(sum(s.cost_ms for step in own.steps for s in step.segments))
    more = total_ms(own, replace(model, active=min(1.0, 1.5 * active)))
    assert total_ms(own, model) <= more <= total_ms(own, replace(model, active=1.0, objects=100)) + 1e-9


@pytest.mark.parametrize("precision", [*PRECISIONS, "tf32"])
def test_every_precision_has_usual_costs(blocks, precision):
    assert usual_model(TensorRTConfig(precision=precision), blocks).tiles


def test_usual_costs_are_those_of_the_device_and_its_precision(blocks):
    assert usual_model(OrtConfig(), blocks) == usual_model(NullConfig(), blocks) == CostModel()
    slow, half, eighth = (usual_model(config, blocks) for config in GPUS[1:])
    assert usual_model(GPUS[0], blocks) == slow and slow.tiles
    assert slow.gmacs < half.gmacs < eighth.gmacs and 4 * slow.gbytes == 2 * half.gbytes == eighth.gbytes
    sample = blocks.probes.sample
    halves = replace(sample, dtypes=dict.fromkeys(sample.dtypes, "float16"))
    program = replace(blocks, probes=replace(blocks.probes, runs=(halves,)))
    assert usual_model(GPUS[0], program) == half == usual_model(TensorRTConfig(), program)


def test_a_gpu_takes_fewer_and_larger_segments(blocks):
    on_cpu = plan(blocks, model=CostModel(call_ms=0.0))
    on_gpu = plan(blocks, model=usual_model(TensorRTConfig(precision="fp16"), blocks))
    count = [sum(len(step.segments) for step in planned.steps) for planned in (on_cpu, on_gpu)]
    assert count[1] < count[0]
