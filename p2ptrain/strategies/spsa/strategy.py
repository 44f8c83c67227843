"""The strategy `spsa`: fine-tune together at one byte per evaluation."""

import asyncio
from typing import TYPE_CHECKING

from pydantic import Field

from p2ptrain.errors import CheckpointError, ConfigError
from p2ptrain.strategies import Strategy, register
from p2ptrain.strategies.spsa.flood import Flood
from p2ptrain.strategies.spsa.lattice import Lattice
from p2ptrain.strategies.spsa.part import Part
from p2ptrain.strategies.spsa.replica import Credentials, Replica
from p2ptrain.strategies.spsa.roster import Roster, slot_of
from p2ptrain.strategies.spsa.rule import EXPONENT_MAX, Rule, key_of
from p2ptrain.strategies.spsa.selection import of_parameters
from p2ptrain.strategies.spsa.working import NotSwapped, Working
from p2ptrain.training.replica import Replica as Flat
from p2ptrain.training.replica import Shared

if TYPE_CHECKING:
    from p2ptrain.node import Node


@register("spsa")
class Spsa(Strategy):
    """Say slopes along shared noise, one byte each; everyone applies everyone's, and all replicas are equal bit by
    bit."""

    lr: float | None = Field(1e-3, gt=0, le=1e3)
    """The weights move by `lr` times the mean over a round's evaluations of slope * noise."""
    final_lr: float | None = Field(None, ge=0, le=1e3)
    """When given, the rate goes there linearly over `rounds`."""
    rounds: int = Field(20_000, gt=0, lt=1 << 32)
    eps: float = Field(1e-3, gt=0, le=1)
    """How far to either side the loss is measured."""
    samples: int = Field(1, gt=0, le=16)
    """Evaluations that a node makes per round."""
    span: int = Field(16, gt=0, le=1024)
    """Rounds that share a scale."""
    exponent: int = Field(-6, ge=-EXPONENT_MAX, le=EXPONENT_MAX)
    """The scale of the first two spans is 2^exponent: what a slope must be for a byte of 1."""
    parameters: str = ""
    """Only parameters in whose names this regular expression is found are trained: `bias$`, `^(head|norm)`; empty:
    all."""
    batch: float = Field(1.0, gt=0, le=60)
    """Seconds of which the bytes are signed together."""
    relay: float = Field(0.25, gt=0, le=60)
    """Seconds for which what neighbours are to hear is gathered."""
    audit_every: int = Field(256, gt=0)
    """Rounds between seals of the integers."""
    horizon: int = Field(4096, gt=0)
    """A byte that comes so many rounds late counts no more."""

    def shared(self, replica: Flat) -> Shared:
        return NotSwapped(replica)

    @property
    def rule(self) -> Rule:
        """What peers must agree on."""
        settings = self.model_dump(exclude_none=True)
        return Rule.model_validate({key: settings[key] for key in Rule.model_fields if key in settings})

    def serve(self, node: "Node") -> Part:
        trainer, run = node.trainer, node.run
        rule = self.rule
        selection = of_parameters(trainer.module, self.parameters)

        def first() -> Flat:
            return Flat(run.task.model(run.seed), trainer.replica.device)

        start = first().flat
        identity = rule.identify(node.swarm, trainer.replica.fingerprint, Lattice.of((0, 0), start).digest())
        key = key_of(identity)
        roster = Roster(node.home)
        roster.admit(node.public_key)
        credentials = Credentials(slot_of(node.public_key), node.sign, node.verify)
        lattice = Lattice.of(key, selection.gather(start))
        replica = Replica(rule, identity, lattice, node.home, credentials, roster)
        flood = Flood(node, replica, roster, self.batch, self.relay)
        part = Part(
            node, flood, Working(trainer, selection, start), lambda: Lattice.of(key, selection.gather(first().flat)),
            self.audit_every, self.horizon,
        )  # fmt: skip
        try:
            part.notes = replica.restore()
        except CheckpointError as error:
            raise ConfigError(f"node.home: {error}") from None
        return part

    async def run(self, node: "Node") -> None:
        part: Part = node.service
        async with asyncio.TaskGroup() as group:
            flood = group.create_task(part.flood.run())
            await part.catch_up()
            while not node.finished:
                part.replica.advance()
                for _ in range(self.samples):
                    await part.measure(self.eps)
                await part.audit()
            await part.end()
            flood.cancel()
