import asyncio

import pytest
from membership_world import EPOCH, Node, World

from p2ptrain.errors import PeerError
from p2ptrain.ports import Bytes, Contact, PeerId
from p2ptrain.swarm.membership import HEARTBEAT, PEERS
from p2ptrain.swarm.view import KNOWN_MAX, State
from p2ptrain.telemetry.events import Rejected
from p2ptrain.topology.links import Link
from p2ptrain.wire.membership_pb2 import Beat, PeersReply, PeersRequest, SignedRecord


@pytest.mark.parametrize("num_nodes", [8, 32, 50])
@pytest.mark.parametrize("heartbeat_s", [1.0, 5.0])
async def test_one_bootstrap_one_view(num_nodes: int, heartbeat_s: float) -> None:
    world = World(num_nodes, heartbeat_s)
    for node in world.nodes:
        node.start()
    seconds = await world.until(world.is_whole, timeout_s=2 * heartbeat_s)
    print(f"{num_nodes} nodes, heartbeat {heartbeat_s} s: whole after {seconds:.2f} s")
    await asyncio.sleep(10 * heartbeat_s)
    assert world.is_whole()
    assert not [event for node in world.nodes for event in node.left()]
    assert all(member.reachable and member.rtt_s for node in world.nodes for member in node.membership.view())
    await world.stop()


async def test_a_lossy_network_is_one_view_too() -> None:
    world = World(8, 1.0, link=Link(latency=0.01, jitter=0.29, drop=0.05))
    for node in world.nodes:
        node.start()
    await world.until(world.is_whole, timeout_s=30)
    await asyncio.sleep(300)
    # three losses in a row, of calls in both directions, are rare: and then it comes back
    await world.until(world.is_whole, timeout_s=30)
    assert sum(len(node.left()) for node in world.nodes) < 5
    await world.stop()


async def test_a_dead_bootstrap_is_noted_once_and_joined_when_it_comes() -> None:
    world = World(3)
    bootstrap, *others = world.nodes
    for node in others:
        node.start()
    await asyncio.sleep(60)
    for node in others:
        assert node.sees() == []
        assert node.notes() == [
            "warning: bootstrap node-0:7000: unreachable: connection refused; trying again every 5 s"
        ]
    bootstrap.start()
    await world.until(world.is_whole, timeout_s=6)
    assert all(node.notes()[1:] == ["info: bootstrap node-0:7000: answers now"] for node in others)
    await world.stop()


async def test_why_a_bootstrap_does_not_answer_is_told_anew_when_the_reason_is_another() -> None:
    """Who comes before its bootstrap, and with the wrong key, must hear of both."""
    world = World(2)
    bootstrap, stranger = world.nodes
    stranger.key = "the key of another swarm"
    stranger.start()
    await asyncio.sleep(60)
    bootstrap.start()
    await asyncio.sleep(60)
    await bootstrap.kill()
    await asyncio.sleep(60)
    refused, foreign = stranger.notes()
    assert "node-0:7000: unreachable: connection refused; trying again" in refused
    assert "node-0:7000: foreign-key" in foreign
    assert stranger.sees() == []
    await stranger.stop()


async def test_the_directory_introduces() -> None:
    world = World(4)
    for node in world.nodes:
        node.bootstrap = ()
        node.start(world.table)
    await world.until(world.is_whole, timeout_s=5)
    await world.stop()


async def test_a_broken_directory_is_no_trouble() -> None:
    world = World(3)
    world.table.broken = True
    for node in world.nodes:
        node.start(world.table)
    await world.until(world.is_whole, timeout_s=5)
    await world.stop()


@pytest.mark.parametrize("num_nodes", [5, 40])
async def test_the_dead_leave_within_three_heartbeats_and_stay_away(num_nodes: int) -> None:
    world = World(num_nodes)
    for node in world.nodes:
        node.start(world.table)
    await world.until(world.is_whole, timeout_s=10)
    await asyncio.sleep(61.7)
    *rest, victim = world.nodes
    await victim.kill()
    seconds = await world.until(lambda: world.is_whole(*rest), timeout_s=4 * 5.0)
    print(f"{num_nodes} nodes: gone after {seconds:.1f} s")
    assert victim.me in world.table.records  # a ghost in the directory, and in others' memory
    await asyncio.sleep(120)
    assert world.is_whole(*rest)
    assert all(node.left() == [(f"node-{victim.index}", "silent")] for node in rest)
    assert all(node.joins_of(victim) == 1 for node in rest)
    assert all(victim.me not in node.transport.contacts for node in rest)
    world.nodes = rest
    await world.stop()


async def test_a_peer_that_stands_still_is_dropped_too() -> None:
    """It does not refuse calls, it does not answer them."""
    world = World(3, 1.0)
    for node in world.nodes:
        node.start()
    await world.until(world.is_whole, timeout_s=5)
    *rest, victim = world.nodes
    await victim.stop()
    victim.transport.serve(HEARTBEAT, lambda *_: asyncio.sleep(1e6))  # type: ignore[arg-type]
    await world.until(lambda: world.is_whole(*rest), timeout_s=4.0)
    world.nodes = rest
    await world.stop()


async def test_leaving_is_seen_at_once_and_gossip_does_not_undo_it() -> None:
    world = World(4)
    for node in world.nodes:
        node.start(world.table)
    await world.until(world.is_whole, timeout_s=5)
    *rest, leaver = world.nodes
    await leaver.membership.leave()
    assert world.is_whole(*rest)
    await asyncio.sleep(20)  # it still answers while it drains
    assert world.is_whole(*rest)
    assert all(node.left() == [("node-3", "leaving")] for node in rest)
    await leaver.kill()
    await asyncio.sleep(20)
    assert all(node.joins_of(leaver) == 1 for node in rest)

    leaver.start(world.table)
    await world.until(world.is_whole, timeout_s=1)
    await world.stop()


@pytest.mark.parametrize("down_s", [0.5, 8.0, 30.0, 200.0])
async def test_a_restarted_peer_comes_back_at_once(down_s: float) -> None:
    world = World(4)
    for node in world.nodes:
        node.start()
    await world.until(world.is_whole, timeout_s=5)
    victim = world.nodes[2]
    await victim.kill()
    await asyncio.sleep(down_s)
    victim.start()
    await world.until(world.is_whole, timeout_s=1)
    await world.stop()


async def test_a_restarted_peer_whose_clock_was_set_back() -> None:
    world = World(3)
    for node in world.nodes:
        node.start()
    await world.until(world.is_whole, timeout_s=5)
    victim = world.nodes[2]
    await victim.membership.leave()
    await victim.kill()
    victim.skew_s = -20
    victim.start()
    await world.until(world.is_whole, timeout_s=60)
    await world.stop()


@pytest.mark.parametrize("seconds", [10.0, 60.0, 600.0])
async def test_partition_and_heal(seconds: float) -> None:
    """Also when it lasts longer than records live, and the bootstrap is on neither side any more."""
    world = World(8)
    for node in world.nodes:
        node.start()
    await world.until(world.is_whole, timeout_s=5)
    bootstrap, *rest = world.nodes
    await bootstrap.kill()
    one, other = rest[:3], rest[3:]
    world.links.partition([node.me for node in one], [node.me for node in other])
    await asyncio.sleep(seconds)
    if seconds > 20:
        assert world.is_whole(*one)
        assert world.is_whole(*other)
    world.links.heal()
    took = await world.until(lambda: world.is_whole(*rest), timeout_s=61)
    print(f"partition of {seconds} s: healed after {took:.1f} s")
    world.nodes = rest
    await world.stop()


async def test_a_peer_that_only_dials_out_is_a_full_member() -> None:
    world = World(3)
    for node in world.nodes:
        node.start()
    hidden = world.nodes[2]
    hidden.address = ""
    hidden.record = lambda sequence, expires: _without_address(hidden, sequence, expires)  # type: ignore[method-assign]
    hidden.membership.renew()
    world.links.behind_nat.add(hidden.me)
    await world.until(lambda: all(hidden.me in node.sees() for node in world.nodes[:2]), timeout_s=10)
    await asyncio.sleep(100)
    for node in world.nodes[:2]:
        assert node.left() == []
        member = node.membership.find(hidden.me)
        assert member is not None
        assert not member.reachable
    await world.stop()


def _without_address(node: Node, sequence: int, expires_unix_s: float):
    import dataclasses

    return dataclasses.replace(Node.record(node, sequence, expires_unix_s), addresses=())


async def test_states_and_steps_travel() -> None:
    world = World(2)
    one, other = world.nodes
    one.start()
    other.start()
    await world.until(world.is_whole, timeout_s=5)
    member = one.membership.find(other.me)
    assert member is not None
    assert (member.state, member.name, member.slot) == (State.STARTING, "node-1", 1)
    changed = asyncio.create_task(one.membership.changed())
    other.membership.set_state(State.FINISHED, 77)
    await asyncio.wait_for(changed, 1.0)
    member = one.membership.find(other.me)
    assert member is not None
    assert (member.state, member.step) == (State.FINISHED, 77)
    assert one.membership.find(one.me) is None
    await world.stop()


async def test_a_wrong_clock_is_pointed_out_once() -> None:
    world = World(2)
    one, other = world.nodes
    other.skew_s = 3700  # its records look as if they lived too long
    one.start()
    other.start()
    await asyncio.sleep(100)
    assert one.sees() == []
    assert [note for note in one.notes() if "clock" in note] == [
        f"warning: the clock of {other.me} is 3700 s ahead of this machine's; records may look expired"
    ]
    assert one.membership.rejected["too-far-ahead"] > 0
    await world.stop()


async def test_both_sides_notice_a_clock_that_is_behind() -> None:
    world = World(2)
    one, other = world.nodes
    other.skew_s = -10
    one.start()
    other.start()
    await asyncio.sleep(30)
    assert world.is_whole()
    for node, peer, direction in ((one, other, "behind"), (other, one, "ahead of")):
        text = f"the clock of {peer.me} is 10 s {direction} this machine's"
        assert len([note for note in node.notes() if text in note]) == 1
    await world.stop()


@pytest.mark.parametrize(("latency", "heartbeat_s"), [(0.1, 1.0), (0.35, 1.0), (0.6, 2.0)])
async def test_nodes_far_apart_find_each_other(latency: float, heartbeat_s: float) -> None:
    """A greeting takes four round trips, three of which make the connection."""
    world = World(3, heartbeat_s, link=Link(latency=latency))
    for node in world.nodes:
        node.start()
    await world.until(world.is_whole, 30)
    await asyncio.sleep(30)
    assert world.is_whole()
    await world.stop()


async def test_what_was_long_under_way_makes_no_clock_look_wrong() -> None:
    world = World(2)
    one, other = world.nodes
    for node in world.nodes:
        node.start()
    await world.until(world.is_whole, 10)
    world.links.shape({way: Link(latency=4.0) for way in ((one.me, other.me), (other.me, one.me))})
    await asyncio.sleep(100)
    assert world.is_whole()  # no answer comes in time, but what the other asks
    assert all(node.membership._beats.rejected == {} for node in world.nodes)
    assert not [note for node in world.nodes for note in node.notes() if "clock" in note]
    await world.stop()


async def test_a_flood_of_bad_records_is_counted_and_costs_little_log() -> None:
    world = World(2)
    one, liar = world.nodes
    one.start()
    transport = world.links.transport(liar.me, liar.address)
    transport.learn(one.me, Contact((one.address,), b""))
    far = EPOCH + 1000

    def beat(signed: bytes) -> bytes:
        message = Beat(record=SignedRecord.FromString(signed), state=Beat.STATE_TRAINING, now_unix_ms=int(EPOCH * 1000))
        return message.SerializeToString()

    bad = {
        "foreign-key": beat(liar.seal(1, far, key="another key")),
        "wrong-swarm": beat(liar.seal(1, far, swarm="swirm")),
        "expired": beat(liar.seal(1, EPOCH - 1)),
        "malformed": b"\xff" * 50,
        "oversized": bytes(1 << 20),
        "wrong-peer": beat(Node(world, 5).seal(1, far)),
    }
    for _ in range(500):
        for reason, request in bad.items():
            with pytest.raises(PeerError, match=reason):
                await transport.call(one.me, HEARTBEAT, request, 1.0)
    rejected = [event for event in one.events if isinstance(event, Rejected)]
    assert {reason: one.membership.rejected[reason] for reason in bad} == dict.fromkeys(bad, 500)
    assert len(rejected) <= 6 * (1 + world.now() / 60)
    assert one.sees() == []
    await one.stop()


async def test_a_member_that_invents_others_cannot_fill_the_memory() -> None:
    """Thousands of valid records of peers that do not exist."""
    world = World(3)
    one, liar, honest = world.nodes
    one.bootstrap = (liar.address,)
    one.start()
    liar.start()
    await world.until(lambda: world.is_whole(one, liar), timeout_s=5)
    inventions = iter(range(1000, 10_000))
    liar.membership._view.admit = lambda known: None  # type: ignore[method-assign]

    async def invent(caller: PeerId, request: Bytes) -> bytes:
        assert len(PeersRequest.FromString(bytes(request)).known) <= KNOWN_MAX
        fakes = [Node(world, next(inventions)).seal(1, world.now_unix() + 3000) for _ in range(64)]
        return PeersReply(records=map(SignedRecord.FromString, fakes)).SerializeToString()

    liar.transport.serve(PEERS, invent)
    liar.membership._view._digest ^= 1  # so that it is asked
    await asyncio.sleep(60)
    assert len(one.membership._view._known) <= KNOWN_MAX
    assert len(one.transport.contacts) <= KNOWN_MAX + 1
    honest.bootstrap = (one.address,)
    honest.start()
    await world.until(lambda: honest.me in one.sees(), timeout_s=10)
    await world.stop()


async def test_runs_are_deterministic() -> None:
    assert await _trace() == await _trace()


async def _trace() -> list[tuple[str, object]]:
    loop = asyncio.get_running_loop()
    loop._now = 0.0  # type: ignore[attr-defined]
    world = World(6, link=Link(latency=0.01, jitter=0.19, drop=0.1), seed=3)
    for node in world.nodes:
        node.start()
    await asyncio.sleep(50)
    await world.nodes[4].kill()
    await asyncio.sleep(50)
    world.nodes[4].start()
    await asyncio.sleep(50)
    await world.stop()
    return [(node.me, event) for node in world.nodes for event in node.events]
