"""One-byte swarms of which some, or all, reach nothing but a broker, which loses, doubles and reorders what is said."""

import asyncio
from typing import Any

import pytest
from test_onebyte import digests, of, topology
from test_onebyte_horizon import equal, live

from p2ptrain.simulation.world import World
from p2ptrain.strategies.spsa.broker.air import Air
from p2ptrain.strategies.spsa.ledger.batch import Run
from p2ptrain.telemetry.events import Fetched, Flooded, Joined, Noted, Rejected, Stamped, Stopped
from p2ptrain.topology import Topology
from p2ptrain.topology.links import Link
from p2ptrain.wire.onebyte_pb2 import Aired

LOSSY = {"latency": "20ms", "jitter": "40ms", "drop": 0.05, "duplicate": 0.1, "reorder": 0.1}
BROKER = {"heartbeat": 1, "checkpoint_every": 3, "mqtt": "mqtt://broker:1883"}


def file(*groups: dict[str, Any], seed: int = 0, steps: int = 60, **more: Any) -> Topology:
    return topology(seed, steps=steps, nodes=list(groups), node=BROKER, **more)


async def lossy(world: World) -> None:
    world.ether.link = Link.model_validate(LOSSY)


def calls(log: list[Stamped], name: str) -> list[str]:
    return [stamped.event.name for stamped in log if stamped.node == name and isinstance(stamped.event, Joined)]


@pytest.mark.parametrize("seed", range(3))
def test_halves_that_share_no_stream_end_with_the_same_bits_through_a_lossy_broker(seed: int) -> None:
    groups = [{"count": 2}, {"name": "bridge", "carrier": "both"}, {"name": "far", "count": 3, "carrier": "mqtt"}]
    log = live(file(*groups, seed=seed), 0.0, lossy)
    assert equal(log, 6)
    assert {name for far in range(3) for name in calls(log, f"far-{far}")} == set()
    assert set(calls(log, "node-0")) == {"node-1", "bridge"}
    assert {event.reason for event in of(log, Rejected)} <= {"unknown-slot"}
    assert not [event for event in of(log, Noted) if "without all others" in event.message]


def test_two_islands_of_streams_are_joined_by_their_bridges() -> None:
    groups = [
        {"count": 2},
        {"name": "here", "carrier": "both"},
        {"name": "there", "carrier": "both"},
        {"name": "x", "count": 2},
    ]
    apart = [{"at": 1.5, "partition": [["node-0", "node-1", "here"], ["there", "x-0", "x-1"]], "for": 3000}]
    log = live(file(*groups, faults=apart), 0.0, lossy)
    assert equal(log, 6)
    assert not [event for event in of(log, Noted) if "without all others" in event.message]


def test_who_only_has_a_broker_joins_late_with_a_snapshot_and_is_killed_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2ptrain.strategies.spsa.part.REPLAYED_MAX", 1000)
    groups = [{"count": 3, "carrier": "mqtt"}, {"name": "late", "starts": "12s", "carrier": "mqtt"}]
    log = live(file(*groups, steps=120, faults=[{"at": 8, "kill": "node-1", "for": 2}]), 0.0, lossy)
    assert equal(log, 4)
    fetched = [stamped.event for stamped in log if stamped.node == "late" and isinstance(stamped.event, Fetched)]
    assert fetched[-1].donors >= 1
    assert not of(log, Joined)


@pytest.mark.parametrize("carrier", ["mqtt", "both"])
def test_who_finishes_while_the_broker_is_away_waits_for_it_and_ends_like_all(carrier: str) -> None:
    """Twenty seconds are more than those after which the silent count as gone."""

    async def away(world: World) -> None:
        world.ether.is_up = False
        await asyncio.sleep(20.0)
        world.ether.is_up = True

    groups = [{"count": 2}, {"name": "bridge", "carrier": "both"}, {"name": "far", "count": 2, "carrier": "mqtt"}]
    log = live(file(*groups) if carrier == "both" else file({"count": 5, "carrier": "mqtt"}), 5.0, away)
    assert equal(log, 5)
    assert not [event for event in of(log, Noted) if "without all others" in event.message]


def test_who_has_lost_the_broker_for_good_leaves_with_a_warning() -> None:
    async def away(world: World) -> None:
        world.ether.is_up = False

    log = live(file({"count": 2, "carrier": "mqtt"}), 5.0, away)
    stopped = [stamped.time for stamped in log if isinstance(stamped.event, Stopped)]
    assert len(stopped) == 2
    assert 120 < min(stopped) <= max(stopped) < 160
    assert len([event for event in of(log, Noted) if "counts as gone" in event.message]) == 2


def test_what_is_said_to_all_is_said_once_however_many_bridge() -> None:
    def said(carrier: str) -> int:
        said = list[int]()

        async def count(world: World) -> None:
            await asyncio.sleep(8.0)
            said.append(world.ether.num_said)

        live(file({"count": 4, "carrier": carrier}), 1.0, count)
        return said[0]

    assert said("both") < 1.3 * said("mqtt")


@pytest.mark.parametrize("lie", ["forged", "old", "wrong-model", "garbage", "bad-batch", "hello"])
def test_lies_at_the_broker_are_refused_and_end_nothing(lie: str) -> None:
    async def tell(world: World) -> None:
        await lossy(world)
        stranger = Talker(world)
        before = world.ether.num_said
        await stranger.lie(lie)
        assert world.ether.num_said > before

    log = live(file({"count": 3, "carrier": "mqtt"}, steps=60), 8.0, tell)
    assert equal(log, 3)
    found = {(event.peer, event.reason) for event in of(log, Rejected)} - {
        (peer, "unknown-slot") for peer in digests(log)
    }
    want = {
        "forged": {("broker", "bad-signature")},
        "old": {("broker", "bad-signature")},  # to whom it was not said
        "wrong-model": {(Talker.me, "wrong-model")},
        "garbage": {("broker", "malformed"), ("broker", "oversized")},
        "bad-batch": {(Talker.me, "bad-signature")},
        "hello": {(Talker.me, "malformed")},
    }[lie]
    assert {each for each in found if each[1] != "unknown-slot"} == want


class Talker:
    """Says at a world's broker what it likes, with a key of its own."""

    me: str

    def __init__(self, world: World) -> None:
        from test_onebyte_strangers import Stranger

        self.stranger = Stranger(world)
        Talker.me = self.stranger.me
        self.public_key, self.sign, self.verify = self.stranger.public_key, self.stranger._key.sign, None
        self.channel = world.ether.channel(self.stranger.me)
        self.heard: list[bytes] = []

    async def lie(self, kind: str) -> None:
        stranger, channel = self.stranger, self.channel
        air = Air(self, channel, stranger.identity, 1)  # type: ignore[arg-type]
        good = stranger.records(stranger.signed(Run(40, 0, b"\x05", -3)))
        match kind:
            case "forged":
                aired = Aired(key=stranger.public_key, identity=stranger.identity, number=5, signature=bytes(64))
                await channel.say(aired.SerializeToString())
            case "old":  # what somebody else has said, once more, and to somebody it was not said to
                heard, _ = await channel.hear()
                for peer in stranger._nodes:
                    await channel.say(heard)
                    await channel.say(heard, peer)
            case "wrong-model":
                await Air(self, channel, b"o" * 32, 1).say(good.SerializeToString())  # type: ignore[arg-type]
            case "garbage":
                await channel.say(b"\xff\xff\xff")
                await channel.say(bytes(1 << 17))
            case "bad-batch":
                forged = stranger.signed(Run(40, 0, b"\x05", -3))[:-1] + b"\0"
                await air.say(stranger.records(forged).SerializeToString())
            case "hello":
                await air.say(stranger.hello().SerializeToString())


def test_bytes_over_the_broker_are_counted() -> None:
    log = live(file({"count": 2, "carrier": "mqtt"}, steps=20), 0.0, lossy)
    found = of(log, Flooded)
    assert {event.peer for event in found if event.bytes_sent} >= {"broker"}
