"""Exits without engines: which images a stage runs on, and that each has what it would have alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from foveate.runtime.errors import DecisionError, InputError
from foveate.runtime.exit_costs import ExitCosts, shapes_of
from foveate.runtime.exits import Tensors, check_depths, run_exits, run_paths
from foveate.runtime.layouts import choose_layout, shallow_and_deep, time_layouts
from foveate.runtime.manifest import DenseSegment, ExitChain, ExitPaths, ExitStage, ExitStep, Manifest
from hypothesis import given
from hypothesis import strategies as st

EXITS = (1, 2, 4, 5)
STAGES = tuple(
    ExitStage(exit, f"{exit}", (f"t{EXITS[i]}", "where"), (f"t{exit}",)) for i, exit in enumerate(EXITS[1:])
)
CHAIN = ExitChain("exits", "gate", "depth", "scores", "", 1, "t1", "chosen", STAGES)
PATHS = ExitPaths(
    "exits",
    "gate",
    "depth",
    "scores",
    "",
    tuple(ExitStage(exit, f"{exit}", ("t1", "where", "place"), ("y",)) for exit in EXITS),
    ("place",),
)
MANIFEST = Manifest("exits", (), (), (), (CHAIN,), layouts={"if": (DenseSegment("all", "all", (), ()),)})

depths = st.lists(st.sampled_from(EXITS), min_size=1, max_size=9)


def tensors(depth: list[int]) -> Tensors:
    rng = np.random.default_rng(0)
    shape = len(depth), 3
    given = {"t1": rng.standard_normal(shape), "where": rng.standard_normal(shape), "place": np.ones((1, 3))}
    return {**given, "depth": np.array(depth), "scores": np.zeros((len(depth), len(EXITS)))}


def layers(first: int, last: int, x: np.ndarray, where: np.ndarray) -> np.ndarray:
    """No two layers do the same, so that none can stand for another."""
    for layer in range(first + 1, last + 1):
        x = x * layer + where
    return x


class Runner:
    """Runs stages, and counts their images."""

    def __init__(self) -> None:
        self.images: dict[int, int] = {}

    def stage(self, stage: ExitStage, held: Tensors) -> Tensors:
        before = EXITS[EXITS.index(stage.exit) - 1]
        x, where = (held[name] for name in stage.inputs)
        self.images[stage.exit] = len(x)
        return {stage.outputs[0]: layers(before, stage.exit, x, where)}

    def path(self, path: ExitStage, held: Tensors) -> Tensors:
        self.images[path.exit] = len(held["t1"])
        return {"y": layers(1, path.exit, held["t1"], held["where"]) * held["place"]}


def wanted(depth: list[int]) -> np.ndarray:
    held = tensors(depth)
    return np.stack([layers(1, d, held["t1"][i], held["where"][i]) for i, d in enumerate(depth)])


def exits(depth: list[int], runner: Runner, costs: ExitCosts | None = None) -> np.ndarray:
    given = tensors(depth)
    decided = check_depths(CHAIN, given)
    return run_exits(CHAIN, decided, given, runner.stage, costs=costs)


def paths(depth: list[int], runner: Runner) -> Tensors:
    given = tensors(depth)
    return run_paths(PATHS, check_depths(PATHS, given), given, runner.path)


class Never(ExitCosts):
    """Finds no division worth its price."""

    def division_pays(
        self, stage: ExitStage, held: Mapping[str, np.ndarray], leaving: int, copied: int
    ) -> bool:
        return False


@given(depths)
def test_each_image_has_what_it_has_alone(depth: list[int]):
    for costs in (ExitCosts(), Never()):
        found = exits(depth, Runner(), costs)
        np.testing.assert_array_equal(found, wanted(depth))
    found = paths(depth, Runner())["y"]
    np.testing.assert_array_equal(found, wanted(depth))


@given(depths)
def test_a_stage_runs_on_those_that_need_it(depth: list[int]):
    runner = Runner()
    exits(depth, runner)
    need = {exit: sum(d >= exit for d in depth) for exit in EXITS[1:]}
    assert runner.images == {exit: count for exit, count in need.items() if count}
    runner = Runner()
    paths(depth, runner)
    assert runner.images == {exit: depth.count(exit) for exit in set(depth)}


def test_images_run_along_where_taking_them_out_costs_more():
    runner = Runner()
    exits([1, 4, 2, 5], runner, Never())
    assert runner.images == {2: 4, 4: 4, 5: 4}


def test_a_division_pays_by_what_was_measured():
    costs, held = ExitCosts(), {"t1": np.zeros((8, 3)), "where": np.zeros((8, 3))}
    assert costs.division_pays(STAGES[0], held, 1, 10**9)  # nothing is known of the stage
    costs.saw_stage(STAGES[0], shapes_of(STAGES[0], held), 16.0)
    costs.saw_stage(STAGES[0], shapes_of(STAGES[0], held), 8.0)
    costs.saw_division(10**6, 0.1)
    assert costs.division_pays(STAGES[0], held, 2, 18 * 10**6)
    assert not costs.division_pays(STAGES[0], held, 2, 21 * 10**6)
    larger = {"t1": np.zeros((8, 4)), "where": np.zeros((8, 4))}
    assert costs.division_pays(STAGES[0], larger, 2, 21 * 10**6)  # nor of this size


@pytest.mark.parametrize("step", [CHAIN, PATHS])
def test_a_depth_that_is_no_exit(step: ExitStep):
    with pytest.raises(DecisionError, match="image 1"):
        check_depths(step, tensors([2, 3, 4]))


def test_the_fastest_layout_is_chosen_where_it_was_measured():
    assert choose_layout(MANIFEST, None, {}) == "chain"
    assert choose_layout(MANIFEST, "auto", {"chain": 10.0, "if": 9.0}) == "if"
    assert choose_layout(MANIFEST, "auto", {"chain": 10.0, "if": 9.9}) == "chain"  # which has other virtues
    assert choose_layout(MANIFEST, "if", {"chain": 10.0, "if": 11.0}) == "if"
    with pytest.raises(InputError, match="Did you mean 'chain'"):
        choose_layout(MANIFEST, "chian", {})
    with pytest.raises(InputError, match="one of auto, chain, if"):
        choose_layout(MANIFEST, "per-depth", {})


def test_layouts_are_timed_at_the_first_exit_and_the_last():
    assert shallow_and_deep(MANIFEST) == [{"gate.offset": [1e6, 0, 0, 0]}, {"gate.offset": [0, 0, 0, 1e6]}]
    calls: list[str] = []
    runs = {name: [lambda name=name: calls.append(name)] * 2 for name in ("chain", "if")}
    assert set(time_layouts(runs, float("inf"))) == {"chain", "if"}
    assert calls[:4] == ["chain", "chain", "if", "if"] and calls.count("if") == calls.count("chain")
    assert time_layouts(runs, 0.0) == {}
