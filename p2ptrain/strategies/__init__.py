"""Strategies decide when to compute, whom to talk to, and how to mix what comes back.

Each strategy is one file in this folder: one `async def run(self, node)` that reads like the paper's pseudo-code. It sees the
world only through `node`, so the same file runs on real machines and in the simulator.
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from p2ptrain.registry import Component, Registry

if TYPE_CHECKING:
    from p2ptrain.node import Node


class Strategy(Component):
    """A way of training together. The fields here say how each node trains on its own; what is None is the task's choice."""

    lr: float | None = Field(None, gt=0)
    optimizer: str | None = None
    """Any class of `torch.optim`."""
    optimizer_options: dict[str, Any] = {}
    """Passed to the optimizer, e.g. `{momentum: 0.9}`."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate over the run."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of the run over which the learning rate rises from zero."""
    clip: float | None = Field(None, gt=0)
    """Largest gradient norm."""

    async def run(self, node: "Node") -> None:
        """Train until `node.finished`. Must return soon after; is cancelled when the node drains."""
        raise NotImplementedError


registry: Registry[Strategy] = Registry("strategy", __name__)
register, make, names, get, parse = registry.register, registry.make, registry.names, registry.get, registry.parse
