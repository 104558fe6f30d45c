from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest
from foveate.pipeline.tensorrt import bundle_engines
from foveate.pipeline.tensorrt.flavour import RTX, Flavour, open_flavour


@pytest.fixture(scope="session")
def rtx() -> Flavour:
    return open_flavour(RTX)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """No test sees the engines of the user's cache, or leaves some there."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FOVEATE_CACHE", str(folder))
    return folder / "engines"


@pytest.fixture(autouse=True)
def without_plugins(monkeypatch) -> None:
    """Tests see the same on machines with nvcc and without; those of plugins have a library of their own."""
    monkeypatch.setattr(bundle_engines, "load_plugins", lambda trt: ())


@pytest.fixture
def write_graph(tmp_path) -> Callable[..., Path]:
    """A model of the text of its nodes: `write_graph(["y = Relu (x)"], x="float[n, 3, 8, 8]", y="float[…]")`."""

    def write(nodes: Sequence[str], x: str, y: str, opset: int = 18) -> Path:
        text = "\n".join(nodes)
        model = onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["": {opset}]>\ngraph ({x} x) => ({y} y) {{\n{text}\n}}'
        )
        for number, node in enumerate(model.graph.node):
            node.name = f"node{number}"
        path = tmp_path / "graph.onnx"
        onnx.save(model, path)
        return path

    return write
