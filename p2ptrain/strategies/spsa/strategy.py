"""The strategy `spsa`: fine-tune together at one byte per evaluation (Spall 1992; MeZO, arXiv:2305.17333, Algorithm 1).

What it needs is imported where it is needed: most nodes run something else.
"""

import asyncio
from typing import TYPE_CHECKING

from pydantic import Field

from p2ptrain.strategies import Strategy, register
from p2ptrain.training.replica import NotSwapped, Replica, Shared

if TYPE_CHECKING:
    from p2ptrain.node import Node
    from p2ptrain.strategies.spsa.part import Part


@register("spsa")
class Spsa(Strategy):
    """Say slopes along shared noise, one byte each; all replicas are equal, bit by bit."""

    brings_weights = speaks_over_channel = True

    lr: float | None = Field(1e-3, gt=0, le=1e3)
    """The weights move by `lr` times the mean over a round's evaluations of slope * noise."""
    final_lr: float | None = Field(None, ge=0, le=1e3)
    """When given, the rate goes there linearly over `rounds`."""
    rounds: int = Field(20_000, gt=0, lt=1 << 32)
    eps: float = Field(1e-3, gt=0, le=1)
    """How far to either side the loss is measured."""
    samples: int = Field(1, gt=0, le=16)
    """Evaluations that a node makes per round; each is a step."""
    f: int | None = Field(None, ge=0)
    """So many peers may rush ahead and take nobody along; None: nearly half of them. With 0 all go on where the fastest
    is, which unequal machines that trust each other want."""
    span: int = Field(16, gt=0, le=1024)
    """Rounds that share a bound on slopes."""
    exponent: int = Field(-6, ge=-40, le=40)
    """The scale of the first two spans is 2^exponent: what a slope must be for a byte of 1. A slope in them counts as
    at most 127 times this."""
    parameters: str = ""
    """Only parameters in whose names this regular expression is found are trained: `bias$`, `^(head|norm)`; empty:
    all."""
    batch: float = Field(1.0, gt=0, le=60)
    """Seconds of which the bytes are signed together."""
    relay: float = Field(0.5, gt=0, le=60)
    """Seconds for which what neighbours are to hear is gathered: less is sooner, and costs headers."""
    audit_every: int = Field(256, gt=0)
    """Rounds between seals of the integers."""
    horizon: int = Field(4096, gt=0)
    """A byte that comes so many rounds late counts no more."""

    def shared(self, replica: Replica) -> Shared:
        return NotSwapped(replica)

    def serve(self, node: "Node") -> "Part":
        from p2ptrain.strategies.spsa.part import take_part

        return take_part(node, self)

    async def run(self, node: "Node") -> None:
        from p2ptrain.strategies.spsa.ending import Ending

        part: Part = node.service
        async with asyncio.TaskGroup() as group:
            flood = group.create_task(part.flood.run())
            await part.catch_up()
            while not node.finished:
                part.replica.advance()
                for _ in range(self.samples):
                    await part.measure(self.eps)
                await part.audit()
            await Ending(part).run()
            flood.cancel()
