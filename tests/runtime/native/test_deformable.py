"""The kernel of deformable sampling in a session of onnxruntime: it runs, on every instruction set, and reads right."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from foveate.runtime.backends import ort
from foveate.runtime.native.library import ISAS, native_isa
from hypothesis import given, settings
from hypothesis import strategies as st

from ...deformable import Case, cases, one_node, reference

RUNNABLE = [isa for isa in ISAS if native_isa(isa)]
LOCATION = st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e10, -(2.0**31), 2.0**63])


def session(isa: str = "best", threads: int = 1) -> Any:
    """One node, whose body answers with zeros: what is not zero comes from the kernel."""
    model = one_node(2)
    model.functions.append(
        onnx.parser.parse_function(
            '<opset_import: ["" : 18], domain: "ai.foveate">\n'
            "DeformableSample <levels> (value, sizes, locations, weights) => (read) {\n"
            "  dims = Shape <start = 0, end = 3> (weights)\n  read = ConstantOfShape (dims)\n}"
        )
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    ort.use_kernels(options, isa)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


cached = cache(session)


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from(RUNNABLE), st.sampled_from([1, 3]))
def test_it_reads_what_the_reference_reads(case: Case, isa: str, threads: int) -> None:
    got = cached(isa, threads).run(None, case.feeds)[0]
    np.testing.assert_allclose(got, reference(case), rtol=0, atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(cases(), st.sampled_from(RUNNABLE), LOCATION)
def test_a_wild_location_reads_nothing(case: Case, isa: str, wild: float) -> None:
    case.feeds["locations"][:, ::2] = wild
    got = np.asarray(cached(isa, 1).run(None, case.feeds)[0])
    np.testing.assert_array_equal(got[:, ::2], 0)
    case.feeds["locations"][:, ::2] = -1  # for the reference
    np.testing.assert_allclose(got, reference(case), rtol=0, atol=2e-6)


FEEDS = {
    "value": np.ones((1, 5, 2, 4), np.float32),
    "sizes": np.array([[2, 2], [1, 1]]),
    "locations": np.full((1, 3, 2, 2, 1, 2), 0.5, np.float32),
    "weights": np.ones((1, 3, 2, 2, 1), np.float32),
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sizes": np.array([[2, 2], [1, 2]])}, "more positions than tokens"),
        ({"sizes": np.array([[2, 2], [0, 1]])}, "fewer positions than tokens"),
        ({"sizes": np.array([[2**40, 2**40], [1, 1]])}, "more positions than tokens"),
        ({"sizes": np.array([[-2, -2], [1, 1]])}, "more positions than tokens"),
        ({"weights": np.ones((1, 3, 1, 2, 1), np.float32)}, "other weights"),
        ({"locations": np.ones((1, 2, 2, 2, 1, 2), np.float32)}, "other locations"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(Exception, match=said):  # onnxruntime's exceptions have no common root
        cached().run(None, {**FEEDS, **changes})


def test_nothing_to_read() -> None:
    """Without queries, or of maps without a position."""
    none = {"locations": FEEDS["locations"][:, :0], "weights": FEEDS["weights"][:, :0]}
    assert np.asarray(cached().run(None, {**FEEDS, **none})[0]).shape == (1, 0, 8)
    empty = {"value": FEEDS["value"][:, :4], "sizes": np.array([[2, 2], [0, 3]])}
    np.testing.assert_array_equal(cached().run(None, {**FEEDS, **empty})[0], np.ones((1, 3, 8)))


def test_without_the_library_the_body_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.asarray(session().run(None, FEEDS)[0]).any()
    monkeypatch.setattr(ort, "library", lambda: None)
    assert not np.asarray(session().run(None, FEEDS)[0]).any()


def test_an_instruction_set_that_is_none_is_refused() -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("foveate.isa", "99")
    with pytest.raises(Exception, match="lacks the instruction set"):
        options.register_custom_ops_library(str(ort.library_path()))
