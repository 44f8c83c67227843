"""A node can be the MQTT broker that others meet at: `node.broker: host:port`, or `user:password@host:port`.

It runs in a thread with an event loop of its own: what strangers send to it, and what goes wrong in it, is not the
node's. Needs the extra `broker` (amqtt).
"""

import asyncio
import errno
import importlib
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from p2ptrain.errors import ConfigError
from p2ptrain.network.broker.login import MEMBER, member_password
from p2ptrain.telemetry.events import Event, Noted
from p2ptrain.telemetry.mqtt_broker import PASSWORD_VARIABLE, Broker
from p2ptrain.telemetry.own_broker import OwnAddress
from p2ptrain.training.compute import give_way
from p2ptrain.waiting import within

if TYPE_CHECKING:
    from p2ptrain.network.broker.door import Door

EXTRA = "pip install 'p2ptrain[broker]'"
AGAIN_S = 1.0
"""After a failure of its own it starts again, but not at once."""
CLOSE_S = 10.0
BACKLOG = 64


class OwnBroker:
    """It has its port from the beginning, and serves while `running`."""

    def __init__(self, where: str, key: str | None, run: str) -> None:
        """Raises `ConfigError`: what is wrong with `node.broker`, and what to do about it."""
        self._door = _door()
        self._logins = {} if key is None else {MEMBER: member_password(key, run)}
        told = Broker.parse(f"mqtt://{where}")
        if told.username is not None:
            if not told.password:
                raise ConfigError(
                    f"node.broker: {told.username} has no password; write user:password@host:port, "
                    f"or set {PASSWORD_VARIABLE}"
                )
            self._logins[told.username] = told.password
        wanted = OwnAddress.parse(where)
        self._socket = _listening(wanted.host, wanted.port)
        self.where = wanted._replace(port=self._socket.getsockname()[1])

    @asynccontextmanager
    async def running(self, emit: Callable[[Event], None]) -> AsyncIterator[None]:
        """`emit`, which is called from the running loop, takes what a person should know. At the end all connections
        are closed, and the port is free."""
        loop = asyncio.get_running_loop()
        emit(Noted("info", f"this node is a broker at {self.where.address}{self._for_whom()}"))
        served = _Served(self._socket, lambda: self._door(self._logins), partial(loop.call_soon_threadsafe, emit))
        served.start()
        try:
            yield
        finally:
            await served.close()

    def _for_whom(self) -> str:
        if self._logins:
            return ""
        return ", which is open: it has no password and the swarm no key, so anyone who reaches it can use it"


class _Served:
    """The broker's thread."""

    def __init__(self, listening: socket.socket, door: "Callable[[], Door]", tell: Callable[[Event], object]) -> None:
        self._socket, self._door, self._tell = listening, door, tell
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="broker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        await asyncio.to_thread(self._thread.join, CLOSE_S)
        self._socket.close()

    def _main(self) -> None:
        give_way()
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        # What amqtt's tasks fail with ends one connection, or loses one message, and is nothing that a person can mend.
        self._loop.set_exception_handler(lambda loop, context: None)
        while not self._closing.is_set():
            try:
                async with self._door().open(self._socket.dup()) as broken:
                    closing = asyncio.ensure_future(self._closing.wait())
                    await asyncio.wait({closing, broken}, return_when=asyncio.FIRST_COMPLETED)
                    closing.cancel()
                    if broken.done():
                        broken.result()
            except Exception as error:  # whatever it is: the node trains on, and says what has become of its broker
                self._tell(Noted("warning", f"the broker of this node has failed, and starts again: {error!r}"))
                await within(AGAIN_S, self._closing.wait())


def _door() -> "type[Door]":
    """Raises `ConfigError`."""
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        return importlib.import_module("p2ptrain.network.broker.door").Door
    except ImportError as error:
        raise ConfigError(f"node.broker: needs {error.name or 'amqtt'}: {EXTRA}") from None


def _listening(host: str, port: int) -> socket.socket:
    """Raises `ConfigError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = {
            errno.EADDRINUSE: "the port is in use; choose another one, or stop what listens there",
            errno.EADDRNOTAVAIL: "is no address of this machine; 0.0.0.0 stands for all that it has",
            errno.EACCES: "is not for everyone; choose a port above 1023",
        }.get(error.errno or 0, f"{error.strerror or error}; write host:port with an address of this machine")
        raise ConfigError(f"node.broker: {host}:{port}: {reason}") from None
