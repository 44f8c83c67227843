"""One node's events at a real broker, and at things that are none. Whole nodes are killed, and starved of a broker."""

import asyncio
import datetime
import itertools
import json
import random
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from notes import Notes
from real_broker import PASSWORD, USER, Answer, Ear, MakeBroker, RealBroker, free_port, pump, serving

from node import resolve
from node.launcher import Swarm
from p2ptrain.telemetry import events, mqtt, mqtt_broker
from p2ptrain.telemetry.events import Stamped
from p2ptrain.telemetry.mqtt import Publisher, Status
from p2ptrain.telemetry.mqtt_broker import Broker
from p2ptrain.telemetry.mqtt_reader import Reader
from p2ptrain.telemetry.state import SwarmState
from p2ptrain.topology import Topology

PEER = "ab" * 16
START_S = 90.0
"""For processes to come up on a busy machine."""


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_broker, "RETRY_S", (0.05, 0.2))


def publisher(url: str) -> Publisher:
    return Publisher(Broker.parse(url), "run", PEER, "node-0", 3)


def saved(step: int) -> Stamped:
    return Stamped("node-0", step / 10, events.Saved(step, 0.1))


def steps(payloads: list[str]) -> list[int]:
    return [json.loads(payload)["step"] for payload in payloads]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://h", Broker("h", 1883)),
        ("mqtts://h/", Broker("h", 8883, tls=True)),
        ("mqtt://[::1]:5", Broker("::1", 5)),
        ("mqtt://u@h", Broker("h", 1883, False, "u", "from the environment")),
        ("mqtt://u:p%40%2F@h", Broker("h", 1883, False, "u", "p@/")),
    ],
)
def test_a_broker_is_a_url(url: str, expected: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mqtt_broker.PASSWORD_VARIABLE, "from the environment")
    assert Broker.parse(url) == expected
    assert "p@/" not in repr(Broker.parse(url))


@pytest.mark.parametrize(
    "url",
    ["", "h:1883", "http://h", "mqtt://", "mqtt://h:x", "mqtt://h:70000", "mqtt://h/topic", "mqtt://:secret@h",
     "mqtt://u:se/cret@h", "mqtt://[h", f"mqtt://{'h' * 64}"],
)  # fmt: skip
def test_what_is_no_broker_is_refused_and_no_password_told(url: str) -> None:
    with pytest.raises(ValueError, match="expected mqtt://user:password@host:port") as refused:
        Broker.parse(url)
    assert "cret" not in str(refused.value)


async def test_events_arrive_in_order_under_their_topics(broker: RealBroker) -> None:
    notes, publishing = Notes(), publisher(broker.url)
    happened = [
        events.Started(PEER, 3, "cpu", "127.0.0.1:1", 10, False),
        events.Joined("cd" * 16, "node-1"),
        *(events.Saved(step, 0.1) for step in range(100)),
        events.Evaluated(7, float("nan"), None),
        events.Stopped(9, "digest"),
    ]
    log = [Stamped("node-0", float(index), event) for index, event in enumerate(happened)]
    async with Ear().listening(broker.port) as ear:
        async with publishing.running(notes.emit):
            for stamped in log:
                publishing.write(stamped)
        await ear.until("/status", "offline")
    assert {str(message.topic).rpartition("/")[0] for message in ear.heard} == {f"p2ptrain/run/{PEER}"}
    told = [message for message in ear.heard if not str(message.topic).endswith("/status")]
    assert [message.payload.decode() for message in told] == [events.to_json(stamped) for stamped in log]
    assert all(str(message.topic).endswith(f"/{json.loads(message.payload)['event']}") for message in told)
    assert notes.said == []


async def test_the_status_is_there_for_who_comes_later(broker: RealBroker) -> None:
    publishing = publisher(broker.url)
    publishing.write(Stamped("node-0", 0.0, events.Started(PEER, 3, "cpu", "127.0.0.1:1", 10, False)))
    publishing.write(Stamped("node-0", 1.0, events.Exchanged("cd" * 16, 100, 200, 0.1, 0.1, True)))
    publishing.write(Stamped("node-0", 1.0, events.Joined("cd" * 16, "node-1")))
    async with publishing.running(Notes().emit):
        async with Ear().listening(broker.port) as ear:
            (status,) = await ear.until("/status", "bytes_sent")
        publishing.write(Stamped("node-0", 2.0, events.Stopped(5, "digest")))
    online = Status.model_validate_json(status)
    assert (online.status, online.name, online.slot, online.phase) == ("online", "node-0", 3, "fetching")
    assert (online.bytes_sent, online.bytes_received, online.exchanges) == (100, 200, 1)
    assert online.peers == {"cd" * 16}
    async with Ear().listening(broker.port) as late:
        (status,) = await late.until("/status")
    assert late.heard[0].retain
    offline = Status.model_validate_json(status)
    assert (offline.status, offline.phase, offline.step) == ("offline", "stopped", 5)


async def test_of_many_steps_a_few_are_told(broker: RealBroker) -> None:
    publishing = publisher(broker.url)
    async with Ear().listening(broker.port) as ear:
        async with publishing.running(Notes().emit):
            for step in range(1000):
                publishing.write(Stamped("node-0", step / 100, events.Stepped(step, 1.0, 0.01)))
        await ear.until("/status", "offline")
    assert steps(ear.payloads("/stepped")) == list(range(0, 1000, 50))


async def test_events_wait_for_a_broker_that_comes_later(make_broker: MakeBroker) -> None:
    broker, notes = make_broker(), Notes()
    publishing = publisher(broker.url)
    async with publishing.running(notes.emit):
        for step in range(50):
            publishing.write(saved(step))
        assert (await notes.until("does not answer")).level == "warning"
        await broker.start()
        async with Ear().listening(broker.port) as ear:
            publishing.write(saved(50))
            await ear.until("/saved", '"step": 50')
        await notes.until("takes our events again")
    heard = steps(ear.payloads("/saved"))
    assert heard == list(range(51))[-len(heard) :]  # the ear may have come when some had been sent
    assert [note.level for note in notes.said] == ["warning", "info"]


async def test_a_broker_that_dies_and_comes_back_is_found_again(broker: RealBroker) -> None:
    notes, publishing = Notes(), publisher(broker.url)
    async with publishing.running(notes.emit):
        async with Ear().listening(broker.port) as ear:
            publishing.write(saved(0))
            await ear.until("/saved")
        for outage in (1, 2):
            await broker.kill()
            publishing.write(saved(2 * outage - 1))
            await notes.until("does not answer")
            publishing.write(saved(2 * outage))
            notes.said.clear()
            await broker.start()
            await notes.until("takes our events again")
            async with Ear().listening(broker.port) as ear:  # retained messages died with the broker
                await ear.until("/status", "online", "bytes_sent")
                publishing.write(saved(10 * outage))
                await ear.until("/saved", f'"step": {10 * outage}')
            assert len(notes.said) == 1
            notes.said.clear()


async def test_what_an_outage_caught_unacknowledged_is_sent_again(
    broker: RealBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay in between swallows the first acknowledgements of events, and cuts the connection."""
    monkeypatch.setattr(mqtt_broker, "TIMEOUT_S", 1.0)
    notes, relayed = Notes(), itertools.count()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", broker.port)
        backwards = pump if next(relayed) else swallow
        await asyncio.gather(pump(reader, back), backwards(there, writer))

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in ("CONNACK", "PUBACK of the status"):
            writer.write(await reader.readexactly(4))
        await reader.readexactly(4 * 10)
        writer.close()

    async with serving(relay) as port, Ear().listening(broker.port) as ear:
        publishing = publisher(f"mqtt://127.0.0.1:{port}")
        async with publishing.running(notes.emit):
            for step in range(10):
                publishing.write(saved(step))
            await notes.until("takes our events again")
            await ear.until("/saved", '"step": 9', count=2)
    assert steps(ear.payloads("/saved")) == [*range(10), *range(10)]


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def lets_in_and_says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(bytes([0x20, 2, 0, 0]))
    await asyncio.Event().wait()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


async def lets_in_and_hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(bytes([0x20, 2, 0, 0]))
    await writer.drain()


async def talks_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(random.Random(0).randbytes(1 << 16))
    await asyncio.Event().wait()


async def lets_in_and_talks_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(bytes([0x20, 2, 0, 0]))
    rng = random.Random(0)
    while True:
        await reader.read(1000)
        kind = rng.randrange(1, 16) << 4 | rng.randrange(16)
        writer.write(bytes([kind, size := rng.randrange(8)]) + rng.randbytes(size))
        await writer.drain()


@pytest.mark.parametrize(
    "answer",
    [
        says_nothing,
        lets_in_and_says_nothing,
        hangs_up,
        lets_in_and_hangs_up,
        talks_nonsense,
        lets_in_and_talks_nonsense,
    ],
)
async def test_what_is_no_broker_is_borne(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_broker, "TIMEOUT_S", 0.3)
    callers, third = itertools.count(), asyncio.Event()

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if next(callers) == 2:
            third.set()
        await answer(reader, writer)

    notes = Notes()
    async with serving(counted) as port:
        publishing = publisher(f"mqtt://127.0.0.1:{port}")
        async with publishing.running(notes.emit):
            for step in range(30):
                publishing.write(saved(step))
            await asyncio.wait_for(third.wait(), 30)  # it answers from this event loop, which so was never held up
    (note,) = notes.said
    assert note.level == "warning"
    assert f"mqtt://127.0.0.1:{port} does not answer" in note.message


async def test_leaving_waits_for_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_broker, "TIMEOUT_S", 60.0)
    monkeypatch.setattr(mqtt, "CLOSE_TIMEOUT_S", 0.1)
    called = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        await asyncio.Event().wait()

    async with serving(say_nothing) as port:
        async with publisher(f"mqtt://127.0.0.1:{port}").running(Notes().emit):
            await called.wait()
            leaving = time.monotonic()
        assert time.monotonic() - leaving < 10


async def test_a_wrong_password_is_said_once_and_the_right_one_lets_in(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, notes = make_broker(with_password=True), Notes()
    await broker.start()
    publishing = publisher(f"mqtt://{USER}:wrong@127.0.0.1:{broker.port}")
    async with publishing.running(notes.emit):
        publishing.write(saved(0))
        await notes.until("refuses us", "password")
    assert len(notes.said) == 1
    assert "wrong" not in notes.said[0].message

    monkeypatch.setenv(mqtt_broker.PASSWORD_VARIABLE, PASSWORD)
    publishing = publisher(f"mqtt://{USER}@127.0.0.1:{broker.port}")
    listening = Ear().listening(broker.port, username=USER, password=PASSWORD)
    async with listening as ear, publishing.running(notes.emit):
        publishing.write(saved(1))
        await ear.until("/saved", '"step": 1')
    assert len(notes.said) == 1


@pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")  # paho drops the socket of a failed handshake
async def test_over_tls_the_certificate_is_checked(
    make_broker: MakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, *own = certificates(tmp_path)
    broker, notes = make_broker(tls=(own[0], own[1])), Notes()
    await broker.start()
    async with publisher(f"mqtts://localhost:{broker.port}").running(notes.emit):
        await notes.until("CERTIFICATE_VERIFY_FAILED")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with publisher(f"mqtts://127.0.0.1:{broker.port}").running(notes.emit):
        await notes.until("IP address mismatch")
    notes.said.clear()
    publishing, log = publisher(f"mqtts://localhost:{broker.port}"), [saved(step) for step in range(100)]
    async with publishing.running(notes.emit):
        for stamped in log:
            publishing.write(stamped)
    reader = Reader("run")
    async with Broker.parse(f"mqtts://localhost:{broker.port}").client() as client:
        await client.subscribe(reader.topic)
        message = await asyncio.wait_for(anext(client.messages), 10)
    assert Status.model_validate_json(str(message.payload, "utf-8")).status == "offline"
    assert notes.said == []


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A new authority's certificate, one of `localhost` signed by it, and the key of that."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    paths = folder / "authority.pem", folder / "certificate.pem", folder / "key.pem"
    now = datetime.datetime.now(datetime.UTC)
    for path, name, public in ((paths[0], "authority", authority_key), (paths[1], "localhost", key)):
        builder = x509.CertificateBuilder(
            issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]),
            subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            public_key=public.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(days=1),
            not_valid_after=now + datetime.timedelta(days=1),
        ).add_extension(x509.BasicConstraints(ca=name == "authority", path_length=None), critical=True)
        if name == "localhost":
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        path.write_bytes(builder.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    paths[2].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


async def test_the_newest_events_are_kept_and_the_lost_ones_counted(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "MAX_WAITING", 100)
    broker, notes = make_broker(), Notes()
    publishing = publisher(broker.url)
    for step in range(1000):
        publishing.write(saved(step))
    assert publishing.num_lost == 900
    await broker.start()
    async with Ear().listening(broker.port) as ear, publishing.running(notes.emit):
        await ear.until("/saved", count=100)
        await notes.until("900 events", "lost")
        publishing.write(saved(1000))
        await ear.until("/saved", '"step": 1000')
    assert steps(ear.payloads("/saved")) == list(range(900, 1001))
    assert len(notes.said) == 1


async def test_acknowledged_events_take_little_longer_than_unacknowledged_ones(broker: RealBroker) -> None:
    num, publishing = 1000, publisher(broker.url)
    log = [saved(step) for step in range(num)]
    async with Ear().listening(broker.port) as ear:
        async with Broker.parse(broker.url).client() as client:
            started = time.perf_counter()
            for stamped in log:
                await client.publish("p2ptrain/run/other/reference", events.to_json(stamped), qos=0)
            await ear.until("/reference", f'"step": {num - 1}')
            unacknowledged_s = time.perf_counter() - started
        for stamped in log:
            publishing.write(stamped)
        started = time.perf_counter()
        async with publishing.running(Notes().emit):
            await ear.until("/saved", f'"step": {num - 1}')
            acknowledged_s = time.perf_counter() - started
    ratio = acknowledged_s / unacknowledged_s
    print(f"{num} events: QoS 0 {unacknowledged_s:.2f} s, QoS 1 {acknowledged_s:.2f} s, {ratio:.1f} times")
    assert ratio < 20  # 40 ms of Nagle's waiting for each would be about 100


async def test_a_connection_waits_for_no_delayed_acknowledgement(broker: RealBroker) -> None:
    """Who hears what it says writes twice in a row, an acknowledgement and the next message: Nagle's case."""

    async def echo(qos: int) -> float:
        async with Broker.parse(broker.url).client() as client:
            await client.subscribe("echo", qos=qos)
            started = time.perf_counter()
            for _ in range(30):
                await client.publish("echo", b"x", qos=qos)
                await anext(client.messages)
            return time.perf_counter() - started

    assert await echo(1) < 10 * await echo(0)


async def test_a_killed_node_is_offline_by_its_last_will(broker: RealBroker, tmp_path: Path) -> None:
    reader, heard = Reader("test"), Ear()
    async with Swarm(topology(2, mqtt=broker.url), tmp_path / "run") as swarm, heard.listening(broker.port) as ear:
        await swarm.wait(lambda state: all(node.exchanges for node in state.nodes.values()), START_S)
        await asyncio.gather(*(ear.until(f"{node.peer}/exchanged") for node in swarm.state.nodes.values()))
        victim, other = swarm.state.nodes["node-0"], swarm.state.nodes["node-1"]
        await swarm.kill("node-0")
        await ear.until(f"{victim.peer}/status", "offline", timeout_s=10)
        await swarm.stop("node-1")
        await ear.until(f"{other.peer}/status", "offline", "stopped", timeout_s=10)
        for index, message in enumerate(ear.heard):
            reader.take(str(message.topic), message.payload, float(index))
    assert reader.num_refused == 0
    assert {name: node.phase for name, node in reader.state.nodes.items()} == {"node-0": "offline", "node-1": "stopped"}
    assert reader.state.nodes["node-1"].digest == swarm.state.nodes["node-1"].digest
    assert reader.state.nodes["node-1"].exchanges == swarm.state.nodes["node-1"].exchanges


async def test_a_broker_that_swallows_or_refuses_everything_costs_no_training_step(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    broker = make_broker(with_password=True)
    await broker.start()
    async with serving(says_nothing) as silent:
        brokers = {
            "node-0": None,
            "node-1": f"mqtt://127.0.0.1:{silent}",
            "node-2": f"mqtt://{USER}:wrong@127.0.0.1:{broker.port}",
            "node-3": f"mqtt://127.0.0.1:{free_port()}",
        }
        swarm = Swarm(topology(4), tmp_path / "run")
        swarm.files = {name: resolve.with_node(swarm.files[name], mqtt=url, speed=0.1) for name, url in brokers.items()}
        async with swarm:
            await swarm.wait(lambda state: all(node.step for node in state.nodes.values()), START_S)
            before = {name: node.step for name, node in swarm.state.nodes.items()}
            # A silent broker is given up on after a while, in which a fast machine takes more steps than these.
            await swarm.wait(
                lambda state: (
                    state.nodes["node-0"].step >= before["node-0"] + 300
                    and warned(state) >= brokers.keys() - {"node-0"}
                ),
                START_S,
            )
            taken = {name: node.step - before[name] for name, node in swarm.state.nodes.items()}
            assert warned(swarm.state) == brokers.keys() - {"node-0"}
    print(f"steps taken meanwhile: {taken}")
    for name, num in taken.items():
        assert 0.5 < num / taken["node-0"] < 2, f"{name}: {taken}"


def warned(state: SwarmState) -> set[str]:
    return {note.node for note in state.notes if "mqtt://" in note.message and note.level == "warning"}


def topology(count: int, **node: object) -> Topology:
    settings = {"heartbeat": 1, "threads": 1, **node}
    run = {"task": "digits", "seconds": 3600, "evaluate_every": 1}
    return Topology.model_validate({"name": "test", "run": run, "nodes": [{"count": count}], "node": settings})
