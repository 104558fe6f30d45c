"""What importing needs, and what happens to a model in other processes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from foveate.runtime import Model, load

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked here")
sys.meta_path.insert(0, Block())
"""


def run_python(code: str, *arguments: str, blocked: tuple[str, ...]) -> str:
    command = [sys.executable, "-c", BLOCK.format(blocked=blocked) + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_runtime_needs_numpy_alone():
    """Whatever is in it, but for the engines of backend torch."""
    code = """
import pkgutil, importlib
import foveate, foveate.runtime
from foveate.runtime import load, Model, Result, FoveateError, measure
for module in pkgutil.walk_packages(foveate.runtime.__path__, "foveate.runtime."):
    if not module.name.startswith(("foveate.runtime.backends.torch", "foveate.runtime.onnx_torch")):
        importlib.import_module(module.name)
allowed = set(sys.stdlib_module_names) | {"numpy", "foveate", "__main__"}
found = {name.partition(".")[0] for name in sys.modules} - allowed
print(sorted(name for name in found if not name.startswith(("_", "sitecustomize"))))
"""
    blocked = ("torch", "onnx", "onnxruntime", "onnxscript", "timm", "PIL", "matplotlib", "rich")
    assert run_python(code, blocked=blocked).strip() == "[]"


def test_running_a_bundle_needs_no_torch_and_no_onnx(handmade: Path):
    code = """
import foveate, numpy as np
with foveate.load(sys.argv[1], threads=1, strategy="rects") as model:
    image = np.zeros((1, 4, 64, 64), np.float32)
    image[0, 3, 20:30, 20:30] = 1
    print(model(image).strategies["region0"], abs(model(image)["d"] - model.dense(image)["d"]).max() < 1e-5)
"""
    found = run_python(code, str(handmade), blocked=("torch", "onnx", "onnxscript", "PIL"))
    assert found.strip() == "('rects',) True"


def test_a_missing_onnxruntime_is_named(handmade: Path):
    code = """
import foveate
try:
    foveate.load(sys.argv[1])
except foveate.FoveateError as error:
    print(error)
"""
    found = run_python(code, str(handmade), blocked=("onnxruntime",))
    assert "pip install 'foveate[cpu]'" in found


def _answer(model: Model, image: np.ndarray, queue: multiprocessing.Queue) -> None:
    queue.put(model(image)["d"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_opens_its_own_engines(handmade: Path, make_image: Callable[..., np.ndarray]):
    image = make_image(np.eye(64, dtype=bool))
    with load(handmade, threads=2, strategy="rects") as model:
        expected = model(image)["d"]
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        with model._lock:  # as another thread might hold it
            child = context.Process(target=_answer, args=(model, image, queue))
            child.start()
        found = queue.get(timeout=60)
        child.join(60)
        assert child.exitcode == 0
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(model(image)["d"], expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_never_waits_for_its_parents_threads(handmade: Path):
    """Neither when it closes its model nor when it collects garbage. It ends as multiprocessing's children do: the exit
    handlers of onnxruntime itself hang in a forked child, whether a session was ever opened or not."""
    code = """
import gc, os, foveate, numpy as np
model = foveate.load(sys.argv[1], threads=2, strategy="rects")
image = np.ones((1, 4, 64, 64), np.float32)
model(image)
child = os.fork()
if child == 0:
    model(image)
    model.close()
    del model
    gc.collect()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(code, str(handmade), blocked=()).strip() == "7"


def test_a_spawned_child_gets_path_and_options(handmade: Path, make_image: Callable[..., np.ndarray]):
    """Pickling is what spawn does with a model; the child runs in an interpreter of its own."""
    import pickle

    with load(handmade, threads=1, strategy="rects", choices={"gain": 2.0}) as model:
        data = pickle.dumps(model)
        image = make_image(np.eye(64, dtype=bool))
        expected = float(model(image)["d"].sum())
    code = """
import pickle, numpy as np
image = np.load(sys.argv[2])
with pickle.loads(bytes.fromhex(sys.argv[1])) as model:
    print(model.choices["gain"], float(model(image)["d"].sum()))
"""
    path = handmade.parent / "image.npy"
    np.save(path, image)
    gain, total = run_python(code, data.hex(), str(path), blocked=("torch",)).split()
    assert float(gain) == 2.0 and float(total) == pytest.approx(expected, rel=1e-6)
