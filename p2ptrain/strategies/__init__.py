"""Strategies decide when to compute, whom to talk to, and how to mix what comes back.

Each strategy is one file in this folder: one `async def run(self, node)` that reads like the paper's pseudo-code. It
sees the world only through `node`, so the same file runs on real machines and in the simulator.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from p2ptrain.aggregators import Aggregator
from p2ptrain.codecs import Codec
from p2ptrain.registry import Component, Registry
from p2ptrain.training.replica import Replica, Shared
from p2ptrain.training.trainer import Recipe

if TYPE_CHECKING:
    from p2ptrain.node import Node


class Strategy(Recipe, Component):
    """A way of training together. The fields of `Recipe` say how each node takes its own steps."""

    needs_graph: ClassVar[bool] = False
    """Who talks to whom is part of the method, and must be given."""

    brings_weights: ClassVar[bool] = False
    """It gets what the swarm has by itself: a newcomer need not download weights before it runs."""
    speaks_over_channel: ClassVar[bool] = False
    """It can do without calls to peers, over a `ports.Channel`."""

    @property
    def swaps_per_step(self) -> float:
        """How many swaps a node starts per training step, over the whole run; 0: it does not swap."""
        return 0.0

    def objection(self, codec: Codec, rule: Aggregator) -> str | None:
        """Why this strategy cannot run with these two, and what to write instead; None: it can."""
        return None

    def shared(self, replica: Replica) -> Shared:
        """What this node's swaps mix, made before anybody calls: the model itself, unless the method mixes another
        vector."""
        return replica

    def serve(self, node: "Node") -> Any:
        """Answer calls of the strategy's own with `node.transport`: called once, before anybody is let in. What it
        returns, if there is something to keep per node, is `node.service`. Raises `ConfigError`."""
        return None

    async def run(self, node: "Node") -> None:
        """Train until `node.finished`. Must return soon after; is cancelled when the node drains."""
        raise NotImplementedError


registry: Registry[Strategy] = Registry("strategy", __name__)
register, make, names, get, parse = registry.register, registry.make, registry.names, registry.get, registry.parse
