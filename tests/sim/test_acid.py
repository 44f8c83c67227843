"""`strategy: acid` in virtual time: on a ring, replicas agree sooner than by plain gossip."""

import math
from typing import Any

import torch

from p2ptrain.simulation.loop import run
from p2ptrain.simulation.world import World
from p2ptrain.strategies.acid import Momentum
from p2ptrain.telemetry.events import Stamped, Stepped
from p2ptrain.topology import Topology


def topology(strategy: dict[str, Any], task: Any, count: int = 16, **run: Any) -> Topology:
    body = {
        "name": "acid", "graph": {"kind": "ring", "n": count}, "nodes": [{"count": count}], "node": {"heartbeat": 20},
        "run": {"task": task, "strategy": strategy, "codec": "fp32", "evaluate_every": 1000, **run},
        "simulation": {"step": 1.0},
    }  # fmt: skip
    return Topology.model_validate(body)


class Watched:
    """The consensus distance, sum over the nodes of |x - mean|^2, at the first event after each unit of time."""

    def __init__(self, topology: Topology, scatter_at: float | None = None) -> None:
        self.distances: dict[int, float] = {}
        self._scatter_at = scatter_at
        run(self._run(topology))

    async def _run(self, topology: Topology) -> None:
        self.world = World(topology, self._hear)
        await self.world.run(36000.0)

    def _hear(self, stamped: Stamped) -> None:
        nodes = [node.daemon for node in self.world.nodes.values() if node.daemon]
        if not isinstance(stamped.event, Stepped) or len(nodes) < len(self.world.nodes):
            return
        if self._scatter_at is not None and stamped.time >= self._scatter_at:
            self._scatter_at = None
            for index, daemon in enumerate(nodes):
                generator = torch.Generator().manual_seed(index)
                daemon.trainer.replica.load(torch.randn(daemon.trainer.replica.size, generator=generator))
        if (unit := int(stamped.time)) not in self.distances:
            vectors = torch.stack([daemon.trainer.replica.snapshot() for daemon in nodes])
            self.distances[unit] = float((vectors - vectors.mean(0)).square().sum())
        assert all(isinstance(d.trainer.replica.companion, Momentum) for d in nodes) or "acid" not in str(
            nodes[0].node.run
        )


def decay(strategy: dict[str, Any], seed: int) -> float:
    """Rate of exponential decay of the consensus distance per unit of time, from models that were thrown apart."""
    task = {"name": "quadratic", "dim": 200}
    file = topology({**strategy, "rate": 0.5, "lr": 1e-12, "merge": "none"}, task, steps=60, seed=seed)
    seen = Watched(file, scatter_at=10.0).distances
    return -math.log(seen[55] / seen[25]) / 30


def test_pure_averaging_on_a_ring_is_twice_as_fast() -> None:
    plain, accelerated = (sum(decay({"name": name}, seed) for seed in (1, 2)) for name in ("gossip", "acid"))
    assert accelerated >= 2 * plain
