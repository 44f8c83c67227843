"""What a strategy sees of the world: this node's model, its peers, and a few verbs.

me, name, slot, step, progress, finished      where we are
peers(), pick()                               whom to talk to
train(), gradient(), swap(), merge(), reached()  what to do with one other, or alone
neighbours(), home, sign(), verify()          for methods that carry and keep messages of their own
offer(), show(), gathered(), combine()        what to do with many at once
goes_on(), mixed()                            what to do in rounds; more of it in `rounds`
rng(), emit()                                 chance and telemetry
"""

import asyncio
import random
import statistics
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from p2ptrain.config import RunConfig
from p2ptrain.errors import PeerBusy, PeerError, TooFewError
from p2ptrain.exchange import reputation
from p2ptrain.exchange.gather import Gatherer
from p2ptrain.exchange.pairwise import Exchanger
from p2ptrain.exchange.reputation import Reputation
from p2ptrain.exchange.rounds import NONE, Rounds
from p2ptrain.graphs import Graph
from p2ptrain.ports import Channel, Compute, Disk, PeerId, Transport
from p2ptrain.seeds import python_random
from p2ptrain.swarm.records import is_signed
from p2ptrain.swarm.state import StateServer, download
from p2ptrain.swarm.view import Member, Members, State
from p2ptrain.telemetry.events import Evaluated, Event, Finished, Merged, Noted, Stepped
from p2ptrain.training.replica import named_slices
from p2ptrain.training.trainer import DivergedError, Trainer, learning_rate_factor
from p2ptrain.waiting import News, now, within

TOLD_EVERY_S = 0.05
"""Small models take thousands of steps a second; not each is worth an event."""
MERGE_PATIENCE_S = 3600.0
"""How long a node that has finished waits for the others before it merges with those that have too."""
FAR = 3.0
"""A vector so many times farther from what the rule makes of all than the median one is suspicious."""
FINAL_PATIENCE_S = 60.0
"""How long a node that has begun to merge asks another one for its vector again."""


@dataclass
class Node:
    """One node of the swarm, as its strategy sees it."""

    me: PeerId
    name: str
    slot: int
    run: RunConfig
    swarm: str
    graph: Graph | None
    """Who talks to whom now: it follows the schedule, if the run's graph has one."""
    transport: Transport
    membership: Members
    compute: Compute
    trainer: Trainer
    exchanger: Exchanger
    gatherer: Gatherer
    state_server: StateServer
    emit: Callable[[Event], None]
    home: Disk
    """Where a strategy keeps what must survive."""
    public_key: bytes
    """Ed25519; `me` is derived from it."""
    sign: Callable[[bytes], bytes]
    """With the private half of that key."""
    reputation: Reputation
    channel: Channel | None = None
    """Where all hear all, if this node has such a thing."""
    service: Any = None
    """What the strategy's `serve` made."""
    draining: bool = False
    """Set when the node was asked to leave: training ends, and nothing new begins."""
    epoch: int = 0
    """Which graph of the schedule it is."""
    _last_partner: PeerId | None = None
    rounds: Rounds = field(init=False)
    _plan: Graph | None = field(init=False)
    """The graph with its schedule."""
    _pick: random.Random = field(init=False)
    _started: float = field(init=False)
    _evaluated: float = field(init=False, default=float("-inf"))
    _told: float = field(init=False, default=float("-inf"))
    _is_over: bool = field(init=False, default=False)
    _lacked: bool = field(init=False, default=False)
    """The last rule had too few vectors."""
    _stepped: News = field(default_factory=News)

    def __post_init__(self) -> None:
        self._plan, self.rounds = self.graph, Rounds(self)
        self._pick = self.rng("pick")
        self._started = now()

    @property
    def step(self) -> int:
        """Training steps taken so far, those before a restart included."""
        return self.trainer.steps

    @property
    def progress(self) -> float:
        """Share of the run that is over, in [0, 1]; 0 for a run without end."""
        by_steps = self.step / self.run.steps if self.run.steps else 0.0
        by_time = (now() - self._started) / self.run.seconds if self.run.seconds else 0.0
        return min(max(by_steps, by_time), 1.0)

    @property
    def rate(self) -> float:
        """The learning rate, by the run's schedule, for methods that take steps of their own."""
        return self.trainer.lr * learning_rate_factor(self.trainer.recipe, self.progress)

    @property
    def finished(self) -> bool:
        return self.draining or self.progress >= 1.0

    @staticmethod
    def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether a signature is the key's over a message."""
        return is_signed(public_key, message, signature)

    def begin(self) -> None:
        """Training starts now: `run.seconds` count from here."""
        self._started = now()

    def finish(self) -> None:
        """The last step was taken; says so once."""
        if not self._is_over:
            self._is_over = True
            self.emit(Finished(self.step))
            self.membership.set_state(State.FINISHED, self.step)

    def done(self) -> None:
        """Nothing more is expected from others, for now."""
        self.membership.set_state(State.DONE, self.step)

    def rng(self, purpose: str) -> random.Random:
        return python_random(self.run.seed, purpose, self.slot)

    def peers(self) -> list[PeerId]:
        """Peers that can be asked for a swap: alive, with weights, neighbours if there is a graph."""
        return [member.peer for member in self._reachable() if member.state in (State.TRAINING, State.FINISHED)]

    def trainers(self) -> list[PeerId]:
        """Those of `peers` that still train."""
        return [member.peer for member in self._reachable() if member.state == State.TRAINING]

    def pick(self, without: Collection[str] = ()) -> PeerId | None:
        """A random peer, never the last one twice running when there is a choice: on saturated links, fixed pairs
        lock in."""
        candidates = [peer for peer in self.peers() if peer not in without]
        fresh = [peer for peer in candidates if peer != self._last_partner]
        return self.sample(fresh or candidates, 1, self._pick)[0] if candidates else None

    def sample(self, peers: Sequence[PeerId], count: int, rng: random.Random) -> list[PeerId]:
        """So many of them at most, at random, those less often that are blamed for something (Efraimidis and Spirakis
        2006: the largest of u^(1/w))."""
        trust = {peer: self.reputation.trust(peer) for peer in peers}
        if all(each == 1.0 for each in trust.values()):
            return rng.sample(peers, min(count, len(peers)))
        return sorted(peers, key=lambda peer: rng.random() ** (1 / trust[peer]), reverse=True)[:count]

    def neighbours(self) -> list[Member]:
        """Who may be talked to, in whatever state: the graph's neighbours that are alive and can be reached."""
        return self._reachable()

    async def train(self, step: Callable[[float], float] | None = None) -> float:
        """One local step; its loss. Evaluates on held-out data when that is due. `step`: how a method takes its steps
        that does not follow a gradient; on the compute thread, as `Trainer.step`."""
        self._follow()
        started = now()
        progress, take = self.progress, step or self.trainer.step
        try:
            loss = await self.compute.train(lambda: take(progress))
        except DivergedError as error:
            self.emit(Noted("error", str(error)))
            loss = float("nan")
        self.membership.set_state(State.FINISHED if self._is_over else State.TRAINING, self.step)
        ended = now()
        if ended - self._told >= TOLD_EVERY_S or self.finished:
            self._told = ended
            self.emit(Stepped(self.step, loss, ended - started))
        self._stepped.tell()
        if now() - self._evaluated >= self.run.evaluate_every:
            await self.evaluate()
        return loss

    async def gradient(self, at: Tensor) -> Tensor | None:
        """That of this node's loss at another point, (d,), which becomes the model: a step for methods that move by
        themselves. None: it was not finite, which is said."""
        found: list[Tensor] = []

        def work(_: float) -> float:
            loss, gradient = self.trainer.gradient(at)
            found.append(gradient)
            return loss

        await self.train(work)
        return found[0] if found else None

    async def evaluate(self) -> None:
        """Held-out loss and accuracy of the replica as it is."""
        metrics = await self.compute.run(self.trainer.evaluate)
        self._evaluated = now()
        self.emit(Evaluated(self.step, metrics.loss, metrics.accuracy, metrics.gap))

    async def reached(self, step: float) -> None:
        """Returns once that many steps were taken."""
        while self.step < step:
            await self._stepped.next()

    async def swap(self, peer: PeerId) -> None:
        """Average with a peer; see `Exchanger.swap` for what it raises."""
        before, self._last_partner = self._last_partner, peer
        try:
            await self.exchanger.swap(peer)
        except PeerBusy:
            # A failure counts as a turn, or a dead peer would stay everyone's only fresh one; being busy does not.
            self._last_partner = before
            raise

    async def offer(self) -> None:
        """From now on show the others the replica as it is."""
        await self.settle()
        vector, step = self.trainer.replica.snapshot(), self.step
        self.gatherer.offer(await self.compute.aside(lambda: self.gatherer.prepare(vector, step)))

    async def show(self, peers: Collection[PeerId]) -> None:
        """Show these what was offered, all at once, and be shown what they offer. Who fails is left out, and said;
        who is still being called from an earlier round is not called again."""

        async def share(peer: PeerId) -> None:
            with suppress(PeerError):  # counted and logged where it failed
                await self.gatherer.share(peer)

        async with asyncio.TaskGroup() as group:
            for peer in peers:
                if not self.gatherer.calls(peer):
                    group.create_task(share(peer))

    async def gathered(self, peers: Collection[PeerId], within_s: float) -> None:
        """Returns when those of these that still train have shown something new in this round, or that time is over."""
        give_up = now() + within_s
        while not self.draining and (left_s := give_up - now()) > 0:
            if set(self.trainers()).intersection(peers) <= self.gatherer.shown(0).keys():
                return
            await within(min(left_s, 1.0), self.gatherer.news())  # one of them may leave meanwhile

    async def combine(self, staleness: int) -> int:
        """Become what the run's rule makes of the replica and of what peers have shown in that many rounds; of how many
        peers. Known liars, which are left out, are no longer among the `f` that the rule must bear. With too few for
        the rule the replica stays as it is, which is said."""
        gathered = self.gatherer.gather(staleness)
        shown = list(gathered.values())
        known = sum(self.reputation.shuns(member.peer) for member in self._adjacent(self.membership.view()))
        replica, rule = self.trainer.replica, self.run.aggregator.without(known)

        def work() -> list[float]:
            own = replica.flat.to("cpu")
            mixed = rule(own, torch.stack(shown) if shown else own.new_empty(0, len(own)))
            replica.load(mixed)
            return [float(torch.dist(vector, mixed)) for vector in shown]

        try:
            distances = await self.compute.run(work)
        except TooFewError as error:
            if not self._lacked:
                self.emit(Noted("warning", str(error)))
            self._lacked = True
            return 0
        self._lacked = False
        for peer, distance in zip(gathered, distances, strict=True):
            if distance > FAR * statistics.median(distances):
                self.reputation.blame(peer, "far from the others", reputation.FAR, reputation.MAX_FAR)
        return len(shown)

    def goes_on(self) -> bool:
        """Whether there is another round: until all are through. Who stopped at its own end would leave the others with
        its share of the problem missing."""
        if self.finished:
            self.finish()
        return not self.draining and (not self.finished or self.others_train())

    async def mixed(self, vector: Tensor, kept: slice = NONE) -> Tensor:
        """A round: the average of this vector, (d,), and the neighbours' of the same round; (d,) float64. See
        `Rounds.trade`."""
        return vector.double() + (await self.rounds.trade(vector, kept)).moved

    async def settle(self) -> None:
        """A step boundary without a step: take in what peers sent."""
        await self.compute.run(self.trainer.replica.settle)

    async def merge(self, restore_variance: bool = False) -> None:
        """Become the mean of all replicas that have finished, the same on every node: once, at the end of the run."""
        await self._wait_for_others()
        if self.draining:
            return
        await self.settle()
        vectors: list[tuple[PeerId, Tensor]] = [(self.me, await self.state_server.finish())]
        for member in self.membership.view():
            if member.state in (State.FINISHED, State.DONE) and not self.reputation.shuns(member.peer):
                try:
                    vectors.append((member.peer, await self._final_vector_of(member.peer)))
                except PeerError as error:
                    self.emit(Noted("warning", f"merged without {member.name}: {error}"))
        if len(vectors) == 1:
            return
        # In the order of ids, so that every node rounds alike and ends with the same bits.
        ordered = [vector for _, vector in sorted(vectors, key=lambda pair: pair[0])]
        merged = mean_of(ordered)
        if restore_variance:
            restore(merged, ordered, [where for _, where in named_slices(self.trainer.module)])
        await self.adopt(merged)
        self.emit(Merged(len(vectors)))

    async def _final_vector_of(self, peer: PeerId) -> Tensor:
        """What it brings to the merge, which it may begin a moment after us. Raises `PeerError` when it is gone."""
        give_up = now() + FINAL_PATIENCE_S
        while True:
            try:
                replica, pace = self.trainer.replica, self.exchanger.pace
                found = await download(self.transport, [peer], self.swarm, replica, pace, final=True)
                return found.vector
            except PeerError:
                if self.draining or self.membership.find(peer) is None or now() > give_up:
                    raise
            await asyncio.sleep(0.2)

    async def adopt(self, vector: Tensor) -> None:
        """Replace the replica by another vector, (d,), as soon as no swap holds it."""
        while True:
            try:
                await self.compute.run(lambda: self.trainer.replica.load(vector))
                return
            except PeerBusy:
                await asyncio.sleep(0.01)

    async def _wait_for_others(self) -> None:
        """Others may still average with this node while it waits."""
        await self.settle()
        self.finish()
        deadline = now() + MERGE_PATIENCE_S
        while not self.draining and self.others_train():
            if now() > deadline:
                self.emit(Noted("warning", "merging without those that are still training"))
                return
            await within(1.0, self.membership.changed())
            await self.settle()

    def others_train(self) -> bool:
        """Or are about to."""
        return any(member.state in (State.STARTING, State.TRAINING) for member in self.membership.view())

    def _follow(self) -> None:
        """Go by the graph of the epoch of those that are furthest in the run; there is no way back. A node that is slow
        or came late would else talk to others who do not talk to it. Where the run's rule bears f liars, one more than
        f neighbours must say that it is so late."""
        if self._plan is None or not self._plan.schedule:
            return
        said = sorted((member.epoch for member in self._adjacent(self._unshunned())), reverse=True)
        told = said[self.run.aggregator.borne or 0 :][:1]
        epoch = min(max(self.epoch, self._plan.epoch_at(self.progress), *told), len(self._plan.epochs) - 1)
        if epoch != self.epoch:
            self.epoch, self.graph = epoch, self._plan.epochs[epoch]
            self.membership.set_epoch(epoch)
            self.emit(Noted("info", f"from now on the graph is {self.graph.name}, epoch {epoch} of the schedule"))

    def trusted(self) -> list[Member]:
        """Everybody in the view, but for those in quarantine."""
        self._follow()
        return self._unshunned()

    def _unshunned(self) -> list[Member]:
        return [member for member in self.membership.view() if not self.reputation.shuns(member.peer)]

    def _reachable(self) -> list[Member]:
        return self._adjacent([member for member in self.trusted() if member.reachable])

    def _adjacent(self, members: list[Member]) -> list[Member]:
        """Those of them that are neighbours, if there is a graph."""
        if self.graph is None or self.slot >= self.graph.num_nodes:
            return members
        neighbours = self.graph.neighbours(self.slot)
        return [member for member in members if member.slot in neighbours]


def mean_of(vectors: list[Tensor]) -> Tensor:
    """Mean of (d,) vectors, summed in the order given."""
    total = vectors[0].clone()
    for vector in vectors[1:]:
        total += vector
    return total / len(vectors)


def restore(mean: Tensor, vectors: list[Tensor], tensors: list[slice]) -> None:
    """Variance-corrected averaging, in place: averaging k uncorrelated models divides each tensor's variance by up to
    k, so each tensor of the mean is stretched about its own mean back to the average variance of the models. The
    factor is clipped to [1, sqrt k]; for models that agree it is 1."""
    for where in tensors:
        if where.stop - where.start < 2:
            continue
        part = mean[where]
        wanted = torch.stack([vector[where].var() for vector in vectors]).mean()
        factor = (wanted / part.var().clamp_min(1e-30)).sqrt().clamp(1.0, len(vectors) ** 0.5)
        middle = part.mean()
        part.sub_(middle).mul_(factor).add_(middle)
