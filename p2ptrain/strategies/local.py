"""No communication: the reference that every way of training together must beat."""

from typing import TYPE_CHECKING

from p2ptrain.strategies import Strategy, register

if TYPE_CHECKING:
    from p2ptrain.node import Node


@register("local")
class Local(Strategy):
    """Train alone on this node's own shard."""

    async def run(self, node: "Node") -> None:
        while not node.finished:
            await node.train()
