"""Asynchronous pairwise gossip: AD-PSGD (Lian et al. 2018, arXiv:1710.06952, Algorithm 1).

Training and gossip run beside each other and never wait for one another. A gossip event averages this node's replica
with one random peer's; gradients are computed on the replica as it was and applied to the replica as it is.
"""

import asyncio
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from p2ptrain.aggregators import Aggregator
from p2ptrain.codecs import Codec
from p2ptrain.errors import PeerBusy, PeerError
from p2ptrain.strategies import Strategy, register

if TYPE_CHECKING:
    from p2ptrain.node import Node


@register("gossip")
class Gossip(Strategy):
    """Average with random peers while training."""

    rate: float = Field(0.25, gt=0, le=64)
    """Gossip events that this node starts per training step."""
    final_rate: float | None = Field(None, gt=0, le=64)
    """When given, the rate goes from `rate` to this linearly over the run: a communication schedule."""
    clock: Literal["poisson", "regular"] = "poisson"
    """Gaps between gossip events: exponential, or all equal."""
    gossip_steps: int = Field(1, gt=0, le=64)
    """Pairwise averagings per gossip event (multiple gossip steps, MGS)."""
    merge: Literal["none", "mean", "variance-corrected"] = "mean"
    """At the end of the run every node takes the mean of all replicas, optionally with each tensor's variance
    restored."""

    @property
    def swaps_per_step(self) -> float:
        return self.gossip_steps * (self._rate(0.0) + self._rate(1.0)) / 2

    def objection(self, codec: Codec, rule: Aggregator) -> str | None:
        if rule.min_received > 1:
            needed = f"{rule.name} needs {rule.min_received} vectors at a time, and a swap brings one"
            return f"{needed}; use the strategy monna, or a rule such as self-clip with a tau"
        return None

    async def run(self, node: "Node") -> None:
        async with asyncio.TaskGroup() as group:
            gossip = group.create_task(self._gossip(node))
            while not node.finished:
                await node.train()
            gossip.cancel()
        if self.merge != "none":
            await node.merge(restore_variance=self.merge == "variance-corrected")

    async def _gossip(self, node: "Node") -> None:
        rng = node.rng("gossip")
        due = 0.0
        while True:
            rate = self._rate(node.progress)
            # A slow link makes events late; those that are late by more than a gap, or a step, are dropped.
            due = max(due, node.step - max(1.0, 1 / rate))
            due += rng.expovariate(rate) if self.clock == "poisson" else 1 / rate
            await node.reached(due)
            for _ in range(self.gossip_steps):
                while not await self._average(node):
                    await node.reached(node.step + 1)

    async def _average(self, node: "Node") -> bool:
        """Swap with a random peer; one that is busy is replaced by another, each asked once. False: all are busy, or
        this node is, which is answering a swap."""
        tried: set[str] = set()
        while peer := node.pick(without=tried):
            try:
                await node.swap(peer)
                return True
            except PeerBusy:
                tried.add(peer)
            except PeerError:
                return True  # counted and logged by the exchange; the next event is soon enough
        return not tried

    def _rate(self, progress: float) -> float:
        end = self.rate if self.final_rate is None else self.final_rate
        return self.rate + (end - self.rate) * progress
