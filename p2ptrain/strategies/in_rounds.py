"""What the methods that go in rounds have in common: D-PSGD, gradient tracking, exact diffusion, CDProxSGT.

In a round every node waits for the vectors of its neighbours, so the slowest sets the pace of all.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from p2ptrain.aggregators import Aggregator
from p2ptrain.codecs import Codec
from p2ptrain.errors import ConfigError
from p2ptrain.strategies import Strategy
from p2ptrain.training.replica import NotSwapped, Replica, Shared

if TYPE_CHECKING:
    from p2ptrain.node import Node


class InRounds(Strategy):
    """Base; all vectors are (d,) float64, where d is the number of parameters."""

    needs_graph = True
    num_vectors: ClassVar[int] = 1
    """How many vectors a node shows in a round, as one."""
    bears_sparse: ClassVar[bool] = False
    """Whether it will do to send a few coordinates."""

    patience: float = Field(60.0, gt=0, le=3600)
    """Seconds that a round waits for a neighbour that is alive and does not show its vector; the first one also for
    those that are not there yet."""
    merge: bool = True
    """At the end of the run every node takes the mean of all models."""

    def objection(self, codec: Codec, rule: Aggregator) -> str | None:
        if rule.name != "mean":
            return f"neighbours are averaged by the weights of the graph, and not by {rule.name}; use aggregator: mean"
        if codec.uses_memory and not self.bears_sparse:
            return f"{codec.name} sends a few coordinates of a vector, and {self.name} needs all; use fp32 or int8"
        if self.optimizer is not None or self.options:
            return f"{self.name} takes steps of its own, and no optimizer: leave optimizer and options out"
        return None

    def shared(self, replica: Replica) -> Shared:
        if replica.size != replica.num_parameters:
            raise ConfigError(f"{self.name} moves parameters only, and this model has other state (batch norm?)")
        return NotSwapped(replica, self.num_vectors)

    def serve(self, node: "Node") -> None:
        node.rounds.check()
        node.rounds.patience_s = self.patience

    async def begin(self, node: "Node") -> Tensor:
        """The model to start from, once all neighbours are there."""
        await node.rounds.together()
        return node.trainer.replica.snapshot().double()

    async def gradient(self, node: "Node", x: Tensor, instead: Tensor | None = None) -> Tensor:
        """Of the next batch, at `x`; `instead`, or zero, if it is not finite, which is said."""
        found = await node.gradient(x.float())
        if found is not None:
            return found.double()
        return torch.zeros_like(x) if instead is None else instead

    async def end(self, node: "Node", x: Tensor) -> None:
        await node.adopt(x.float())
        if self.merge:
            await node.merge()
