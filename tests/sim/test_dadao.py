"""`strategy: dadao` in virtual time: the exact optimum, whatever happens to nodes and links."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from p2ptrain.ports import PeerId
from p2ptrain.simulation.loop import run
from p2ptrain.simulation.world import World
from p2ptrain.strategies.dadao.cell import Cell
from p2ptrain.telemetry.events import Evaluated, Exchanged, Noted, Stamped, Stopped
from p2ptrain.topology import Topology

TASK = {"name": "convex", "whole": True, "condition": 10}
STRATEGY = {"name": "dadao", "unit": 1.0}
RUN = {
    "task": TASK, "strategy": STRATEGY, "codec": "fp32", "data": {"split": "by-label"}, "steps": 350,
    "evaluate_every": 20,
}  # fmt: skip

UNEQUAL = {
    "nodes": [{"count": 3, "device": "rtx3060"}, {"count": 1, "device": "macbook-m2"}],
    "simulation": {"step": 1},
}


def topology(*faults: dict[str, Any], count: int = 4, **more: Any) -> Topology:
    body = {
        "name": "dadao", "run": {**RUN, **more.pop("run", {})}, "graph": {"kind": "ring", "n": count},
        "nodes": [{"count": count}], "node": {"heartbeat": 5}, "simulation": {"step": 0.1},
    }  # fmt: skip
    return Topology.model_validate({**body, "faults": faults, **more})


class Seen:
    """Runs a topology, remembers every event, and looks at all accounts at each."""

    def __init__(self, topology: Topology) -> None:
        self.log: list[Stamped] = []
        self.worst_imbalance = 0.0
        self.num_compared = 0
        run(self._run(topology))

    async def _run(self, topology: Topology) -> None:
        self.world = World(topology, self._hear)
        await self.world.run(36000.0)

    def _hear(self, stamped: Stamped) -> None:
        self.log.append(stamped)
        if isinstance(stamped.event, Exchanged):
            by_peer = {node.peer: node for node in self.world.nodes.values()}
            one, other = self.world.nodes[stamped.node], by_peer[PeerId(stamped.event.peer)]
            cell, its = (node.daemon and node.daemon.exchanger.shared for node in (one, other))
            if isinstance(cell, Cell) and isinstance(its, Cell):
                self._check_own(cell)
                self._compare(cell, other.peer, its, one.peer)

    def _check_own(self, cell: Cell) -> None:
        """What exchanges have added is what is in the accounts."""
        assert cell.state is not None
        added = sum((account.moved for account in cell.accounts.values()), torch.zeros(cell.size).double())
        held = cell.state.z + 2 * cell.state.z_tilde
        assert torch.dist(added, held) <= 1e-9 * (1 + float(held.norm()))

    def _compare(self, cell: Cell, other: str, its: Cell, one: str) -> None:
        mine, theirs = cell.accounts.get(other), its.accounts.get(one)
        if mine and theirs and mine.last == theirs.last:
            self.num_compared += 1
            size = 1 + float(mine.moved.norm())
            self.worst_imbalance = max(self.worst_imbalance, float(torch.dist(mine.moved, -theirs.moved)) / size)

    def gaps(self) -> dict[str, float]:
        """Each node's last one."""
        return {stamped.node: stamped.event.gap or 0 for stamped in self.log if isinstance(stamped.event, Evaluated)}

    def notes(self) -> list[str]:
        return [stamped.event.message for stamped in self.log if isinstance(stamped.event, Noted)]


def test_all_nodes_find_the_optimum_though_each_has_one_kind_of_data() -> None:
    seen = Seen(topology())
    assert max(seen.gaps().values()) < 1e-6
    assert len({stamped.event.digest for stamped in seen.log if isinstance(stamped.event, Stopped)}) == 1
    assert seen.num_compared > 1000
    assert seen.worst_imbalance < 1e-12
    assert not [note for note in seen.notes() if "counts other exchanges" in note]


@pytest.mark.parametrize(
    ("faults", "more"),
    [
        ([], {"links": {"default": {"latency": "100ms"}}, "run": {"strategy": {**STRATEGY, "unit": 3.0}}}),
        ([], {"run": {"strategy": {**STRATEGY, "clock": "wall"}}}),
        ([], {"run": {"strategy": {**STRATEGY, "rates": "optimal"}}}),
        ([], {**UNEQUAL, "run": {"steps": None, "seconds": 400}}),
        ([{"at": 40, "pause": "node-1", "for": 30}], {}),
        ([{"at": 40, "partition": [["node-0", "node-1"], ["node-2", "node-3"]], "for": 40}], {}),
        ([{"at": 40, "kill": "node-2", "for": 30}], {}),
        ([{"at": 10 + 7 * turn, "reset": {"from": "node-0", "to": "node-1"}} for turn in range(40)], {}),
    ],
    ids=["latency", "wall", "optimal", "slow node", "pause", "partition", "kill", "cut connections"],
)  # fmt: skip
def test_and_whatever_happens_meanwhile(faults: list[dict[str, Any]], more: dict[str, Any]) -> None:
    seen = Seen(topology(*faults, **more))
    assert max(seen.gaps().values()) < 1e-6
    assert seen.worst_imbalance < 1e-12


def test_quantised_exchanges_cancel_too() -> None:
    seen = Seen(topology(run={"codec": "int8"}))
    assert max(seen.gaps().values()) < 1e-5
    assert seen.worst_imbalance < 1e-12


def test_a_loss_that_is_steeper_than_was_said_is_noticed() -> None:
    """L is thirty times too small: models are thrown far away, and begin again with half the step."""
    said = {"smoothness": 0.1, "convexity": 0.05}
    seen = Seen(topology(count=3, run={"strategy": {**STRATEGY, **said}, "steps": 600}))
    assert any("diverged" in note for note in seen.notes())
    assert max(seen.gaps().values()) < 1


def test_what_cannot_be_is_refused_before_the_run() -> None:
    with pytest.raises(ValidationError, match="needs a graph"):
        topology(graph=None)
    with pytest.raises(ValidationError, match="must cancel"):
        topology(run={"aggregator": {"name": "nna", "f": 1}})
    with pytest.raises(ValidationError, match="needs all of it"):
        topology(run={"codec": "topk"})
