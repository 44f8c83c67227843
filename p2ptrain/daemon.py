"""One node's life, on whatever machine: start, find the swarm, get its weights, train, stay for the others, leave.

The machine (its ports) is given; so the same life runs on real machines (`node.machine`) and in simulated ones.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

from p2ptrain import chaos, seeds
from p2ptrain.config import NodeFile
from p2ptrain.errors import ConfigError, PeerError
from p2ptrain.exchange.gather import Gatherer
from p2ptrain.exchange.liar import Liar, Sight, see
from p2ptrain.exchange.pairwise import Exchanger
from p2ptrain.exchange.reputation import Reputation
from p2ptrain.exchange.statements import Author
from p2ptrain.exchange.witness import Witness
from p2ptrain.node import Node
from p2ptrain.ports import Channel, Compute, Directory, Disk, PeerId, Transport
from p2ptrain.swarm import describe
from p2ptrain.swarm.beats import Settings
from p2ptrain.swarm.membership import Membership
from p2ptrain.swarm.records import Record, seal
from p2ptrain.swarm.state import StateServer, download
from p2ptrain.swarm.view import Member, Members, State
from p2ptrain.telemetry.events import Event, Fetched, Noted, Resumed, Saved, Started, Stopped
from p2ptrain.training import checkpoints, devices
from p2ptrain.training.replica import Replica
from p2ptrain.training.splits import examples
from p2ptrain.training.trainer import Trainer
from p2ptrain.waiting import now, within

SEEN_ROUNDS = 8
"""So old may be what a liar uses of what it was shown."""
DISCOVERY_S = 5.0
"""How long a node that was told of others looks for them before it starts alone."""
SEARCH_S = 60.0
"""The same while one of the addresses may still lead to somebody: it has neither refused nor been reached."""
STOP_TIMEOUT_S = 10.0
"""How long training, swaps and doubts may take to end after a signal."""
LINGER_S = 600.0
"""How long a node that is done stays for those that are not."""
FINAL = "final.safetensors"
"""What a node leaves behind: its last replica as one float32 tensor `flat`."""


@dataclass
class Machine:
    """What a node stands on."""

    peer: PeerId
    public_key: bytes
    """Ed25519; `peer` is derived from it."""
    sign: Callable[[bytes], bytes]
    certificate: bytes
    """DER; empty where there is no TLS."""
    addresses: tuple[str, ...]
    """host:port under which others reach `transport`."""
    bootstrap: tuple[str, ...]
    """host:port of others."""
    transport: Transport
    directory: Directory | None
    compute: Compute
    home: Disk
    checkpoints: Disk
    now_unix: Callable[[], float]
    """This machine's clock, which may be wrong."""
    emit: Callable[[Event], None]
    life: str
    """Different after each start: what is drawn at random now must not be what was drawn in the last life."""
    spy: Callable[[], tuple[dict[PeerId, Tensor], int]] | None = None
    """For a liar that knows everything: what all honest nodes would say, in order of slots, and how many liars there
    are. Otherwise it knows what it is shown."""
    channel: Channel | None = None
    """What reaches others without a call, for methods that can do with it."""
    members: Members | None = None
    """Who tells the node of others, where that is not `Membership` over `transport` and `directory`."""


class Daemon:
    """One node and its services."""

    def __init__(self, file: NodeFile, machine: Machine, trainer: Trainer) -> None:
        run, config = file.run, file.node
        self.file, self.run_config, self.config = file, run, config
        self.machine, self.trainer, self.emit = machine, trainer, machine.emit
        self._stopping = asyncio.Event()
        self._has_weights = False
        self._orphan = False
        self._is_warm = False
        self._warming = asyncio.Lock()
        self._rng = rng = partial(seeds.python_random, run.seed, machine.peer, machine.life)
        settings = Settings(machine.peer, file.name, config.key, config.heartbeat, machine.bootstrap)
        self.membership: Members = machine.members or Membership(
            machine.transport, machine.directory, self._make_record, settings,
            rng=rng("membership"), now_unix=machine.now_unix, emit=self.emit,
        )  # fmt: skip
        self.reputation = Reputation(machine.emit, now)
        liar = None if config.attack is None else Liar(config.attack, run.aggregator, self._numpy_rng(), self._spy)
        self.exchanger = Exchanger(
            transport=machine.transport,
            shared=run.strategy.shared(trainer.replica),
            run=file.name,
            codec=run.codec,
            aggregator=run.aggregator,
            emit=self.emit,
            rng=rng("exchange"),
            step=lambda: trainer.steps,
            ready=lambda: self._has_weights and not self._orphan and self._is_warm,
            liar=liar,
            reputation=self.reputation,
        )
        author = Author(file.name, machine.public_key, machine.sign, machine.now_unix)
        self.witness = Witness(file.name, machine.peer, machine.transport, self.reputation, rng("witness"))
        self.gatherer = Gatherer(
            machine.peer, machine.transport, self.exchanger.talk, rng("gather"), author, self.witness, liar
        )
        self.state_server = StateServer(
            machine.transport, trainer.replica, file.name, rng("state"),
            step=lambda: trainer.steps, ready=lambda: self._has_weights and not self._orphan,
        )  # fmt: skip
        describe.serve(machine.transport, file.model_dump(mode="json", include={"run", "graph"}))
        self.node = Node(
            me=machine.peer, name=config.name, slot=config.slot, run=run, swarm=file.name, graph=file.graph,
            transport=machine.transport, membership=self.membership, compute=machine.compute, trainer=trainer,
            exchanger=self.exchanger, gatherer=self.gatherer, state_server=self.state_server, emit=self.emit,
            home=machine.home, public_key=machine.public_key, sign=machine.sign, reputation=self.reputation,
            channel=machine.channel,
        )  # fmt: skip
        self.node.service = run.strategy.serve(self.node)

    def _numpy_rng(self) -> np.random.Generator:
        return seeds.numpy_random(self.run_config.seed, self.machine.peer, self.machine.life, "lies")

    def _spy(self, peer: PeerId) -> Sight | None:
        honest, liars = self.machine.spy() if self.machine.spy else (self.gatherer.shown(SEEN_ROUNDS), 1)
        member = self.membership.find(peer)
        return see(honest, peer, member.slot if member else 0, liars)

    @classmethod
    async def assemble(cls, file: NodeFile, machine: Machine) -> "Daemon":
        """With the model and data of the run, as the last checkpoint left them. Raises `ConfigError`."""
        # On the compute thread: it may take seconds, and heartbeats must go on.
        return cls(file, machine, await machine.compute.run(lambda: build_trainer(file, machine)))

    def stop(self) -> None:
        """Leave in order, as soon as can be."""
        self._stopping.set()

    async def run(self) -> None:
        """From the first call let in to the last goodbye."""
        await self.machine.transport.start()
        config, replica = self.config, self.trainer.replica
        device = str(replica.device) if config.profile is None else config.profile
        address, size, is_open = self.machine.addresses[0], replica.num_parameters, config.key is None
        self.emit(Started(self.machine.peer, config.slot, device, address, size, is_open))
        if is_open:
            self.emit(Noted("info", "this swarm is open: it has no key, so anyone who reaches it can join"))
        self.membership.set_state(State.STARTING, self.node.step)  # so that those who have nothing wait for who resumes
        await self._live()

    def _make_record(self, sequence: int, expires_unix_s: float) -> bytes:
        machine, config = self.machine, self.config
        dht = tuple(machine.directory.addresses()) if machine.directory else ()
        record = Record(
            machine.peer, config.name, config.slot, machine.addresses, dht, machine.certificate, sequence,
            expires_unix_s,
        )  # fmt: skip
        return seal(record, self.file.name, config.key, machine.public_key, machine.sign)

    async def _live(self) -> None:
        """Serve in the background; join, train, stay for the others; leave."""
        async with asyncio.TaskGroup() as group:
            services = [
                group.create_task(self.membership.run()),
                group.create_task(self.exchanger.settle_doubts()),
                group.create_task(self.state_server.expire()),
                group.create_task(self.witness.run_for_ever(self.node.peers)),
                group.create_task(self._save_for_ever()),
                group.create_task(self._warm_when_not_alone()),
                group.create_task(self._adopt_swarm_if_orphan()),
            ]
            if directory := self.machine.directory:
                services.append(group.create_task(directory.run()))
                services.append(group.create_task(self._introduce_dht_nodes(directory)))
            await self._until_stopped(self._train_and_linger())
            await self._drain()
            for service in services:
                service.cancel()

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`; after a signal, ask it to end and cancel it when it does not."""
        task = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.node.draining = True
                await asyncio.wait({task}, timeout=STOP_TIMEOUT_S if self._has_weights else 0)
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        finally:
            stopping.cancel()
            task.cancel()

    async def _train_and_linger(self) -> None:
        await self._get_weights()
        self.node.begin()
        self.membership.set_state(State.TRAINING, self.node.step)
        await self.node.evaluate()
        await self.run_config.strategy.run(self.node)
        self.node.finish()
        await self.node.settle()
        await self.node.evaluate()
        self.membership.set_state(State.DONE, self.node.step)
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self.node.draining and any(member.state != State.DONE for member in self.membership.view()):
                    await self.membership.changed()

    async def _get_weights(self) -> None:
        """The swarm's weights if it has any: a newcomer must not drag it back to a random start."""
        self._orphan, wait_s = True, 0.5
        while self._orphan and (donors := await self._look_around()):
            self._orphan = not (self.run_config.strategy.brings_weights or await self._fetch(donors))
            if self._orphan:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, 10.0)
        if self.run_config.strategy.brings_weights:
            self._orphan = False
        if not self.membership.alone:
            await self._warm()
        self._has_weights = True

    async def _look_around(self) -> list[Member]:
        """Who has weights and answers; waits for somebody, as long as there is hope. Who calls first may be a newcomer
        too, or not yet called back."""
        started = now()
        while not self._donors() and self.config.bootstrap:
            in_sight = self.membership.searching or bool(self._with_weights()) or self._others_resume()
            if now() - started > (SEARCH_S if in_sight else DISCOVERY_S):
                break
            await self._look_again()
        return self._donors()

    def _others_resume(self) -> bool:
        """Whether this node has nothing, and somebody who starts too has taken steps in an earlier life."""
        return self.node.step == 0 and any(
            member.state == State.STARTING and member.step > 0 for member in self.membership.view()
        )

    def _with_weights(self) -> list[Member]:
        states = (State.TRAINING, State.FINISHED, State.DONE)
        return [member for member in self.membership.view() if member.state in states]

    def _donors(self) -> list[Member]:
        return [member for member in self._with_weights() if member.reachable]

    async def _fetch(self, donors: list[Member]) -> bool:
        """Download from random donors; whether that worked."""
        order = [member.peer for member in donors]
        self._rng(f"donors-{now()}").shuffle(order)
        started = now()
        replica, pace = self.trainer.replica, self.exchanger.pace
        try:
            found = await download(self.machine.transport, order, self.file.name, replica, pace)
        except PeerError as error:
            self.emit(Noted("warning", f"cannot get the swarm's weights yet: {error}"))
            return False
        await chaos.point("fetched")
        await self.node.adopt(found.vector)
        self.emit(Fetched(found.step, len(found.donors), found.bytes_received, now() - started))
        return True

    async def _adopt_swarm_if_orphan(self) -> None:
        """A node that found nobody trains alone; once it meets a swarm that is further, it takes over its weights."""
        while not self._has_weights or self.membership.alone:
            await self._look_again()
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCOVERY_S):  # those ahead may only dial out, and so cannot be asked
                while self._orphan and any(member.step > self.node.step for member in self._with_weights()):
                    ahead = [member for member in self._donors() if member.step > self.node.step]
                    if ahead and await self._fetch(ahead):
                        break
                    await self._look_again()
        self._orphan = False

    async def _look_again(self) -> None:
        """After a moment, or when the view has changed."""
        await within(0.1, self.membership.changed())

    async def _warm_when_not_alone(self) -> None:
        """Compile or load what swaps need before the first one; a node alone does not pay for it."""
        while self.membership.alone:
            await self.membership.changed()
        await self._warm()

    async def _warm(self) -> None:
        """No swap before this is done: encoding waits, on the event loop, for what another thread is importing."""
        async with self._warming:
            if not self._is_warm:
                await self.machine.compute.aside(lambda: self.run_config.codec.warm(self.exchanger.shared.size))
                await self.machine.compute.aside(self.run_config.aggregator.warm)
            self._is_warm = True

    async def _introduce_dht_nodes(self, directory: Directory) -> None:
        while True:
            await self.membership.changed()
            for member in self.membership.view():
                directory.learn(member.dht)

    async def _save_for_ever(self) -> None:
        saved = self.node.step
        while True:
            await asyncio.sleep(self.config.checkpoint_every)
            if self._has_weights and self.node.step != saved:
                await self._save()
                saved = self.node.step

    async def _save(self) -> None:
        started, machine = now(), self.machine
        now_unix = machine.now_unix()
        checkpoint = await machine.compute.run(lambda: checkpoints.capture(self.trainer, self.file.name, now_unix))
        try:
            await machine.compute.aside(lambda: checkpoints.save(machine.checkpoints, checkpoint))
        except ConfigError as error:
            self.emit(Noted("error", f"no checkpoint was written: {error}"))
            return
        await chaos.point("saved")
        self.emit(Saved(checkpoint.step, now() - started))

    async def _drain(self) -> None:
        """Settle what is under way, say goodbye, leave the final state on disk."""
        await self.node.settle()
        await within(STOP_TIMEOUT_S, self.exchanger.settled())
        await self.membership.leave()
        await self.node.settle()
        if self._has_weights:
            await self._save()
            vector = self.trainer.replica.snapshot()
            await self.machine.compute.aside(lambda: self._leave_behind(safetensors.torch.save({"flat": vector})))
        self.emit(Stopped(self.node.step, self.trainer.replica.digest()))

    def _leave_behind(self, content: bytes) -> None:
        home = self.machine.home
        home.write(f"{FINAL}.tmp", content)
        home.rename(f"{FINAL}.tmp", FINAL)


def build_trainer(file: NodeFile, machine: Machine) -> Trainer:
    """On the thread that owns the model. Raises `ConfigError`."""
    run, config = file.run, file.node
    shards = run.data.shards or (file.graph.num_nodes if file.graph else 1)
    own = examples(run.task.labels(), run.data, shards, config.slot, run.seed)
    replica = Replica(run.task.start(run.seed), devices.pick(config.device))
    recipe = run.strategy.model_copy(update={"precision": config.precision})
    trainer = Trainer(run.task, replica, own, recipe, seed=run.seed, slot=config.slot)
    if config.attack is not None and config.attack.kind == "data":
        trainer.falsify = partial(config.attack.targets, num_classes=int(run.task.labels().max()) + 1)
    found, refused = checkpoints.latest(machine.checkpoints, replica.fingerprint, file.name)
    for error in refused:
        machine.emit(Noted("warning", str(error)))
    if found is not None:
        checkpoints.restore(trainer, found)
        machine.emit(Resumed(found.step))
    return trainer
