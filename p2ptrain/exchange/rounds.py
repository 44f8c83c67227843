"""Methods that go in rounds: each node shows its neighbours a vector, is shown theirs of the same round, and moves
towards them.

Rounds are numbered. A peer is one round ahead at most, as it needs this node's vector for the next; so the last two
vectors of each are kept, on both sides. Who comes late, or was left behind, goes on with the number of the others.

What moves between two nodes cancels, as both go by what was sent, and with the same weight; unless one of the two had
given up on the other in that round. Methods whose result depends on the sum over the nodes need to know: so each keeps
an account per peer of what moved, and says with each vector what it stands at. If the two do not agree, or a peer is
gone, each takes its account out again. The sum over those who are there is then what it would be without the other.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from p2ptrain.errors import ConfigError, PeerError
from p2ptrain.exchange import offers
from p2ptrain.exchange.gather import MAX_AT_ONCE, MAX_SHOWN, Shown
from p2ptrain.exchange.offers import Offer
from p2ptrain.graphs import Graph
from p2ptrain.ports import PeerId
from p2ptrain.swarm.view import Member, State
from p2ptrain.waiting import either, now, within

if TYPE_CHECKING:
    from p2ptrain.node import Node

ASK_EVERY_S = 1.0
"""How often a peer is asked that should have shown its vector and has not: mostly it calls as soon as it has one."""
NONE = slice(0, 0)
"""No part of a vector."""


class Traded(NamedTuple):
    """What a round has brought; both (d,) float64."""

    said: Tensor
    """The own vector as the others decoded it."""
    moved: Tensor
    """What to add to it: the sum over the neighbours of the weight times (theirs - said)."""


@dataclass
class Account:
    """What rounds with one peer have come to."""

    moved: Tensor
    """(k,) float64, of the part of the vector whose sum is kept."""
    last: bytes
    """32 bytes that stand for the last round that counted, and for its weight."""


class Rounds:
    """One node's side of them."""

    def __init__(self, node: "Node") -> None:
        self.node, self.gatherer = node, node.gatherer
        self.patience_s = 60.0
        """So long a round waits for a neighbour that is alive and does not show its vector."""
        self.number = 0
        """Of the present round; the first is 1."""
        self.accounts: dict[PeerId, Account] = {}
        self._calls = asyncio.Semaphore(MAX_AT_ONCE)
        self._weights: tuple[Graph | None, dict[int, float]] = None, {}

    def check(self) -> None:
        """Raises `ConfigError` for a graph in which this node has more neighbours than can be kept."""
        epochs = self.node.graph.epochs if self.node.graph is not None else []
        for graph in epochs:
            if (degree := len(graph.neighbours(self.node.slot))) > MAX_SHOWN:
                raise ConfigError(
                    f"in rounds a node has {MAX_SHOWN} neighbours at most, and in this {graph.name} it has {degree}"
                )

    async def together(self) -> None:
        """Returns when all neighbours that the graph gives this node are there, or this has taken too long."""
        node, give_up = self.node, now() + self.patience_s
        wanted = self._row().keys()
        while not node.draining and (left_s := give_up - now()) > 0:
            if wanted <= {member.slot for member in self._neighbours() if member.state != State.STARTING}:
                return
            await within(min(left_s, 1.0), node.membership.changed())

    async def trade(self, vector: Tensor, kept: slice = NONE) -> Traded:
        """A round with this vector, (d,). Neighbours have their Metropolis weights, lazy; who is gone, or does not show
        its vector in time, has none. `kept`: the part of the vector whose sum over the nodes must stay."""
        offer = await self._show_and_wait(vector.float())
        partners, here, row = self._partners(), {member.peer: member.slot for member in self._neighbours()}, self._row()
        found = {peer: self.gatherer.shown_in(peer, offer.round) for peer in partners}
        shown = {peer: each for peer, each in found.items() if each is not None}
        # Of peers that show nothing because all are through, what moved stays.
        lost = [peer for peer in self.accounts if peer not in shown and (peer in partners or peer not in here)]
        weights = {peer: row[here[peer]] for peer in shown}
        return await self.node.compute.aside(lambda: self._mix(offer, shown, weights, lost, kept))

    async def _show_and_wait(self, vector: Tensor) -> Offer:
        """What this node has shown as its vector of this round, when the others' are there."""
        self.number += 1
        while True:
            offer = await self.node.compute.aside(lambda: self._prepare(vector))
            self.gatherer.offer(offer)
            give_up = now() + self.patience_s
            async with asyncio.TaskGroup() as group:
                for peer in self._partners():
                    group.create_task(self._meet(peer, offer, give_up))
            if (furthest := self._furthest()) <= self.number + 1:
                return offer
            self.number = furthest

    def _prepare(self, vector: Tensor) -> Offer:
        said = {peer: account.last for peer, account in self.accounts.items()}
        return self.gatherer.prepare(vector, self.node.step, self.number, said)

    async def _meet(self, peer: PeerId, offer: Offer, give_up: float) -> None:
        """Returns when both have the other's vector of this round, or that is not to be expected any more."""
        while not self._has_met(peer, offer) and (left_s := give_up - now()) > 0:
            if peer not in (partners := self._partners()) or self._furthest() > offer.round + 1:
                return
            if partners[peer]:
                with suppress(PeerError):  # counted and logged where it failed
                    async with self._calls:
                        await self.gatherer.share(peer)
                    if self.gatherer.latest_round(peer) > offer.round and not self._has_met(peer, offer):
                        return  # it was asked for this round and has shown a later one: it was not there in this one
            if not self._has_met(peer, offer):
                await within(min(ASK_EVERY_S, left_s), self._shows(peer, offer))

    async def _shows(self, peer: PeerId, offer: Offer) -> None:
        """Returns when this peer has shown a vector of this round or a later one, or left."""
        newest = max(self.gatherer.latest_round(peer), offer.round - 1)
        while not self._has_met(peer, offer) and self.gatherer.latest_round(peer) <= newest:
            await either(self.gatherer.news(), self.node.membership.changed())
            if peer not in self._partners():
                return

    def _has_met(self, peer: PeerId, offer: Offer) -> bool:
        return peer in offer.told and self.gatherer.shown_in(peer, offer.round) is not None

    def _furthest(self) -> int:
        return max(map(self.gatherer.latest_round, self._partners()), default=0)

    def _mix(
        self,
        offer: Offer,
        shown: Mapping[PeerId, Shown],
        weights: Mapping[PeerId, float],
        lost: list[PeerId],
        kept: slice,
    ) -> Traded:
        said = offers.decoded(offer, self.gatherer.talk.codec).double()
        moved = torch.zeros_like(said)
        lost += [peer for peer in shown if shown[peer].account != self._last(peer)]
        for peer in lost:
            if peer in self.accounts:
                moved[kept] -= self.accounts.pop(peer).moved
        for peer, theirs in sorted(shown.items()):
            towards = weights[peer] * (theirs.vector.double() - said)
            moved += towards
            account = self.accounts.setdefault(peer, Account(torch.zeros_like(towards[kept]), b""))
            account.moved += towards[kept]
            account.last = hashlib.sha256(f"{offer.round} {weights[peer]!r}".encode()).digest()
        return Traded(said, moved)

    def _last(self, peer: PeerId) -> bytes:
        return self.accounts[peer].last if peer in self.accounts else b""

    def _partners(self) -> dict[PeerId, bool]:
        """Whose vectors the present round needs, and whether each can be called, or only calls; nobody's once all are
        through."""
        if self.node.draining or (self.node.finished and not self.node.others_train()):
            return {}
        at_it = [member for member in self._neighbours() if member.state in (State.TRAINING, State.FINISHED)]
        return {member.peer: member.reachable for member in at_it}

    def _neighbours(self) -> list[Member]:
        """Those of the graph that are alive; one for each slot."""
        row = self._row()
        return list({member.slot: member for member in self.node.trusted() if member.slot in row}.values())

    def _row(self) -> dict[int, float]:
        """The weight of each neighbour in the graph, by slot."""
        graph = self.node.graph
        if graph is not None and graph is not self._weights[0]:
            from p2ptrain.graphs.measures import lazy, metropolis_weights  # with networkx, which others do without

            row = lazy(metropolis_weights(graph))[self.node.slot]
            self._weights = graph, {slot: float(row[slot]) for slot in graph.neighbours(self.node.slot)}
        return self._weights[1]
