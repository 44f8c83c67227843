"""A node's part in a run: the replica, the module that follows it, the flood, and whose turn the integers are."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from p2ptrain.errors import CheckpointError, ConfigError
from p2ptrain.strategies.spsa.arithmetic.lattice import Lattice
from p2ptrain.strategies.spsa.arithmetic.rule import Rule, key_of
from p2ptrain.strategies.spsa.arithmetic.selection import of_parameters
from p2ptrain.strategies.spsa.arithmetic.working import Working
from p2ptrain.strategies.spsa.broker.air import Air
from p2ptrain.strategies.spsa.broker.bus import Bus
from p2ptrain.strategies.spsa.dissemination.donor import Donor
from p2ptrain.strategies.spsa.dissemination.flood import Flood
from p2ptrain.strategies.spsa.ledger import life, snapshot
from p2ptrain.strategies.spsa.ledger.audit import fingerprint
from p2ptrain.strategies.spsa.ledger.replica import Credentials, Replica
from p2ptrain.strategies.spsa.ledger.roster import Roster, slot_of
from p2ptrain.telemetry.events import Noted
from p2ptrain.training.replica import Replica as Flat
from p2ptrain.training.starts import frozen_digest
from p2ptrain.waiting import now
from p2ptrain.wire.onebyte_pb2 import Said

if TYPE_CHECKING:
    from p2ptrain.node import Node
    from p2ptrain.strategies.spsa.strategy import Spsa

CATCH_UP_S = 60.0
"""How long a node listens before it measures; longer only if it lost bytes of its own."""
FIRST_LINK_S = 10.0
REPLAYED_MAX = 1 << 30
"""Parameters times bytes that a newcomer rather replays, in about a second, than fetch a snapshot."""


class Part:
    """Made by `take_part`."""

    def __init__(
        self,
        node: "Node",
        flood: Flood,
        working: Working,
        start: Callable[[], Lattice],
    ) -> None:
        """`start`: the run's first integers, made anew."""
        self.node, self.flood, self.replica, self.working, self._start = node, flood, flood.replica, working, start
        self.turn = asyncio.Lock()
        self.donor = Donor(flood, self.turn)
        self.notes: list[str] = []
        """What was damaged on the disk."""
        self._audits = self._judged = 0

    async def catch_up(self) -> None:
        """Get what was said before this node measures anything: its own bytes of an earlier life are among it."""
        node, flood = self.node, self.flood
        for note in self.notes:
            node.emit(Noted("warning", note))
        started, patience_s = now(), 10 * CATCH_UP_S if self.notes else CATCH_UP_S
        while not node.draining and not any(other.equal for other in flood.compared()):
            waited_s = now() - started
            in_sight = any(other.seal is not None for other in flood.compared())
            if waited_s > (patience_s if in_sight or self.notes else FIRST_LINK_S):
                break
            if flood.bus is None and not node.membership.view():
                break
            await flood.news(0.2)
        flood.caught_up = True
        if self.replica.master.missing() * self._size > REPLAYED_MAX:
            await self._adopt_others()
        await self.apply(self.working.begin)
        node.trainer.steps = self.replica.said(self.replica.slot)

    async def apply(self, then: Callable[[Lattice], object], before: int | None = None) -> None:
        """Bring the integers up to all bytes, or to those of rounds `before` one, and do something with them."""
        async with self.turn:
            steps, lattice = self.replica.master.plan(before), self.replica.master.lattice

            def work() -> None:
                lattice.subtract(steps)
                then(lattice)

            await self.node.compute.run(work)

    async def measure(self, eps: float) -> None:
        """One evaluation, on the integers with the bytes of all rounds that are ripe, and its byte."""
        replica, trainer = self.replica, self.node.trainer
        evaluation, slopes = replica.next(), list[float]()

        def step(progress: float) -> float:
            lattice.subtract(steps)
            batch = trainer.batch(trainer.steps)
            trainer.steps += 1
            slope, loss = self.working.measure(lattice, evaluation, eps, batch)
            slopes.append(slope)
            return loss

        async with self.turn:
            steps, lattice = replica.master.plan(self.ripe()), replica.master.lattice
            await self.node.train(step)
            for slope in slopes:
                replica.say(slope)

    def ripe(self) -> int:
        """Rounds before this count: all that are at work have said something later, or were waited for long enough."""
        book, at_work = self.replica.book, self.flood.presence.at_work()
        heads = [book.heads[slot] + 1 for slot in (at_work | {self.replica.slot}) if slot in book.heads]
        return max(min(heads, default=0), self.flood.settled.round())

    async def audit(self) -> None:
        """Every so many rounds: seal what is there, close what is long past, keep the integers for the next start."""
        replica, flood = self.replica, self.flood
        number = self.ripe() // replica.rule.audit_every * replica.rule.audit_every
        is_due = number > (flood.audit.round if flood.audit is not None else 0)
        if not self._is_like_most(is_last=is_due):
            await self._rebuild()
            flood.audit = None
        if not is_due:
            return
        async with self.turn:
            steps = replica.master.plan(self.ripe())
            log, master = fingerprint(replica.book, 0, number), replica.master

            def work() -> bytes:
                master.lattice.subtract(steps)
                return master.before(number).digest()

            digest = await self.node.compute.run(work)
        flood.audit = Said.Seal(round=number, log=log, master=digest)
        async with flood.writing:
            flood.horizon.close(number)
        self._audits += 1
        if self._audits % 16 == 0:
            await self._keep(number)

    def _is_like_most(self, is_last: bool = False) -> bool:
        """Whether, of the neighbours that sealed the same bytes, no more have other integers than have ours; those
        that differ from most are named, this node too. `is_last`: no more of them will come."""
        mine = self.flood.audit
        if mine is None:
            return True
        alike, other = 1, list[str]()
        for each in self.flood.compared():
            if each.audit is not None and (each.audit.round, each.audit.log) == (mine.round, mine.log):
                if each.audit.master == mine.master:
                    alike += 1
                else:
                    other.append(each.peer)
        if len(other) > alike:
            self.node.emit(Noted("error", f"our integers before round {mine.round} are not what most neighbours have"))
            return False
        is_known = is_last or alike > len(other)
        for peer in other if is_known and mine.round > self._judged else ():
            self.flood.reject(peer, "wrong-master", f"other integers from the same bytes before round {mine.round}")
            self._judged = mine.round
        return True

    async def _rebuild(self) -> None:
        """By replaying everything from the start, which needs nobody's word; where that takes long, from the integers
        that most of the neighbours have."""
        said = sum(map(self.replica.said, self.replica.book.heads))
        if said * self._size <= REPLAYED_MAX or not await self._adopt_others():
            async with self.turn:
                self.replica.master.load(await self.node.compute.run(self._start), {})
        await self.apply(self.working.follow, self.ripe())

    @property
    def _size(self) -> int:
        return self.replica.master.lattice.values.numel()

    async def _adopt_others(self) -> bool:
        """Take over a snapshot of neighbours; whether there was one."""
        found = await self.donor.get(self._size)
        if found is not None:
            async with self.turn:
                self.replica.adopt(found)
        return found is not None

    async def _keep(self, number: int) -> None:
        node, replica = self.node, self.replica
        async with self.turn:
            content = await node.compute.run(lambda: snapshot.pack(replica.master, number))
        async with self.flood.writing:
            await node.compute.aside(lambda: snapshot.save(node.home, content))


def take_part(node: "Node", strategy: "Spsa") -> Part:
    """As the disk left it, deaf and dumb until `flood.run`. Raises `ConfigError`."""
    trainer, run = node.trainer, node.run
    rule, selection = rule_of(strategy), of_parameters(trainer.module, strategy.parameters)

    def first() -> Tensor:
        return Flat(run.task.start(run.seed), trainer.replica.device).flat

    # What no checkpoint has changed is as it was made: no second model, for which there may be no room, and no copy.
    start = trainer.replica.flat if trainer.is_fresh else first()
    layout = trainer.replica.fingerprint + frozen_digest(trainer.module)
    identity = rule.identify(node.swarm, layout, Lattice.of((0, 0), start).digest())
    key, roster = key_of(identity), Roster(node.home)
    roster.admit(node.public_key)
    credentials = Credentials(slot_of(node.public_key), node.sign, node.verify)
    replica = Replica(rule, identity, Lattice.of(key, selection.pick(start)), node.home, credentials, roster)
    replica.f = strategy.f
    try:
        notes = replica.restore()
    except CheckpointError as error:
        raise ConfigError(f"node.home: {error}") from None
    number = life.begin(node.home)
    flood = Flood(node, replica, roster, strategy.batch, strategy.relay, number)
    if node.channel is not None:
        flood.bus = Bus(flood, Air(node, node.channel, identity, number))
    working = Working(trainer, selection, start)
    start_again = lambda: Lattice.of(key, selection.pick(first()))  # noqa: E731
    part = Part(node, flood, working, start_again)
    part.notes = notes
    return part


def rule_of(strategy: "Spsa") -> Rule:
    settings = strategy.model_dump(exclude_none=True)
    return Rule.model_validate({key: settings[key] for key in Rule.model_fields if key in settings})
