"""What must stay true of a swarm, whatever happens to it. Checked at every event of a simulated world."""

import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from p2ptrain.simulation.loop import NODE
from p2ptrain.simulation.world import SimulatedNode, World
from p2ptrain.strategies.dadao.cell import Cell
from p2ptrain.swarm.view import MISSES_MAX
from p2ptrain.telemetry.events import (
    Evaluated,
    Exchanged,
    Fetched,
    Left,
    Rejected,
    Resumed,
    Saved,
    Stamped,
    Stepped,
    Stopped,
)

ROUNDING = 1e-4
"""Largest sum of a swap's two corrections, relative to the larger of them."""


UNDER_WAY_S = 2.0
"""So long after one side of a swap the other side follows, on links without a fault."""


class Violation(AssertionError):
    """An invariant does not hold; the message says which, where and when."""


class Invariant:
    """Base. Raises `Violation` as soon as it sees one."""

    def __init__(self, world: World, healthy: Collection[str]) -> None:
        """`healthy`: the names of those whom no fault befalls for ever."""
        self.world, self.healthy = world, healthy

    def event(self, stamped: Stamped) -> None:
        """Something was said."""

    def answered(self, life: str, exchange: bytes) -> None:
        """A swap that another node asked for begins."""

    def applied(self, life: str, exchange: bytes, peer: str, correction: Tensor, result: Tensor) -> None:
        """A swap was committed to a replica."""

    def healed(self) -> None:
        """The last fault is over; asked again and again until it holds, or until there was time enough for it to."""

    def ended(self) -> None:
        """Everybody has left."""

    def fail(self, text: str) -> None:
        raise Violation(f"{type(self).__name__} at {self.world.now:.3f} s: {text}")


@dataclass(frozen=True)
class _Side:
    life: str
    partner: str
    time: float
    correction: Tensor


class ExactlyOnce(Invariant):
    """A swap is applied once on both sides or on neither, and its two corrections cancel: so the sum of the replicas
    changes by training only. What a node did before it was killed is its own loss."""

    def __init__(self, world: World, healthy: Collection[str]) -> None:
        super().__init__(world, healthy)
        self._swaps: defaultdict[bytes, list[_Side]] = defaultdict(list)
        self._answered: dict[bytes, str] = {}
        """By which life each swap was answered: it may be over when the other side commits."""

    def answered(self, life: str, exchange: bytes) -> None:
        self._answered[exchange] = life

    def applied(self, life: str, exchange: bytes, peer: str, correction: Tensor, result: Tensor) -> None:
        answered = self._answered[exchange]
        partner = self.world.node_of(peer).life if answered == life else answered
        sides = self._swaps[exchange]
        if any(_name(side.life) == _name(life) for side in sides):
            self.fail(f"{life} applied exchange {exchange.hex()} twice")
        sides.append(_Side(life, partner, self.world.now, correction))
        if len(sides) == 2:
            one, other = (side.correction for side in sides)
            error, size = torch.linalg.vector_norm(one + other), max(one.norm(), other.norm())
            if error > ROUNDING * size + 1e-6:
                self.fail(f"the corrections of {sides[0].life} and {life} sum to {error:.3g} of {size:.3g}")

    def healed(self) -> None:
        lives = {node.life for name, node in self.world.nodes.items() if node.alive and name in self.healthy}
        for exchange, sides in self._swaps.items():
            (side, *others) = sides
            settled = self.world.now - side.time > UNDER_WAY_S
            if not others and settled and side.life in lives and side.partner in lives:
                self.fail(f"{side.life} applied exchange {exchange.hex()}, {side.partner} did not")


class Finite(Invariant):
    """NaN and infinity never reach a replica."""

    def applied(self, life: str, exchange: bytes, peer: str, correction: Tensor, result: Tensor) -> None:
        if not torch.isfinite(result).all():
            self.fail(f"{life} holds values that are not finite")


class NobodyStartsFromNothing(Invariant):
    """A node that could have had the swarm's weights does not train from random ones."""

    def __init__(self, world: World, healthy: Collection[str]) -> None:
        super().__init__(world, healthy)
        self._has_weights: dict[str, float] = {}
        """Since when a life has."""

    def event(self, stamped: Stamped) -> None:
        if isinstance(stamped.event, Fetched | Resumed | Stepped):
            node = self.world.nodes[stamped.node]
            if node.life not in self._has_weights and isinstance(stamped.event, Stepped):
                self._check(node)
            self._has_weights.setdefault(node.life, stamped.time)

    def _check(self, node: SimulatedNode) -> None:
        if self.world.disturbed(node.name) > node.born:
            return
        for other in self.world.nodes.values():
            had_weights = other.alive and self._has_weights.get(other.life, math.inf) < node.born
            if any(self.world.links.link(way).down for way in ((node.peer, other.peer), (other.peer, node.peer))):
                continue  # since before it was born, or it would be disturbed
            if had_weights and self.world.disturbed(other.name) < node.born - 1.0:
                self.fail(f"{node.name} trains from random weights, and {other.name} was there all the time")


class NothingSavedIsLost(Invariant):
    """A restarted node goes on from its newest whole checkpoint."""

    def __init__(self, world: World, healthy: Collection[str]) -> None:
        super().__init__(world, healthy)
        self._saved: dict[str, tuple[str, int]] = {}
        """By node: in which life, and at which step."""
        self._resumed: set[str] = set()

    def event(self, stamped: Stamped) -> None:
        if not isinstance(stamped.event, Saved | Resumed | Stepped):
            return
        life, (saver, saved) = self.world.nodes[stamped.node].life, self._saved.get(stamped.node, ("", 0))
        match stamped.event:
            case Saved(step=step):
                self._saved[stamped.node] = (life, step)
            case Resumed(step=step):
                self._resumed.add(life)
                if step < saved:
                    self.fail(f"{life} resumed at step {step}, and {saver} had saved step {saved}")
            case Stepped():
                if saver not in ("", life) and life not in self._resumed:
                    self.fail(f"{life} trains without the checkpoint that {saver} had saved")


class StepsCount(Invariant):
    """Steps of one life only grow: nothing that others do costs a node a step."""

    def __init__(self, world: World, healthy: Collection[str]) -> None:
        super().__init__(world, healthy)
        self._steps: dict[str, int] = {}

    def event(self, stamped: Stamped) -> None:
        if isinstance(stamped.event, Stepped):
            life = self.world.nodes[stamped.node].life
            if stamped.event.step <= self._steps.get(life, -1):
                self.fail(f"{life} took step {stamped.event.step} after step {self._steps[life]}")
            self._steps[life] = stamped.event.step


class TheHonestAreBelieved(Invariant):
    """Nothing that an honest node says is refused as a lie."""

    LIES = frozenset({"malformed", "oversized", "replayed", "not-finite", "too-far", "wrong-peer", "wrong-model"})

    def event(self, stamped: Stamped) -> None:
        if isinstance(stamped.event, Rejected) and stamped.event.reason in self.LIES:
            self.fail(
                f"{stamped.node} refused {stamped.event.peer[:8]}: {stamped.event.reason}: {stamped.event.detail}"
            )


class TheSwarmHeals(Invariant):
    """After the last fault every living node sees every other, the dead are seen by nobody, and all exchange."""

    def __init__(self, world: World, healthy: Collection[str]) -> None:
        super().__init__(world, healthy)
        self._exchanged: dict[str, float] = {}

    def event(self, stamped: Stamped) -> None:
        if isinstance(stamped.event, Exchanged):
            self._exchanged[stamped.node] = stamped.time

    def healed(self) -> None:
        nodes = self.world.nodes.values()
        alive = [node for node in nodes if node.daemon and node.name in self.healthy]
        dead = {node.peer for node in nodes if not node.daemon}
        for node in alive:
            assert node.daemon
            seen = {member.peer for member in node.daemon.membership.view()}
            missing = [other.name for other in alive if other is not node and other.peer not in seen]
            ghosts = sorted(self.world.node_of(peer).name for peer in seen & dead)
            if missing or ghosts:
                self.fail(f"{node.name} does not see {missing or 'nobody'} and sees the dead {ghosts or 'not at all'}")
            if len(alive) > 1 and self._exchanged.get(node.name, 0.0) < self.world.calm_since:
                self.fail(f"{node.name} has exchanged with nobody since the last fault")


class TheHealthyLearn(Invariant):
    """Whatever became of the others, the model gets better."""

    FACTOR = 0.7
    """The last loss is at most this part of the first one."""
    TIME_S = 10.0
    """So long somebody must have lived: when all have died before their first checkpoint, they begin anew."""

    def __init__(self, world: World, healthy: Collection[str]) -> None:
        super().__init__(world, healthy)
        self._first: float | None = None
        self._last: dict[str, float] = {}
        self._stopped: dict[str, None] = {}

    def event(self, stamped: Stamped) -> None:
        match stamped.event:
            case Evaluated(loss=loss):
                self._first = loss if self._first is None else self._first
                self._last[stamped.node] = loss
            case Stopped():
                self._stopped[stamped.node] = None

    def healed(self) -> None:
        nodes = [self.world.nodes[name] for name in self.healthy]
        longest = max((self.world.now - node.born for node in nodes if node.daemon), default=0.0)
        if longest < self.TIME_S:
            self.fail(f"nobody has lived for more than {longest:.1f} s")

    def ended(self) -> None:
        for name in self._stopped:
            if name in self.healthy and self._first and self._last[name] > self.FACTOR * self._first:
                self.fail(f"{name} ends at a loss of {self._last[name]:.3g}, and the first was {self._first:.3g}")


class TheDeadAreMissed(Invariant):
    """A killed node leaves the view of every undisturbed one within three heartbeats."""

    SLACK = 2.0
    """Heartbeats on top: the one that was about to be sent when it died, and the deadline of the last."""

    def event(self, stamped: Stamped) -> None:
        if not isinstance(stamped.event, Left) or stamped.event.reason != "silent":
            return
        lost, node = self.world.node_of(stamped.event.peer), self.world.nodes[stamped.node]
        if lost.alive or self.world.disturbed(node.name) > lost.died - 1.0:
            return
        took, bound = stamped.time - max(lost.died, node.born), (MISSES_MAX + self.SLACK) * node.file.node.heartbeat
        if took > bound:
            self.fail(f"{node.name} missed {lost.name} only after {took:.1f} s, {bound:g} s are allowed")


class AccountsCancel(Invariant):
    """With `dadao`: all that exchanges have moved at a node is in its accounts, and of two nodes that agree on which
    exchange was the last, each has booked the opposite of the other. Once all is well, all neighbours agree: so the sum
    over the nodes is zero, and no exchange counts on one side only."""

    def __init__(self, world: World, healthy: Collection[str]) -> None:
        super().__init__(world, healthy)
        self._moved: dict[tuple[str, str], float] = {}
        """By name and the other's name: when an exchange last counted."""

    def applied(self, life: str, exchange: bytes, peer: str, correction: Tensor, result: Tensor) -> None:
        one, other = self.world.nodes[_name(life)], self.world.node_of(peer)
        self._moved[one.name, other.name] = self.world.now
        if (cell := _cell(one)) is not None:
            self._check_books(one, cell)
            if (its := _cell(other)) is not None and _last(cell, other) == _last(its, one):
                self._check_opposite(one, other)

    def healed(self) -> None:
        there = [node for node in self.world.nodes.values() if node.name in self.healthy and _cell(node) is not None]
        for one, other in combinations(there, 2):
            mine, theirs = _cell(one), _cell(other)
            assert mine is not None
            assert theirs is not None
            if _last(mine, other) == _last(theirs, one):
                self._check_opposite(one, other)
            elif self.world.now - self._last_moved(one, other) > UNDER_WAY_S:
                self.fail(f"{one.life} and {other.life} do not agree on their last exchange")

    def _check_books(self, node: SimulatedNode, cell: Cell) -> None:
        assert cell.state is not None
        held = cell.state.z + 2 * cell.state.z_tilde
        booked = sum((account.moved for account in cell.accounts.values()), torch.zeros_like(held))
        if (error := float(torch.dist(held, booked))) > 1e-8 * (1 + float(held.norm())):
            self.fail(f"{node.life} has moved by {error:.3g} more or less than its accounts say")

    def _check_opposite(self, one: SimulatedNode, other: SimulatedNode) -> None:
        mine, theirs = _moved(one, other), _moved(other, one)
        if (error := float((mine + theirs).norm())) > 1e-9 * (1 + float(mine.norm())):
            self.fail(f"the accounts of {one.life} and {other.life} sum to {error:.3g} of {float(mine.norm()):.3g}")

    def _last_moved(self, one: SimulatedNode, other: SimulatedNode) -> float:
        ways = (one.name, other.name), (other.name, one.name)
        return max(self._moved.get(way, -math.inf) for way in ways)


def _cell(node: SimulatedNode) -> Cell | None:
    """Its state, if it has begun and the method is `dadao`."""
    shared = node.daemon.exchanger.shared if node.daemon else None
    return shared if isinstance(shared, Cell) and shared.state is not None else None


def _last(cell: Cell, other: SimulatedNode) -> bytes:
    account = cell.accounts.get(other.peer)
    return account.last if account else b""


def _moved(node: SimulatedNode, other: SimulatedNode) -> Tensor:
    """(d,), or (1,) if nothing has."""
    cell = _cell(node)
    account = cell.accounts.get(other.peer) if cell else None
    return account.moved if account else torch.zeros(1)


ALL: tuple[type[Invariant], ...] = (
    ExactlyOnce, Finite, NobodyStartsFromNothing, NothingSavedIsLost, StepsCount, TheHonestAreBelieved, TheSwarmHeals,
    TheHealthyLearn, TheDeadAreMissed, AccountsCancel,
)  # fmt: skip


class Watch:
    """All invariants over one world."""

    def __init__(self, world: World, healthy: Collection[str] = ()) -> None:
        """`healthy`: see `Invariant`; empty: everybody is."""
        names = tuple(name for name in world.nodes if not healthy or name in healthy)
        self._invariants = [kind(world, names) for kind in ALL]

    def event(self, stamped: Stamped) -> None:
        for invariant in self._invariants:
            invariant.event(stamped)

    def observe(self, what: str, *facts: Any) -> None:
        """For `chaos.observe`."""
        if what == "answered":
            for invariant in self._invariants:
                invariant.answered(NODE.get(), *facts)
            return
        exchange, peer, lease = facts
        correction, result = lease.out - lease.base, lease.out
        for invariant in self._invariants:
            invariant.applied(NODE.get(), exchange, peer, correction, result)

    def healed(self) -> None:
        for invariant in self._invariants:
            invariant.healed()

    def ended(self) -> None:
        for invariant in self._invariants:
            invariant.ended()


def _name(life: str) -> str:
    return life.partition("#")[0]
