"""`strategy: dadao`: each node takes gradients and each edge exchanges at the ticks of clocks of their own."""

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field

from p2ptrain.aggregators import Aggregator
from p2ptrain.codecs import Codec
from p2ptrain.errors import ConfigError, PeerBusy, PeerError
from p2ptrain.graphs import Graph
from p2ptrain.ports import PeerId
from p2ptrain.strategies import Strategy, register
from p2ptrain.strategies.dadao import maths
from p2ptrain.strategies.dadao.bounds import Agreement, Bounds
from p2ptrain.strategies.dadao.cell import Cell
from p2ptrain.strategies.dadao.clocks import ByExchange, ByWall, Clock
from p2ptrain.strategies.dadao.replay import exchange_gaps
from p2ptrain.telemetry.events import Noted
from p2ptrain.training.replica import Replica, Shared
from p2ptrain.waiting import within

if TYPE_CHECKING:
    from p2ptrain.node import Node

MAX_BACKLOG = 20.0
"""Units of time: events that are late by more are dropped."""
COMPARED_EVERY_S = 5.0
MARGINS = {"uniform": 1.25, "optimal": 1.5}
STEEPER = 100.0
"""A gradient this many times longer than the first one says that L was too small."""


@register("dadao")
class Dadao(Strategy):
    """The exact optimum of strongly convex losses, without anybody waiting for anybody (arXiv:2208.00779)."""

    needs_graph = True

    smoothness: float | None = Field(None, gt=0)
    """L, of the steepest node's loss; None: every node finds out its own, and they agree on the largest."""
    convexity: float | None = Field(None, gt=0)
    """mu, of the flattest node's; None: as `smoothness`, the smallest."""
    rates: Literal["uniform", "optimal"] = "uniform"
    """How often each edge exchanges per unit of time: all alike, or with fewest exchanges in all."""
    margin: float | None = Field(None, ge=1, le=16)
    """How many times oftener than needed; None: 1.25, or 1.5 with optimal rates."""
    clock: Literal["exchange", "wall"] = "exchange"
    """What makes time pass for a state: exchanges, which is stable on whatever links, or the clock on the wall."""
    unit: float = Field(0.1, gt=0)
    """Seconds that a unit of time takes: in it each node takes one gradient, on average."""
    merge: bool = True
    """At the end of the run every node takes the mean of all models."""

    def objection(self, codec: Codec, rule: Aggregator) -> str | None:
        if rule.name != "mean":
            return f"exchanges must cancel, and with {rule.name} they do not; use aggregator: mean"
        if codec.uses_memory:
            return f"{codec.name} sends a few coordinates of a vector, and dadao needs all of it; use fp32 or int8"
        return None

    def shared(self, replica: Replica) -> Shared:
        if replica.size != replica.num_parameters:
            raise ConfigError("dadao moves parameters only, and this model has other state (batch norm?)")
        return Cell(replica)

    def serve(self, node: "Node") -> "_Run":
        return _Run(self, node)

    async def run(self, node: "Node") -> None:
        run: _Run = node.service
        await run.begin()
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(run.exchange()), group.create_task(run.compare())]
            await run.take_gradients()
            for task in beside:
                task.cancel()
        await node.adopt(run.cell.x)
        if self.merge:
            await node.merge()


class _Run:
    """One node's run."""

    def __init__(self, strategy: Dadao, node: "Node") -> None:
        cell = node.exchanger.shared
        assert isinstance(cell, Cell)
        self.strategy, self.node, self.cell = strategy, node, cell
        self.agreement = Agreement(node.transport, self._take_constants)
        self.clock: Clock = ByExchange(0.0)
        self._news = asyncio.Event()
        cell.written_off = self._note_write_off

    async def begin(self) -> None:
        node, strategy = self.node, self.strategy
        self.epoch = await self._find_epoch()
        found = await node.compute.run(node.trainer.curvature)
        self.agreement.begin(Bounds(strategy.smoothness or found[0], strategy.convexity or found[1]))
        constants = self._constants()
        now = asyncio.get_running_loop().time
        self.clock = ByWall(strategy.unit, now, now())
        if strategy.clock == "exchange":
            self.clock = ByExchange(self.epoch.gap)
        self.cell.begin(node.trainer.replica.snapshot(), constants, self.clock)

    async def _find_epoch(self) -> "_Epoch":
        strategy, graph, slot = self.strategy, self.node.graph, self.node.slot
        assert graph is not None
        # Optimal rates of a large graph take seconds.
        return await self.node.compute.aside(lambda: _epoch(graph, strategy.rates, strategy.margin, slot))

    async def _follow(self) -> None:
        """A new graph, a new epoch: other rates, and so other constants. Until both ends of an edge have them, each
        refuses the other's exchanges. What an edge that is gone has moved goes back, as from a peer that has left: if
        the two ends did not agree on it, no further exchange would show it."""
        while self.epoch.graph is not self.node.graph:
            self.epoch = await self._find_epoch()
            if isinstance(self.clock, ByExchange):
                self.clock.gap = self.epoch.gap
            self._take_constants()

    async def take_gradients(self) -> None:
        """At the ticks of a Poisson clock, until all are through."""
        node, cell, ticks = self.node, self.cell, _Ticks(self.node.rng("gradients"), self.strategy.unit)
        first, num = 0.0, 0
        while node.goes_on():
            await ticks.next(1.0)
            num += 1
            await self._time_for(num)
            at = cell.x
            gradient = await node.gradient(at)
            norm = float(torch.linalg.vector_norm(gradient)) if gradient is not None else np.inf
            first = first or norm
            if gradient is None or norm > STEEPER * first:
                self._raise_smoothness()
            else:
                cell.gradient(at, gradient)

    async def _time_for(self, num_gradients: int) -> None:
        """Returns when exchanges have made time for so many gradients, or nobody is there to exchange with."""
        while not self.clock.has_time_for(num_gradients) and not self.node.draining and self.node.peers():
            await within(1.0, self.cell.exchanged.next())

    async def exchange(self) -> None:
        """On the edges to higher slots, each at the ticks of a Poisson clock; the others' ends see to the others."""
        node, rng = self.node, self.node.rng("exchanges")
        ticks = _Ticks(node.rng("edges"), self.strategy.unit)
        while True:
            await self._follow()
            due = self._due()
            self.cell.keep([member.peer for member in node.membership.view() if member.slot in self.epoch.neighbours])
            if not due:
                await within(1.0, node.membership.changed())
                continue
            await ticks.next(sum(due.values()))
            await self._swap(rng.choices(list(due), list(due.values()))[0], rng)

    async def _swap(self, peer: PeerId, rng: random.Random) -> None:
        """Waits until both are free: an exchange that was skipped would make the graph another one."""
        with suppress(PeerError):  # counted and logged where it failed
            while peer in self.node.peers() and self.epoch.graph is self.node.graph:
                with suppress(PeerBusy):
                    await self.node.swap(peer)
                    return
                await asyncio.sleep(self.strategy.unit * rng.uniform(0.01, 0.1))

    async def compare(self) -> None:
        """What is known of the losses: with everybody at first, and once more whenever something was news."""
        while True:
            self._news.clear()
            for peer in self.node.peers():
                with suppress(PeerError):
                    await self.agreement.compare(peer)
            await within(COMPARED_EVERY_S, self._news.wait())

    def _due(self) -> dict[PeerId, float]:
        """Exchanges per unit of time with each peer that is here and whose edge is this node's to see to."""
        here = set(self.node.peers())
        slots = {member.slot: member.peer for member in self.node.neighbours() if member.peer in here}
        return {slots[j]: rate for j, rate in self.epoch.own.items() if j in slots}

    def _constants(self) -> maths.Constants:
        assert self.agreement.bounds is not None
        return maths.constants(*self.agreement.bounds, self.epoch.chi1, self.epoch.chi2)

    def _take_constants(self) -> None:
        self.cell.constants = self._constants()
        self._news.set()

    def _raise_smoothness(self) -> None:
        assert self.agreement.bounds is not None
        smoothness = 2 * self.agreement.bounds.smoothness
        self.agreement.raise_to(smoothness)
        self.cell.restart(torch.zeros(self.cell.size))
        self.node.emit(Noted("warning", f"diverged: begins again with L {smoothness:g}, half the step"))

    def _note_write_off(self, peer: str) -> None:
        self.node.emit(Noted("info", f"{peer[:8]} counts other exchanges with this node; both let go of theirs"))


class _Ticks:
    """Those of a Poisson clock whose rate may change from tick to tick."""

    def __init__(self, rng: random.Random, unit_s: float) -> None:
        self._rng, self._unit_s = rng, unit_s
        self._due = asyncio.get_running_loop().time()

    async def next(self, rate: float) -> None:
        """`rate`: ticks per unit. Late ones come at once."""
        now = asyncio.get_running_loop().time()
        self._due = max(self._due, now - MAX_BACKLOG * self._unit_s) + self._unit_s * self._rng.expovariate(rate)
        await asyncio.sleep(max(0.0, self._due - now))


@dataclass(frozen=True)
class _Epoch:
    """What one node needs to know of a graph and of how often its edges exchange."""

    graph: Graph
    chi1: float
    chi2: float
    gap: float
    """Between this node's exchanges, in units of time."""
    neighbours: frozenset[int]
    """Slots."""
    own: dict[int, float]
    """By slot at the other end: exchanges per unit of time, on the edges that are this node's to see to."""


def _epoch(graph: Graph, kind: Literal["uniform", "optimal"], margin: float | None, slot: int) -> _Epoch:
    rates = edge_rates(graph, kind, margin)
    edges = zip(graph.edges, rates, strict=True)
    return _Epoch(
        graph=graph,
        chi1=graph.chi1(rates),
        chi2=graph.chi2(rates),
        gap=exchange_gaps(graph, rates)[slot],
        neighbours=frozenset(graph.neighbours(slot)),
        own={j: float(rate) for (i, j), rate in edges if i == slot and rate > 0},
    )


def edge_rates(graph: Graph, kind: Literal["uniform", "optimal"], margin: float | None) -> np.ndarray:
    """(m,): exchanges per unit of time."""
    found = graph.uniform_rates() if kind == "uniform" else graph.optimal_rates()
    return found * (MARGINS[kind] if margin is None else margin)
