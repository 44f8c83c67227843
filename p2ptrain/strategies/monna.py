"""MoNNA: momentum at every node, and a robust mixing of models (Farhadkhani et al. 2023, arXiv:2303.16540, Alg. 1).

Each round: a half step with Polyak momentum on the own data, then the half-stepped model is shown to the neighbours,
and the run's rule (`nna`, as in the paper, or any other) makes the new model of the own one and of those shown.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from pydantic import Field

from p2ptrain.aggregators import Aggregator
from p2ptrain.codecs import Codec
from p2ptrain.strategies import Strategy, register

if TYPE_CHECKING:
    from p2ptrain.node import Node

LAST_S = 5.0
"""So long the last model may still be on its way to others when this node has taken its last step."""


@register("monna")
class MoNNA(Strategy):
    """Robust mixing of models after each local step; for runs in which some nodes may lie."""

    optimizer: str | None = "SGD"
    options: dict[str, Any] = Field({"momentum": 0.9, "dampening": 0.9})
    """m <- 0.9 m + 0.1 g, the momentum of the paper; it is what lets the rule tell liars from honest noise."""
    period: int = Field(1, gt=0)
    """Local steps per round."""
    fanout: int | None = Field(None, gt=0)
    """How many neighbours a node shows its model to in a round, chosen at random; None: all."""
    wait: float = Field(0.0, ge=0)
    """Seconds that a round waits for models of this round: synchronous with a deadline. 0: never, asynchronous."""
    staleness: int = Field(4, ge=0)
    """A model that came more than so many of one's own rounds ago is left out."""

    def objection(self, codec: Codec, rule: Aggregator) -> str | None:
        if codec.uses_memory:
            return f"{codec.name} sends a few coordinates of a vector, and rules need all of it; use int8 or fp16"
        return None

    async def run(self, node: "Node") -> None:
        async with asyncio.TaskGroup() as group:
            showing: set[asyncio.Task[None]] = set()
            while not node.finished:
                for _ in range(self.period):
                    await node.train()  # m_t, and x_{t+1/2} = x_t - lr m_t
                await node.offer()
                peers = self._choose(node)
                showing = {task for task in showing if not task.done()} | {group.create_task(node.show(peers))}
                await node.gathered(peers, self.wait)
                await node.combine(self.staleness)  # x_{t+1} = rule(x_{t+1/2}, the others')
            if showing:  # a slow peer made rounds without its news, and does not keep this node from ending either
                await asyncio.wait(showing, timeout=LAST_S)
            for task in showing:
                task.cancel()

    def _choose(self, node: "Node") -> list[Any]:
        peers = node.trainers()
        if self.fanout is None or self.fanout >= len(peers):
            return peers
        return node.sample(peers, self.fanout, node.rng(f"fanout-{node.step}"))
