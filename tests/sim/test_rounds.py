"""Methods that go in rounds, in virtual time: where they end, and what becomes of them when nodes and links fail."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from p2ptrain.simulation.loop import run
from p2ptrain.simulation.world import World
from p2ptrain.telemetry.events import Evaluated, Finished, Rejected, Stamped, Stopped
from p2ptrain.topology import Topology
from p2ptrain.training.splits import examples

COUNT = 5
DIFFUSION = {"name": "exact-diffusion", "lr": 0.3}
TRACKING = {"name": "gradient-tracking", "lr": 0.15}
DPSGD = {"name": "dpsgd", "lr": 0.3}
COMPRESSED = {"name": "cdproxsgt", "lr": 0.15, "gamma": 1.0}


def topology(strategy: dict[str, Any], *faults: dict[str, Any], steps: int, **settings: Any) -> Topology:
    task = {"name": "convex", "whole": True, "condition": 4}
    body = {
        "name": "rounds", "graph": {"kind": "ring", "n": COUNT}, "nodes": [{"count": COUNT}], "node": {"heartbeat": 3},
        "run": {
            "task": task, "strategy": strategy, "codec": "fp32", "data": {"split": "by-label"}, "steps": steps,
            "evaluate_every": 10, **settings,
        },
        "simulation": {"step": 1.0}, "faults": faults,
    }  # fmt: skip
    return Topology.model_validate(body)


class Seen:
    """Runs a topology; remembers every event, and each node's last replica."""

    def __init__(self, topology: Topology) -> None:
        self.log: list[Stamped] = []
        self.models: dict[str, np.ndarray] = {}
        run(self._run(topology))

    async def _run(self, topology: Topology) -> None:
        self.world = World(topology, self._hear)
        await self.world.run(3600.0)

    def _hear(self, stamped: Stamped) -> None:
        self.log.append(stamped)
        if isinstance(stamped.event, Evaluated | Finished) and (daemon := self.world.nodes[stamped.node].daemon):
            self.models[stamped.node] = daemon.trainer.replica.snapshot().double().numpy()

    def gap(self) -> float:
        """The worst node's last one."""
        gaps = {stamped.node: stamped.event.gap or 0 for stamped in self.log if isinstance(stamped.event, Evaluated)}
        return max(gaps.values())

    def count(self, kind: type) -> int:
        return sum(isinstance(stamped.event, kind) for stamped in self.log)

    def slope(self, names: list[str]) -> float:
        """Of these nodes' losses together, over that of one of them: at the model that they have ended with."""
        daemons = [self.world.nodes[name].file for name in names]
        task, shards = daemons[0].run.task, len(self.world.nodes)
        parts = [examples(task.labels(), file.run.data, shards, file.node.slot, file.run.seed) for file in daemons]
        slopes = [task.objective(part, shards).gradient(self.models[names[0]]) for part in parts]  # type: ignore[attr-defined]
        return float(np.linalg.norm(np.mean(slopes, 0)) / np.linalg.norm(slopes[0]))


@pytest.mark.parametrize(
    ("strategy", "steps", "codec"),
    [
        (DIFFUSION, 25, "fp32"),
        (TRACKING, 60, "fp32"),
        (COMPRESSED, 50, "int4"),
        ({**COMPRESSED, "gamma": 0.5}, 60, {"name": "topk", "ratio": 0.5}),
    ],
    ids=["diffusion", "tracking", "int4", "topk"],
)
def test_exact_methods_find_the_optimum_though_each_node_has_one_kind_of_data(
    strategy: dict[str, Any], steps: int, codec: Any
) -> None:
    seen = Seen(topology(strategy, steps=steps, codec=codec))
    assert seen.gap() < 1e-6
    assert len({stamped.event.digest for stamped in seen.log if isinstance(stamped.event, Stopped)}) == 1
    assert not seen.count(Rejected)


def test_dpsgd_does_not() -> None:
    seen = Seen(topology({**DPSGD, "merge": False}, steps=50))
    gaps = [stamped.event.gap or 0 for stamped in seen.log if isinstance(stamped.event, Evaluated)]
    assert 1e-4 < seen.gap() < 0.1
    assert max(gaps[-COUNT:]) > 0.9 * max(gaps[-3 * COUNT : -2 * COUNT]), "that is where it stays"


@pytest.mark.parametrize(
    ("strategy", "fault", "steps"),
    [
        (DIFFUSION, {"at": 10, "kill": "node-2", "for": 15}, 40),
        (DIFFUSION, {"at": 10, "partition": ["node-0..node-2", "node-3..node-4"], "for": 15}, 50),
        (TRACKING, {"at": 10, "kill": "node-2", "for": 15}, 60),
    ],
    ids=["kill", "partition", "tracking"],
)  # fmt: skip
def test_after_faults_it_is_still_the_optimum_of_all(
    strategy: dict[str, Any], fault: dict[str, Any], steps: int
) -> None:
    seen = Seen(topology(strategy, fault, steps=steps))
    assert seen.gap() < 1e-6
    assert seen.log[-1].time < fault["at"] + fault["for"] + steps + 20


def test_who_comes_back_in_another_round_than_its_neighbours_does_not_hold_them_up() -> None:
    """One of them has missed it and gone on, the other has not yet."""
    body = topology(DIFFUSION, {"at": 1, "kill": "node-3", "for": 3}, steps=30).model_dump(mode="json")
    body["node"]["heartbeat"], body["simulation"]["step"] = 1, 0.05
    seen = Seen(Topology.model_validate(body))
    assert seen.log[-1].time < 10
    assert seen.gap() < 1e-6


@pytest.mark.parametrize("strategy", [DIFFUSION, TRACKING, DPSGD, COMPRESSED], ids=lambda strategy: strategy["name"])
def test_those_who_are_left_go_on_without_a_dead_one(strategy: dict[str, Any]) -> None:
    steps = 50 if strategy is DIFFUSION else 25
    seen = Seen(topology(strategy, {"at": 10, "kill": "node-2"}, steps=steps))
    left = [f"node-{slot}" for slot in range(COUNT) if slot != 2]
    assert sorted(stamped.node for stamped in seen.log if isinstance(stamped.event, Finished)) == left
    assert seen.log[-1].time < steps + 30
    if strategy is DIFFUSION:
        assert seen.slope(left) < 1e-3, "the optimum of those who are left"
        assert seen.slope([*left, "node-2"]) > 1e-2


def test_connections_that_break_cost_no_round() -> None:
    faults = [{"at": 5 + 3 * turn, "reset": {"from": "node-0", "to": "node-1"}} for turn in range(5)]
    seen = Seen(topology(DIFFUSION, *faults, steps=25))
    assert seen.gap() < 1e-6
    assert seen.log[-1].time < 30


def test_a_graph_that_changes() -> None:
    body = topology(DIFFUSION, steps=40).model_dump(mode="json")
    body["graph"]["schedule"] = [{"at": 0.2, "kind": "star"}, {"at": 0.4, "kind": "complete"}]
    assert Seen(Topology.model_validate(body)).gap() < 1e-6


def test_what_cannot_be_is_refused_before_the_run() -> None:
    with pytest.raises(ValidationError, match="use aggregator: mean"):
        topology(DPSGD, steps=5, aggregator={"name": "nna", "f": 1})
    with pytest.raises(ValidationError, match="dpsgd needs all; use fp32"):
        topology(DPSGD, steps=5, codec="topk")
    with pytest.raises(ValidationError, match="leave optimizer and options out"):
        topology({**TRACKING, "optimizer": "Adam"}, steps=5)
    with pytest.raises(ValidationError, match="exact-diffusion needs a graph"):
        Topology.model_validate({"run": {"task": "digits", "strategy": "exact-diffusion", "steps": 5}})
    assert topology(COMPRESSED, steps=5, codec="topk")
