"""The real machine under a node: identity and TLS, gRPC, the DHT, one worker thread, a folder, the clock.

Put together in that order, taken down in the other.
"""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

from node import resolve
from node.leash import Orders, die
from p2ptrain.config import NodeConfig, NodeFile
from p2ptrain.daemon import Daemon, Machine
from p2ptrain.errors import ConfigError, PeerError
from p2ptrain.network.dht import DhtDirectory
from p2ptrain.network.identity import Identity
from p2ptrain.network.multiaddrs import split_bootstrap
from p2ptrain.network.tls import Credentials
from p2ptrain.network.transport import Cleartext, GrpcTransport
from p2ptrain.ports import Channel, PeerId, Sink
from p2ptrain.telemetry.events import Rejected
from p2ptrain.training.compute import ThreadCompute, give_way
from p2ptrain.training.folder import Folder


async def run_node(file: NodeFile, sink: Sink, orders: Orders | None = None) -> int:
    """Run until the training is over or a signal comes; the exit code (130 after SIGINT). Raises `ConfigError`."""
    async with AsyncExitStack() as stack:
        interrupt = _Interrupt(stack)
        daemon = await Daemon.assemble(file, await set_up(file, sink, stack, orders or Orders()))
        interrupt.concerns(daemon)
        await daemon.run()
    return 130 if interrupt.number == signal.SIGINT else 0


class _Interrupt:
    """The first SIGINT or SIGTERM asks the daemon to leave, the second ends the process at once."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.number: int | None = None
        self._daemon: Daemon | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._caught, number)
            stack.callback(loop.remove_signal_handler, number)

    def concerns(self, daemon: Daemon) -> None:
        self._daemon = daemon
        if self.number is not None:
            daemon.stop()

    def _caught(self, number: int) -> None:
        if self.number is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.number = number
        if self._daemon is not None:
            self._daemon.stop()


async def set_up(file: NodeFile, sink: Sink, stack: AsyncExitStack, orders: Orders) -> Machine:
    """Takes ports and starts helpers, all of which `stack` gives back. Raises `ConfigError`."""
    config = file.node
    compute = ThreadCompute(config.speed, config.threads, config.step)
    stack.callback(compute.close)
    give_way(never_waits=config.speed == 1 and not config.step)
    resolve.make_home(config)
    identity = Identity.load_or_create(config.home)
    credentials = Credentials(identity, config.key, file.name) if config.tls else None

    def turned_away(caller: str, error: PeerError) -> None:
        sink.emit(Rejected(PeerId(caller), error.reason, error.detail))

    transport = GrpcTransport(identity.peer, credentials or Cleartext(), turned_away, config.proxy)
    address = transport.bind(config.listen)
    stack.push_async_callback(transport.close)
    hosts, multiaddrs = split_bootstrap(config.bootstrap) if config.calls else ([], [])
    return Machine(
        peer=identity.peer,
        public_key=identity.public_key,
        sign=identity.sign,
        certificate=credentials.certificate_der if credentials else b"",
        addresses=config.announce or (address,),
        bootstrap=tuple(hosts),
        transport=transport,
        directory=await _start_directory(file.name, config, multiaddrs, sink, stack) if config.calls else None,
        channel=_channel(file, identity.peer, sink),
        compute=compute,
        home=Folder(config.home),
        checkpoints=TearableFolder(config.home / "checkpoints", orders),
        now_unix=orders.now_unix,
        emit=sink.emit,
        life=os.urandom(8).hex(),
    )


def _channel(file: NodeFile, peer: PeerId, sink: Sink) -> Channel | None:
    if file.node.carrier == "grpc" or file.node.mqtt is None:
        return None
    from p2ptrain.network.broker.login import reached_at
    from p2ptrain.network.channel import MqttChannel  # brings aiomqtt, which most nodes do without

    return MqttChannel(reached_at(file.node.mqtt, file.node.key, file.name), file.name, peer, sink.emit)


class TearableFolder(Folder):
    """The power can be told to fail in the middle of a write."""

    def __init__(self, path: Path, orders: Orders) -> None:
        super().__init__(path)
        self._orders = orders

    def write(self, name: str, content: bytes) -> None:
        if self._orders.tear:
            super().write(name, content[: len(content) // 2])
            die()
        super().write(name, content)


async def _start_directory(
    swarm: str, config: NodeConfig, multiaddrs: list[str], sink: Sink, stack: AsyncExitStack
) -> DhtDirectory | None:
    if not config.dht:
        if multiaddrs:
            raise ConfigError(f"node.bootstrap: {multiaddrs[0]} is a DHT address, but node.dht is off")
        return None
    directory = DhtDirectory(
        swarm, config.key, home=config.home, listen=config.dht_listen, bootstrap=multiaddrs, emit=sink.emit
    )
    await directory.start()
    stack.push_async_callback(directory.close)
    return directory
