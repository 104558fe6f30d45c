"""A stream over any graph, with any change between frames, answers as the dense program does."""

from __future__ import annotations

import numpy as np
import onnx
from foveate.pipeline.build import build
from foveate.runtime import StreamPolicy, load
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

SLOW = settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # a program is built for each example: shrinking would take minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@st.composite
def changes(draw: st.DrawFn) -> list[str]:
    return draw(
        st.lists(st.sampled_from(["nothing", "all", "pixel", "border", "box"]), min_size=1, max_size=5)
    )


def test_padding_that_depends_on_the_size(random_program, tmp_path):
    """auto_pad with a stride: selective at multiples of the stride, dense at other sizes."""
    model = random_program(lambda _: 2, 0, masked=False)
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    del conv.attribute[:]
    same = {"auto_pad": "SAME_UPPER", "strides": [2, 2]}
    conv.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in same.items())
    onnx.save(model, tmp_path / "same.onnx")
    rng = np.random.default_rng(0)
    with load(build(tmp_path / "same.onnx", tmp_path / "same", sample=(1, 4, 32, 32)), threads=1) as runner:
        stream = runner.stream(fallback=False)
        for size, reasons in (
            ((20, 24), ["first", ""]),
            ((21, 24), ["size", "size"]),
            ((24, 20), ["first", ""]),
        ):
            frame = rng.standard_normal((1, 4, *size)).astype(np.float32)
            for reason in reasons:
                found, wanted = stream(frame)["y"], runner.dense(frame)["y"]
                assert stream.reason == reason and found.shape == wanted.shape
                assert np.abs(found - wanted).max() < 1e-5
                frame = frame.copy()
                frame[..., 3:5, 4:9] += 1


@SLOW
@given(data=st.data(), kinds=changes())
def test_any_graph_and_any_change(random_program, tmp_path_factory, data, kinds):
    program = random_program(data.draw, data.draw(st.integers(2, 8)), masked=False)
    folder = tmp_path_factory.mktemp("random")
    size = data.draw(st.tuples(st.integers(11, 30), st.integers(11, 30)))
    onnx.save(program, folder / "program.onnx")
    bundle = build(folder / "program.onnx", folder / "bundle", sample=(1, 4, *size))
    rng = np.random.default_rng(0)
    with load(bundle, threads=1) as model:
        if model.manifest.stream is None:
            return
        policy = StreamPolicy(fallback=data.draw(st.booleans()))
        stream, frame = model.stream(policy), rng.standard_normal((1, 4, *size)).astype(np.float32)
        for kind in ["nothing", *kinds]:
            frame = frame.copy()
            y, x = rng.integers(size[0]), rng.integers(size[1])
            where = {
                "all": np.s_[:],
                "pixel": np.s_[..., y, x],
                "border": np.s_[..., [0, -1]],
                "box": np.s_[..., y:, x:],
            }
            if kind in where:
                frame[where[kind]] += rng.standard_normal(frame[where[kind]].shape).astype(np.float32)
            found, wanted = stream(frame), model.dense(frame)
            for name, value in wanted.items():
                assert np.abs(found[name] - value).max() <= 1e-4 * max(np.abs(value).max(), 1e-2), (
                    name,
                    kind,
                )
