"""MQTT packets as amqtt reads and writes them, but whole, bounded, and with an end to every wait."""

import asyncio
from collections.abc import Awaitable, Callable

from amqtt.adapters import ReaderAdapter, StreamWriterAdapter

from p2ptrain.ports import AIRED_BYTES_MAX
from p2ptrain.waiting import now

PACKET_BYTES_MAX = AIRED_BYTES_MAX + 1024
LENGTH_BYTES_MAX = 4
SILENCE_S = 120.0
"""Who says nothing for so long is gone; sooner, where a client has promised to say something sooner."""
STUCK_S = 60.0
"""Who takes nothing for so long is gone too."""


class Packets(ReaderAdapter):
    """What one client sends. The end of it is also where something is wrong with it."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._packet, self._at = b"", 0
        self._heard, self._silence_s = now(), SILENCE_S
        self._is_over = False

    def begin(self, connect: bytes, keep_alive_s: int, turn: Callable[[int], Awaitable[bool]]) -> None:
        """With this packet in place of the first one. `turn` is given the size of the last packet, and awaited before
        the next one; False is the end."""
        self._packet, self._at = connect, 0
        self._silence_s = min(1.5 * keep_alive_s or SILENCE_S, SILENCE_S)
        self._turn = turn

    async def read(self, n: int = -1) -> bytes:
        """At most n bytes, none of them beyond the packet's end; nothing when there are no more packets."""
        if n and self._at == len(self._packet):
            self._packet, self._at = await self._next(), 0
        start, self._at = self._at, min(self._at + n, len(self._packet))
        return self._packet[start : self._at]

    def feed_eof(self) -> None:
        self._is_over = True

    async def _next(self) -> bytes:
        since = now()
        if self._is_over or not await self._turn(len(self._packet)):
            return b""
        self._heard += now() - since  # that was no silence of the client's
        try:
            async with asyncio.timeout_at(self._heard + self._silence_s):
                packet = await self.take()
        except (TimeoutError, asyncio.IncompleteReadError, OSError, ValueError):
            self._is_over = True
            return b""
        self._heard = now()
        return packet

    async def take(self) -> bytes:
        """The next packet from the connection. Raises `ValueError` when it is too long.

        May be cancelled while it waits for the first byte, as amqtt does each keep-alive; later, that ends it all."""
        header = await self._reader.readexactly(1)
        was_over, self._is_over = self._is_over, True
        length = 0
        for place in range(LENGTH_BYTES_MAX):
            header += await self._reader.readexactly(1)
            length |= (header[-1] & 0x7F) << 7 * place
            if header[-1] < 0x80:
                break
        if length > PACKET_BYTES_MAX or header[-1] >= 0x80:
            raise ValueError(f"a packet of {length} bytes")
        packet = header + await self._reader.readexactly(length)
        self._is_over = was_over
        return packet


class Outgoing(StreamWriterAdapter):
    """What one client is sent."""

    async def drain(self) -> None:
        try:
            async with asyncio.timeout(STUCK_S):
                await super().drain()
        except TimeoutError:
            self._writer.transport.abort()
            raise ConnectionResetError("it takes nothing") from None

    async def close(self) -> None:
        """Does not wait for the client to take what is left: amqtt closes in places where all others would wait too."""
        self.is_closed = True
        self._writer.close()
