"""What stands between amqtt and whoever connects: who may come in, and how much each may make the broker hold.

amqtt bounds neither messages nor what waits to be sent, ends the session of whoever is called like a newcomer before it
has looked at the newcomer's password, and holds messages for those who are away. So it gets connections from here, one
whole packet after the other, under names of our own, and keeps nothing for anybody who is not there.
"""

import asyncio
import hmac
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from amqtt.adapters import BufferReader
from amqtt.broker import BrokerContext
from amqtt.contexts import Action
from amqtt.errors import MQTTError
from amqtt.mqtt.connack import NOT_AUTHORIZED, ConnackPacket
from amqtt.mqtt.connect import ConnectPacket
from amqtt.plugins.base import BaseTopicPlugin
from amqtt.session import ApplicationMessage, Session

from p2ptrain.network.broker.packets import Outgoing, Packets
from p2ptrain.network.broker.steady import SteadyBroker
from p2ptrain.waiting import now, within

CONNECTIONS_MAX = 128
LOGIN_S = 5.0
LEAVING_S = 2.0
BYTES_PER_S = 8 << 20
"""Of all that comes in: amqtt holds messages for seconds where somebody does not acknowledge them."""
BURST_S = 1.0
UNSENT_BYTES_MAX = 1 << 20
UNACKNOWLEDGED_MAX = 128
"""To one client; what comes then is lost to it."""
UNHANDLED_MAX = 16
"""From one client; it has to wait then."""
FILTERS_MAX = 16
TOPIC_LENGTH_MAX = 256
RETAINED_MAX, RETAINED_BYTES_MAX = 256, 1 << 14


@dataclass(eq=False)
class Visitor:
    """A connection that was let in."""

    writer: asyncio.StreamWriter
    num_filters: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    """One of its messages has been taken up."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def may(self, session: Session, topic: str, action: Action) -> bool:
        if action == Action.RECEIVE:
            unsent = self.writer.transport.get_write_buffer_size()
            return unsent < UNSENT_BYTES_MAX and session.inflight_out_count < UNACKNOWLEDGED_MAX
        if action == Action.PUBLISH:
            self.moved.set()
        else:
            self.num_filters += 1
        return len(topic) <= TOPIC_LENGTH_MAX and self.num_filters <= FILTERS_MAX


class Door:
    """Lets in whoever gives a name and password of `logins`; everyone, if there are none."""

    def __init__(self, logins: dict[str, str]) -> None:
        self.visitors: dict[str, Visitor] = {}
        """By the names under which amqtt knows them."""
        self._logins = logins
        self._called: dict[str, Visitor] = {}  # by what they call themselves
        self._numbers = itertools.count()
        self._writers: set[asyncio.StreamWriter] = set()
        self._free_at = 0.0
        plugins = {
            "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
            f"{__name__}.{Limits.__name__}": {"door": self},
        }
        self._broker = SteadyBroker({"listeners": {"default": {"type": "external"}}, "plugins": plugins})

    @asynccontextmanager
    async def open(self, listening: socket.socket) -> AsyncIterator[asyncio.Future[None]]:
        """Serve meanwhile. What it yields fails when the broker works no more."""
        await self._broker.start()
        server = await asyncio.start_server(self._enter, sock=listening)
        broken = asyncio.ensure_future(self._broker.until_broken())
        try:
            yield broken
        finally:
            server.close()
            await within(LEAVING_S, self._broker.until_handed_out())
            broken.cancel()
            for writer in self._writers:
                writer.transport.abort()
            await within(LEAVING_S, self._broker.shutdown())

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection. Whatever this fails with ends the connection, and nothing else."""
        if len(self._writers) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            packets = Packets(reader)
            async with asyncio.timeout(LOGIN_S):
                connect = await ConnectPacket.from_stream(BufferReader(await packets.take()))
            if self._knows(connect):
                await self._stay(connect, packets, writer)
            else:
                refused = Outgoing(writer)
                refused.write(ConnackPacket.build(0, NOT_AUTHORIZED).to_bytes())
                await refused.close()
                await within(LEAVING_S, writer.wait_closed())
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    def _knows(self, connect: ConnectPacket) -> bool:
        if connect.payload is None:
            return False
        expected = self._logins.get(connect.payload.username or "")
        given = (connect.payload.password or "").encode()
        return not self._logins or (expected is not None and hmac.compare_digest(expected.encode(), given))

    async def _stay(self, connect: ConnectPacket, packets: Packets, writer: asyncio.StreamWriter) -> None:
        called, name = connect.client_id or "", str(next(self._numbers))
        if connect.variable_header is None or connect.payload is None:
            raise MQTTError("not a CONNECT")
        if before := self._called.get(called):  # its connection was lost, unseen so far: its last will comes first
            before.writer.transport.abort()
            await within(LEAVING_S, before.gone.wait())
        visitor = self.visitors[name] = self._called[called] = Visitor(writer)
        writer.transport.set_write_buffer_limits(2 * UNSENT_BYTES_MAX)
        connect.client_id, connect.clean_session_flag = name, True
        packets.begin(connect.to_bytes(), connect.variable_header.keep_alive, partial(self._turn, name, visitor))
        try:
            await self._broker.external_connected(packets, Outgoing(writer), "default")
        finally:
            visitor.gone.set()
            del self.visitors[name]
            if self._called[called] is visitor:
                del self._called[called]
            self._broker.forget_empty_filters()

    async def _turn(self, name: str, visitor: Visitor, num_bytes: int) -> bool:
        """Returns when its next packet may be read; False: none, it owes the ends of too many messages."""
        self._free_at = max(self._free_at, now()) + num_bytes / BYTES_PER_S
        session, _ = self._broker.sessions.get(name, (None, None))
        if session is not None:
            while session.delivered_message_queue.qsize() > UNHANDLED_MAX:
                visitor.moved.clear()
                await visitor.moved.wait()
            if session.inflight_in_count > UNHANDLED_MAX:
                return False
        await asyncio.sleep(self._free_at - BURST_S - now())
        return True


class Limits(BaseTopicPlugin):
    """What amqtt asks before it takes and hands out messages and subscriptions."""

    @dataclass
    class Config(BaseTopicPlugin.Config):
        door: Any

    def __init__(self, context: BrokerContext) -> None:
        super().__init__(context)
        assert isinstance(context.config, Limits.Config)
        self._visitors: dict[str, Visitor] = context.config.door.visitors
        self._retained = context.retained_messages

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        if session is None or action is None:
            return False
        visitor = self._visitors.get(session.client_id or "")
        return visitor is not None and visitor.may(session, topic or "", action)

    async def on_broker_retained_message(self, *, client_id: str | None, retained_message: ApplicationMessage) -> None:
        if len(self._retained) > RETAINED_MAX or len(retained_message.data) > RETAINED_BYTES_MAX:
            self._retained.pop(retained_message.topic, None)
