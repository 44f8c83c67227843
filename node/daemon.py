"""The daemon: puts one node together, runs it, and takes it down again.

identity, TLS, gRPC server  ->  DHT, membership  ->  replica, trainer  ->  exchanges  ->  strategy
"""

import asyncio
import signal
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from p2ptrain import seeds
from p2ptrain.config import NodeFile
from p2ptrain.errors import ConfigError, PeerError
from p2ptrain.exchange import Exchanger
from p2ptrain.network.dht import DhtDirectory
from p2ptrain.network.identity import Identity
from p2ptrain.network.multiaddrs import split_bootstrap
from p2ptrain.network.tls import Credentials
from p2ptrain.network.transport import Cleartext, GrpcTransport
from p2ptrain.node import Node
from p2ptrain.ports import PeerId, Sink
from p2ptrain.swarm import describe
from p2ptrain.swarm.beats import Settings
from p2ptrain.swarm.membership import Membership
from p2ptrain.swarm.records import Record, seal
from p2ptrain.swarm.state import StateServer, download
from p2ptrain.swarm.view import Member, State
from p2ptrain.telemetry.events import Fetched, Noted, Rejected, Resumed, Saved, Started, Stopped
from p2ptrain.training import checkpoints, devices
from p2ptrain.training.compute import ThreadCompute
from p2ptrain.training.replica import Replica
from p2ptrain.training.splits import examples
from p2ptrain.training.trainer import Trainer

DISCOVERY_S = 5.0
"""How long a node that was told of others looks for them before it starts alone."""
SEARCH_S = 60.0
"""The same while one of the addresses may still lead to somebody: it has neither refused nor been reached."""
STOP_TIMEOUT_S = 10.0
"""How long training, swaps and doubts may take to end after a signal."""
LINGER_S = 600.0
"""How long a node that is done stays for those that are not."""


async def run_node(file: NodeFile, sink: Sink) -> int:
    """Run until the training is over or a signal comes; the exit code (130 after SIGINT). Raises `ConfigError`."""
    daemon = Daemon(file, sink)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, daemon.stop, number)
    try:
        await daemon.run()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return 130 if daemon.stopped_by == signal.SIGINT else 0


class Daemon:
    """One node and everything around it."""

    def __init__(self, file: NodeFile, sink: Sink) -> None:
        self.file, self.run_config, self.config = file, file.run, file.node
        self.emit = sink.emit
        self.stopped_by: int | None = None
        self._stopping = asyncio.Event()
        self._has_weights = False
        self._orphan = False
        self._is_warm = False
        self._warming = asyncio.Lock()

    def stop(self, number: int) -> None:
        """A second signal ends the process at once."""
        if self._stopping.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.stopped_by = number
        self._stopping.set()

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            compute = ThreadCompute(self.config.speed, self.config.threads)
            stack.callback(compute.close)
            await self._assemble(compute, stack)
            await self._live()

    async def _assemble(self, compute: ThreadCompute, stack: AsyncExitStack) -> None:
        config, run = self.config, self.run_config
        try:
            config.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"node.home: {config.home}: {error.strerror}") from None
        identity = Identity.load_or_create(config.home)
        credentials = Credentials(identity, config.key, self.file.name) if config.tls else None
        self.transport = GrpcTransport(identity.peer, credentials or Cleartext(), self._turned_away)
        address = self.transport.bind(config.listen)
        stack.push_async_callback(self.transport.close)
        announced = config.announce or (address,)
        self.directory = await self._start_directory(stack)
        self.trainer = await compute.run(self._build_trainer)
        rng = partial(seeds.python_random, run.seed, identity.peer)

        def make_record(sequence: int, expires_unix_s: float) -> bytes:
            dht = tuple(self.directory.addresses()) if self.directory else ()
            certificate = credentials.certificate_der if credentials else b""
            record = Record(
                identity.peer, config.name, config.slot, announced, dht, certificate, sequence, expires_unix_s
            )
            return seal(record, self.file.name, config.key, identity.public_key, identity.sign)

        hosts = tuple(split_bootstrap(config.bootstrap)[0])
        settings = Settings(identity.peer, self.file.name, config.key, config.heartbeat, hosts)
        self.membership = Membership(
            self.transport, self.directory, make_record, settings,
            rng=rng("membership"), now_unix=time.time, emit=self.emit,
        )  # fmt: skip
        self.exchanger = Exchanger(
            transport=self.transport,
            replica=self.trainer.replica,
            run=self.file.name,
            codec=run.codec,
            aggregator=run.aggregator,
            emit=self.emit,
            rng=rng("exchange"),
            step=lambda: self.trainer.steps,
            ready=lambda: self._has_weights and not self._orphan and self._is_warm,
        )
        state_server = StateServer(
            self.transport, self.trainer.replica, self.file.name, rng("state"),
            step=lambda: self.trainer.steps, ready=lambda: self._has_weights and not self._orphan,
        )  # fmt: skip
        self.state_server = state_server
        described = self.file.model_dump(mode="json", include={"run", "graph"})
        describe.serve(self.transport, described)
        self.compute = compute
        self.node = Node(
            me=identity.peer, name=config.name, slot=config.slot, run=run, swarm=self.file.name, graph=self.file.graph,
            transport=self.transport, membership=self.membership, compute=compute, trainer=self.trainer,
            exchanger=self.exchanger, state_server=state_server, emit=self.emit,
        )  # fmt: skip
        await self.transport.start()
        device = str(self.trainer.replica.device) if config.profile is None else config.profile
        size = self.trainer.replica.num_parameters
        self.emit(Started(identity.peer, config.slot, device, announced[0], size, open_swarm=config.key is None))
        if config.key is None:
            self.emit(Noted("info", "this swarm is open: it has no key, so anyone who reaches it can join"))

    async def _start_directory(self, stack: AsyncExitStack) -> DhtDirectory | None:
        config = self.config
        multiaddrs = split_bootstrap(config.bootstrap)[1]
        if not config.dht:
            if multiaddrs:
                raise ConfigError(f"node.bootstrap: {multiaddrs[0]} is a DHT address, but node.dht is off")
            return None
        directory = DhtDirectory(
            self.file.name, config.key, home=config.home, listen=config.dht_listen, bootstrap=multiaddrs, emit=self.emit
        )
        await directory.start()
        stack.push_async_callback(directory.close)
        return directory

    def _build_trainer(self) -> Trainer:
        """On the compute thread: it may take seconds, and heartbeats must go on."""
        run, config = self.run_config, self.config
        shards = run.data.shards or (self.file.graph.num_nodes if self.file.graph else 1)
        own = examples(run.task.labels(), run.data, shards, config.slot, run.seed)
        replica = Replica(run.task.model(run.seed), devices.pick(config.device))
        recipe = run.strategy.model_copy(update={"precision": config.precision})
        trainer = Trainer(run.task, replica, own, recipe, seed=run.seed, slot=config.slot)
        self._resume(trainer)
        return trainer

    def _resume(self, trainer: Trainer) -> None:
        found, refused = checkpoints.latest(self._checkpoint_folder, trainer.replica.fingerprint, self.file.name)
        for error in refused:
            self.emit(Noted("warning", str(error)))
        if found is not None:
            checkpoints.restore(trainer, found)
            self.emit(Resumed(found.step))

    @property
    def _checkpoint_folder(self) -> Path:
        return self.config.home / "checkpoints"

    async def _live(self) -> None:
        """Serve in the background; join, train, stay for the others; leave."""
        async with asyncio.TaskGroup() as group:
            services = [
                group.create_task(self.membership.run()),
                group.create_task(self.exchanger.settle_doubts()),
                group.create_task(self.state_server.expire()),
                group.create_task(self._save_for_ever()),
                group.create_task(self._warm_when_not_alone()),
                group.create_task(self._adopt_swarm_if_orphan()),
            ]
            if self.directory:
                services.append(group.create_task(self.directory.run()))
                services.append(group.create_task(self._introduce_dht_nodes(self.directory)))
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
        if self.config.bootstrap:
            await self._look_around()
        self._orphan = not self._donors()
        wait_s = 0.5
        while donors := self._donors():
            if await self._fetch(donors):
                break
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, 10.0)
        if not self.membership.alone:
            await self._warm()
        self._has_weights = True

    async def _look_around(self) -> None:
        """Until somebody has weights and answers: who calls first may be a newcomer too, or not yet called back."""
        now = asyncio.get_running_loop().time
        started = now()
        while not self._donors():
            in_sight = self.membership.searching or bool(self._with_weights())
            if now() - started > (SEARCH_S if in_sight else DISCOVERY_S):
                return
            await self._look_again()

    def _with_weights(self) -> list[Member]:
        states = (State.TRAINING, State.FINISHED, State.DONE)
        return [member for member in self.membership.view() if member.state in states]

    def _donors(self) -> list[Member]:
        return [member for member in self._with_weights() if member.reachable]

    async def _fetch(self, donors: list[Member]) -> bool:
        """Download from random donors; whether that worked."""
        order = [member.peer for member in donors]
        self.node.rng(f"donors-{time.time_ns()}").shuffle(order)
        started = time.monotonic()
        try:
            found = await download(self.transport, order, self.file.name, self.trainer.replica, self.exchanger.pace)
        except PeerError as error:
            self.emit(Noted("warning", f"cannot get the swarm's weights yet: {error}"))
            return False
        await self.node.adopt(found.vector)
        seconds = time.monotonic() - started
        self.emit(Fetched(found.step, len(found.donors), found.bytes_received, seconds))
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
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await self.membership.changed()

    async def _warm_when_not_alone(self) -> None:
        """Compile or load what swaps need before the first one; a node alone does not pay for it."""
        while self.membership.alone:
            await self.membership.changed()
        await self._warm()

    async def _warm(self) -> None:
        """No swap before this is done: encoding waits, on the event loop, for what another thread is importing."""
        async with self._warming:
            if not self._is_warm:
                await asyncio.to_thread(self.run_config.codec.warm)
            self._is_warm = True

    async def _introduce_dht_nodes(self, directory: DhtDirectory) -> None:
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
        started = time.monotonic()
        checkpoint = await self.compute.run(lambda: checkpoints.capture(self.trainer, self.file.name, time.time()))
        try:
            await asyncio.to_thread(checkpoints.save, self._checkpoint_folder, checkpoint)
        except (OSError, ConfigError) as error:
            self.emit(Noted("error", f"no checkpoint was written: {error}"))
            return
        self.emit(Saved(checkpoint.step, time.monotonic() - started))

    async def _drain(self) -> None:
        """Settle what is under way, say goodbye, leave the final state on disk."""
        await self.node.settle()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self.exchanger.settled()
        await self.membership.leave()
        await self.node.settle()
        if self._has_weights:
            await self._save()
            vector = self.trainer.replica.snapshot()
            await asyncio.to_thread(save_file, {"flat": vector}, self.config.home / "final.safetensors")
        self.emit(Stopped(self.node.step, self.trainer.replica.digest()))

    def _turned_away(self, caller: str, error: PeerError) -> None:
        self.emit(Rejected(PeerId(caller), error.reason, error.detail))
