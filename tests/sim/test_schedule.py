"""Graphs that change during the run: everyone goes by the same one, and methods go by its rates."""

from typing import Any

import pytest
import torch

from p2ptrain.graphs import Graph
from p2ptrain.ports import PeerId
from p2ptrain.simulation.loop import run
from p2ptrain.simulation.world import World
from p2ptrain.strategies.acid import Momentum
from p2ptrain.telemetry.events import Evaluated, Exchanged, Noted, Stamped
from p2ptrain.topology import Topology

GRAPH = {"kind": "star", "n": 6, "schedule": [{"at": 0.3, "kind": "ring"}, {"at": 0.6, "kind": "complete"}]}
CONVEX = {"name": "convex", "whole": True, "condition": 10}


def topology(strategy: dict[str, Any], task: Any, graph: dict[str, Any] = GRAPH, **more: Any) -> Topology:
    body = {
        "name": "schedule", "graph": graph, "nodes": [{"count": 6}], "node": {"heartbeat": 5},
        "simulation": {"step": 1.0}, **more,
    }  # fmt: skip
    settings = {"task": task, "strategy": strategy, "codec": "fp32", "evaluate_every": 1000, **more.get("run", {})}
    return Topology.model_validate({**body, "run": settings})


class Seen:
    """Runs a topology and remembers every event, with the epoch in which its node was."""

    def __init__(self, topology: Topology) -> None:
        self.log: list[tuple[Stamped, int]] = []
        self.graph = topology.graph
        run(self._run(topology))

    async def _run(self, topology: Topology) -> None:
        self.world = World(topology, self._hear)
        await self.world.run(36000.0)

    def _hear(self, stamped: Stamped) -> None:
        daemon = self.world.nodes[stamped.node].daemon if stamped.node else None
        self.log.append((stamped, daemon.node.epoch if daemon else 0))

    def epochs(self) -> list[Graph]:
        assert self.graph
        return self.graph.epochs

    def exchanges(self) -> list[tuple[int, int, int]]:
        """(epoch, slot, the other's slot) of each, as who started it saw it."""
        found = []
        for stamped, epoch in self.log:
            if isinstance(stamped.event, Exchanged) and stamped.event.initiated:
                nodes = self.world.nodes[stamped.node], self.world.node_of(stamped.event.peer)
                found.append((epoch, *(node.file.node.slot for node in nodes)))
        return found

    def changes(self) -> dict[str, list[float]]:
        """When each node went over to another graph."""
        found: dict[str, list[float]] = {}
        for stamped, _ in self.log:
            if isinstance(stamped.event, Noted) and "from now on the graph is" in stamped.event.message:
                found.setdefault(stamped.node, []).append(stamped.time)
        return found


@pytest.mark.parametrize("name", ["gossip", "acid"])
def test_exchanges_are_with_the_epoch_s_neighbours(name: str) -> None:
    seen = Seen(topology({"name": name, "rate": 1}, {"name": "quadratic", "dim": 20}, run={"steps": 60}))
    pairs = [
        {pair for epoch, *pair_ in seen.exchanges() for pair in [tuple(sorted(pair_))] if epoch == at}
        for at in range(3)
    ]
    for graph, used in zip(seen.epochs(), pairs, strict=True):
        assert used <= set(graph.edges)
    assert pairs[0] == set(seen.epochs()[0].edges)
    assert len(pairs[1]) >= 5
    assert len(pairs[2] - pairs[0] - pairs[1]) >= 3


def test_acid_goes_by_the_constants_of_the_graph_of_now() -> None:
    paces: dict[int, set[tuple[float, float]]] = {}

    class Watched(Seen):
        def _hear(self, stamped: Stamped) -> None:
            super()._hear(stamped)
            daemon = self.world.nodes[stamped.node].daemon if stamped.node else None
            if daemon and daemon.node.step > 5:
                momentum = daemon.trainer.replica.companion
                assert isinstance(momentum, Momentum)
                paces.setdefault(daemon.node.step * 10 // 50, set()).add(
                    (momentum.pace.constants.alpha_tilde, momentum.pace.rate)
                )

    Watched(topology({"name": "acid", "rate": 0.5}, {"name": "quadratic", "dim": 20}, run={"steps": 50}))
    star, ring, complete = (paces[at] for at in (2, 5, 8))
    assert {round(rate, 9) for _, rate in star} == {3.0, 0.6}  # the hub, which everyone calls, and the others
    assert {round(rate, 9) for _, rate in ring | complete} == {1.0}
    assert {round(alpha, 9) for alpha, _ in complete} == {0.5}
    assert len({alpha for alpha, _ in ring}) == 1
    assert min(alpha for alpha, _ in ring) > 0.6


class Books(Seen):
    """Looks at the accounts whenever a node evaluates."""

    def __init__(self, topology: Topology) -> None:
        self.open: list[set[tuple[int, int]]] = []
        """Between whom there was one."""
        self.worst = 0.0
        super().__init__(topology)

    def _hear(self, stamped: Stamped) -> None:
        super()._hear(stamped)
        nodes = [node for node in self.world.nodes.values() if node.daemon]
        if isinstance(stamped.event, Evaluated) and len(nodes) == 4:
            cells: dict[str, Any] = {node.peer: node.daemon.exchanger.shared for node in nodes if node.daemon}
            slots = {node.peer: node.file.node.slot for node in nodes}
            accounts = {
                (one, PeerId(other)): account for one in cells for other, account in cells[one].accounts.items()
            }
            self.open.append({(slots[PeerId(one)], slots[other]) for one, other in accounts})
            for (one, other), mine in accounts.items():
                theirs = accounts[other, PeerId(one)]
                if mine.last == theirs.last:  # else one side has yet to hear that the last exchange counts
                    self.worst = max(self.worst, float(torch.dist(mine.moved, -theirs.moved)))


def test_dadao_finds_the_optimum_over_epochs_and_keeps_no_account_of_an_edge_that_is_gone() -> None:
    graph = {"kind": "star", "n": 4, "schedule": [{"at": 0.25, "kind": "ring"}]}
    more = {"run": {"steps": 200, "data": {"split": "by-label"}, "evaluate_every": 20}, "simulation": {"step": 0.1}}
    strategy = {"name": "dadao", "unit": 1.0}
    seen = Books(topology(strategy, {**CONVEX, "condition": 4}, graph, nodes=[{"count": 4}], **more))
    gaps = {stamped.node: stamped.event.gap or 0 for stamped, _ in seen.log if isinstance(stamped.event, Evaluated)}
    assert max(gaps.values()) < 1e-6
    assert seen.worst < 1e-11
    assert {(0, 2), (2, 0)} <= seen.open[10]
    assert {(1, 2), (2, 1)} <= seen.open[-1]
    assert not {(0, 2), (2, 0)} & seen.open[-1]


def test_who_is_slow_or_late_goes_by_the_graph_of_the_others() -> None:
    """Node 4 takes a quarter of the steps, node 5 comes when the others are in the second epoch."""
    nodes = [
        {"count": 4, "device": "rtx3060"},
        {"count": 1, "device": "macbook-m2"},
        {"device": "rtx3060", "starts": 50},
    ]
    task = {"name": "quadratic", "dim": 20}
    seen = Seen(topology({"name": "gossip", "rate": 1}, task, run={"steps": 100}, nodes=nodes))
    changes = seen.changes()
    assert len(changes) == 6
    late = changes.pop("node-5")
    assert 50 < late[0] < 51
    for first, second in [*changes.values(), (30.0, late[1])]:
        assert 29 < first < 34.5
        assert 59 < second < 64.5  # in the middle of a step of four seconds nobody looks


class Boasting(Seen):
    """Node 3 says after five steps that it is further than there are epochs."""

    def _hear(self, stamped: Stamped) -> None:
        super()._hear(stamped)
        daemon = self.world.nodes["node-3"].daemon
        if daemon and daemon.node.step == 5:
            daemon.membership.set_epoch(4_000_000_000)


def test_an_epoch_that_there_is_not_means_the_last_one() -> None:
    seen = Boasting(topology({"name": "gossip", "rate": 1}, {"name": "quadratic", "dim": 20}, run={"steps": 20}))
    assert {stamped.time < 8 for stamped, epoch in seen.log if epoch == 2} == {True, False}
    assert max(epoch for _, epoch in seen.log) == 2


def test_where_the_rule_bears_a_liar_one_alone_does_not_change_the_graph() -> None:
    run_ = {"steps": 40, "aggregator": {"name": "nna", "f": 1}}
    graph = {"kind": "complete", "n": 6, "schedule": [{"at": 0.5, "kind": "ring"}]}
    seen = Boasting(topology({"name": "monna"}, {"name": "quadratic", "dim": 20}, graph, run=run_))
    changes = seen.changes()
    assert len(changes) >= 5
    assert all(19 < time < 24 for name, (time,) in changes.items() if name != "node-3"), changes
