"""The broker inside a node: who is let in, what it holds, what is said when it cannot be had, and how it ends."""

import asyncio
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiomqtt
import pytest
from notes import Notes
from real_broker import Ear, free_port

from p2ptrain.errors import ConfigError
from p2ptrain.network.broker import OwnBroker, door
from p2ptrain.network.broker.login import reached_at
from p2ptrain.telemetry.mqtt_broker import PASSWORD_VARIABLE, Broker

KEY, RUN = "a key of some length", "run"
SECRET = "wonder/land@home"
WITH_PASSWORD = "alice:wonder%2Fland%40home@127.0.0.1:0"


def packet(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes([first, len(body)]) + body


def string(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


CONNECT = packet(0x10, string("MQTT"), b"\x04\x02\x00\x00", string("me"))
ACCEPTED = packet(0x20, b"\x00\x00")
SUBSCRIBE = packet(0x82, b"\x00\x01", string("p2ptrain/#"), b"\x00")
UNFINISHED = b"".join(packet(0x34, string("x"), number.to_bytes(2, "big"), b"first") for number in range(1, 100))
"""Messages of QoS 2, of which the last word never comes."""


@asynccontextmanager
async def running(where: str = "127.0.0.1:0", key: str | None = None) -> AsyncIterator[tuple[OwnBroker, Notes]]:
    own, told = OwnBroker(where, key, RUN), Notes()
    async with own.running(told.emit):
        yield own, told


def client(own: OwnBroker, **options: object) -> aiomqtt.Client:
    return aiomqtt.Client("127.0.0.1", port_of(own), **options)  # type: ignore[arg-type]


def port_of(own: OwnBroker) -> int:
    return int(own.where.address.rpartition(":")[2])


async def test_one_hears_the_other_and_its_last_will_which_is_retained() -> None:
    async with running() as (own, _), Ear().listening(port_of(own)) as ear:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(own))
        writer.write(
            packet(0x10, string("MQTT"), b"\x04\x2e\x00\x00", *map(string, ("me", "p2ptrain/status", "offline")))
        )
        writer.write(packet(0x30, string("p2ptrain/said"), b"something"))
        await ear.until("said", "something")
        writer.transport.abort()
        assert await ear.until("status") == ["offline"]
        async with Ear().listening(port_of(own)) as late, client(own) as other:
            assert await late.until("status") == ["offline"]
            await other.publish("p2ptrain/much", b"x" * (1 << 16), qos=1)
            assert await ear.until("much") == ["x" * (1 << 16)]


async def test_who_comes_back_under_its_name_is_online_in_the_end() -> None:
    """Its old connection, which it lost and the broker did not, goes first, and with it the last will."""
    async with running() as (own, _), Ear().listening(port_of(own)) as ear:
        will = aiomqtt.Will("p2ptrain/run/me/status", b"offline", qos=1, retain=True)
        async with asyncio.timeout(20), client(own, identifier="me", will=will) as first:
            await first.publish("p2ptrain/run/me/status", b"online once", qos=1, retain=True)
            async with client(own, identifier="me", will=will) as second:
                await second.publish("p2ptrain/run/me/status", b"online twice", qos=1, retain=True)
                await ear.until("me/status", "twice")
                with pytest.raises(aiomqtt.MqttError):
                    async for _ in first.messages:
                        pass
        assert ear.payloads("me/status") == ["online once", "offline", "online twice"]


@pytest.mark.parametrize(
    "wrong",
    [{}, {"username": "alice"}, {"username": "alice", "password": "x"}, {"username": "bob", "password": SECRET}],
)
async def test_with_a_password_strangers_are_refused(wrong: dict[str, str]) -> None:
    async with running(WITH_PASSWORD) as (own, told):
        with pytest.raises(aiomqtt.MqttError, match="Not authorized"):
            async with client(own, **wrong):
                pass
        async with client(own, username="alice", password=SECRET), Broker.parse(own.where.url).client():
            pass
    assert not [note for note in told.said if "open" in note.message]


async def test_a_swarms_key_lets_its_members_in_and_nobody_else() -> None:
    async with running(key=KEY) as (own, _):
        async with reached_at(own.where.url, KEY, RUN).client():
            pass
        for key, run in [(None, RUN), ("another key", RUN), (KEY, "another")]:
            with pytest.raises(aiomqtt.MqttError, match="Not authorized"):
                async with reached_at(own.where.url, key, run).client():
                    pass
    async with running(WITH_PASSWORD, KEY) as (own, _):
        async with reached_at(f"mqtt://127.0.0.1:{port_of(own)}", KEY, RUN).client():
            pass
        async with client(own, username="alice", password=SECRET):
            pass


async def test_a_stranger_does_not_disturb_whose_name_it_takes() -> None:
    async with running(WITH_PASSWORD) as (own, _):
        who = {"username": "alice", "password": SECRET}
        async with Ear().listening(port_of(own), identifier="me", **who) as ear:
            with pytest.raises(aiomqtt.MqttError):
                async with client(own, identifier="me"):
                    pass
            async with client(own, **who) as other:
                await other.publish("p2ptrain/run/said", b"still here", qos=1)
            await ear.until("said", "still here")


async def test_without_password_and_key_it_says_that_it_is_open() -> None:
    async with running() as (own, told), client(own):
        (note,) = told.said
        assert note.message.startswith(f"this node is a broker at {own.where.address}, which is open")


async def read_all(reader: asyncio.StreamReader, timeout_s: float = 20.0) -> bytes:
    """Until the other side closes, however it does."""
    found = b""
    async with asyncio.timeout(timeout_s):
        try:
            while piece := await reader.read(1 << 16):
                found += piece
        except ConnectionResetError:
            pass
    return found


@pytest.mark.parametrize(
    "bad",
    [b"\x30\xff\xff\x7f", b"\x30\x80\x80\x80\x80\x00", packet(0xF0), UNFINISHED],
    ids=["two megabytes are announced", "no length", "no kind", "unfinished"],
)
async def test_who_sends_what_cannot_be_held_is_cut_off(bad: bytes) -> None:
    async with running() as (own, _), Ear().listening(port_of(own)) as ear:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(own))
        writer.write(CONNECT + bad)
        assert (await read_all(reader)).startswith(ACCEPTED)
        writer.close()
        async with client(own) as other:
            await other.publish("p2ptrain/run/said", b"as before", qos=1)
        await ear.until("said", "as before")


async def test_who_does_not_log_in_is_cut_off_and_there_is_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "LOGIN_S", 0.5)
    monkeypatch.setattr(door, "CONNECTIONS_MAX", 3)
    async with running() as (own, _):
        silent = [await asyncio.open_connection("127.0.0.1", port_of(own)) for _ in range(5)]
        assert [await read_all(reader) for reader, _ in silent] == [b""] * 5
        for _, writer in silent:
            writer.close()
        monkeypatch.setattr(door, "LOGIN_S", 30.0)
        async with client(own):
            pass


async def test_who_falls_silent_is_gone_when_it_has_promised_to_speak_sooner() -> None:
    async with running() as (own, _), Ear().listening(port_of(own)) as ear:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(own))
        will = map(string, ("me", "p2ptrain/status", "offline"))
        writer.write(packet(0x10, string("MQTT"), b"\x04\x0e\x00\x01", *will))
        assert await read_all(reader) == ACCEPTED
        assert await ear.until("status") == ["offline"]
        writer.close()


async def test_what_is_retained_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "RETAINED_MAX", 5)
    async with running() as (own, _):
        async with client(own) as flood:
            for index in range(20):
                await flood.publish(f"p2ptrain/run/{index}/status", b"x", qos=1, retain=True)
            await flood.publish("p2ptrain/run/0/status", b"x" * (1 << 15), qos=1, retain=True)
            await flood.publish("p2ptrain/run/end", b"over", qos=1)
        async with Ear().listening(port_of(own)) as ear, client(own) as other:
            await other.publish("p2ptrain/run/said", b"now", qos=1)
            await ear.until("said", "now")
            assert 3 <= len(ear.payloads("/status")) <= 5


async def test_who_does_not_read_loses_messages_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "UNSENT_BYTES_MAX", 1 << 17)
    message, count = b"x" * 60_000, 200
    async with running() as (own, _), client(own) as listener, client(own) as other:
        await listener.subscribe("p2ptrain/#", qos=1)
        heard = aiter(listener.messages)
        with socket.create_connection(("127.0.0.1", port_of(own))) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
            reader, writer = await asyncio.open_connection(sock=deaf)
            writer.write(CONNECT + SUBSCRIBE)
            assert await reader.readexactly(9) == ACCEPTED + packet(0x90, b"\x00\x01\x00")
            writer.transport.pause_reading()
            async with asyncio.timeout(60):
                for _ in range(count):
                    await other.publish("p2ptrain/much", message, qos=1)
                    assert (await anext(heard)).payload == message
            writer.transport.resume_reading()
            writer.write(packet(0xE0))
            assert 0 < len(await read_all(reader)) < 0.9 * count * len(message)
            writer.close()


def test_what_is_wrong_with_the_address_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"node.broker: 127.0.0.1:{port}: the port is in use; choose another"):
            OwnBroker(f"127.0.0.1:{port}", KEY, RUN)
    with pytest.raises(ConfigError, match=r"node.broker: 192.0.2.1:1883: is no address of this machine; 0.0.0.0"):
        OwnBroker("192.0.2.1:1883", KEY, RUN)
    with pytest.raises(ConfigError, match=r"node.broker: no.such.host.invalid:1883: .*; write host:port"):
        OwnBroker("no.such.host.invalid:1883", KEY, RUN)
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=f"node.broker: alice has no password; .* or set {PASSWORD_VARIABLE}"):
        OwnBroker("alice@127.0.0.1:0", KEY, RUN)
    monkeypatch.setitem(sys.modules, "amqtt.adapters", None)
    for name in [name for name in sys.modules if name.startswith("p2ptrain.network.broker.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"node.broker: needs amqtt.*: pip install 'p2ptrain\[broker\]'"):
        OwnBroker("127.0.0.1:0", KEY, RUN)


async def test_at_the_end_all_connections_are_closed_and_the_port_is_free(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    for _ in range(2):
        async with running(f"127.0.0.1:{port}") as (own, _):
            lost, idle = client(own), await asyncio.open_connection("127.0.0.1", port)
            await lost.__aenter__()
        started = time.monotonic()
        with pytest.raises(aiomqtt.MqttError):
            async for _ in lost.messages:
                pass
        await lost.__aexit__(None, None, None)
        assert await read_all(idle[0]) == b""
        idle[1].close()
        assert time.monotonic() - started < 5.0
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_what_breaks_it_is_said_and_it_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([OSError("the sky falls")])
    real = door.SteadyBroker.until_broken

    async def fails_once(self: door.SteadyBroker) -> None:
        for failure in failures:
            raise failure
        await real(self)

    monkeypatch.setattr(door.SteadyBroker, "until_broken", fails_once)
    monkeypatch.setattr("p2ptrain.network.broker.AGAIN_S", 0.01)
    async with running() as (own, told):
        await told.until("the broker of this node has failed, and starts again: OSError('the sky falls')", timeout_s=20)
        async with client(own):
            pass
