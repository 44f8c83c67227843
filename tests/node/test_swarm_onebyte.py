"""One-byte training with real daemons: other numbers of threads, SIGKILL, a line that is slow; the same bits."""

from pathlib import Path

import pytest
from real_broker import RealBroker
from watched import START_S, Watched

from node import resolve
from p2ptrain.telemetry.events import Flooded, Joined, Rejected, Restarted, Stepped, Stopped
from p2ptrain.topology import Topology

pytestmark = pytest.mark.timeout(400)

VICTIM = "node-1"


def topology() -> Topology:
    strategy = {"name": "spsa", "lr": 0.002, "exponent": -3, "audit_every": 32}
    run = {"task": "digits", "strategy": strategy, "steps": 300, "evaluate_every": 5}
    node = {"heartbeat": 2, "step": 0.1}
    body = {"name": "test", "run": run, "nodes": [{"count": 3}], "node": node}
    return Topology.model_validate(body)


async def test_the_same_bits_with_other_threads_and_after_sigkill(tmp_path: Path) -> None:
    swarm = Watched(topology(), tmp_path, speed=1.0)
    swarm.files = {
        name: resolve.with_node(file, threads=threads)
        for (name, file), threads in zip(swarm.files.items(), (1, 2, 3), strict=True)
    }
    async with swarm:
        await swarm.lose_and_regain(VICTIM)
        await swarm.until(lambda: all(swarm.events(name, Stopped) for name in swarm.files), START_S)

    ((restarted, _),) = swarm.events(VICTIM, Restarted)
    assert any(time < restarted for time, _ in swarm.events(VICTIM, Stepped))
    # It goes on where its log ends: it was killed long before it could write a checkpoint.
    again = swarm.events(VICTIM, Stepped, restarted)
    assert again[0][1].step > 10
    assert again[-1][1].step == 300
    ends = {name: swarm.events(name, Stopped)[-1][1].digest for name in swarm.files}
    assert len(set(ends.values())) == 1, ends
    assert not [event for name in swarm.files for _, event in swarm.events(name, Rejected)]


async def test_who_reaches_only_a_broker_ends_with_the_same_bits(broker: RealBroker, tmp_path: Path) -> None:
    """Two of three nodes share streams, one of them the broker with the third; that one is killed, and comes back."""
    nodes = [{"name": "near"}, {"name": "bridge", "carrier": "both"}, {"name": "far", "carrier": "mqtt"}]
    body = topology().model_dump(mode="json", exclude_unset=True)
    body["run"]["steps"] = 250  # whom only a broker knows is waited for only while it speaks
    body |= {"nodes": nodes}
    body["node"] |= {"mqtt": broker.url}
    swarm = Watched(Topology.model_validate(body), tmp_path, speed=1.0)
    async with swarm:
        await swarm.lose_and_regain("far")
        await swarm.until(lambda: all(swarm.events(name, Stopped) for name in swarm.files), START_S)

    ends = {name: swarm.events(name, Stopped)[-1][1].digest for name in swarm.files}
    assert len(set(ends.values())) == 1, ends
    assert not swarm.events("far", Joined)
    assert {event.peer for _, event in swarm.events("far", Flooded)} == {"broker"}
    assert [event.name for _, event in swarm.events("near", Joined)] == ["bridge"]
    assert not [event for name in swarm.files for _, event in swarm.events(name, Rejected)]


async def test_a_node_can_be_the_broker_of_those_who_cannot_be_called(tmp_path: Path) -> None:
    nodes = [
        {"name": "near"},
        {"name": "hub", "carrier": "both", "broker": "127.0.0.1:0"},
        {"name": "far", "carrier": "mqtt"},
    ]
    body = topology().model_dump(mode="json", exclude_unset=True)
    body |= {"nodes": nodes}
    async with Watched(Topology.model_validate(body), tmp_path, speed=1.0) as swarm:
        await swarm.lose_and_regain("hub")
        await swarm.until(lambda: all(swarm.events(name, Stopped) for name in swarm.files), START_S)

    ends = {name: swarm.events(name, Stopped)[-1][1].digest for name in swarm.files}
    assert len(set(ends.values())) == 1, ends
    assert not swarm.events("far", Joined)
    assert {event.peer for _, event in swarm.events("far", Flooded)} == {"broker"}
    assert len(swarm.notes("hub", "this node is a broker at 127.0.0.1:")) == 2
    assert not swarm.notes("hub", "is open")
    assert not swarm.notes("hub", "does not answer")
    assert swarm.notes("far", "does not answer")
    assert not [event for name in swarm.files for _, event in swarm.events(name, Rejected)]
    assert "amqtt" not in (tmp_path / "hub" / "node.log").read_text()
