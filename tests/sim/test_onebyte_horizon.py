"""Rounds that are closed: what a node has lost of them, or has taken in too late, it finds out from what the others
have signed, and mends; all end with the same bits."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from test_onebyte import digests, of, topology
from test_onebyte_strangers import Stranger

from p2ptrain.simulation.loop import run
from p2ptrain.simulation.world import World
from p2ptrain.strategies.spsa.ledger.batch import Run
from p2ptrain.strategies.spsa.ledger.replica import Replica
from p2ptrain.telemetry.events import Fetched, Mended, Noted, Rejected, Stamped
from p2ptrain.topology import Topology

SOON = {"audit_every": 8, "horizon": 16}
VICTIM = "node-1"


def live(file: Topology, at: float, meddle: Callable[[World], Awaitable[None]]) -> list[Stamped]:
    """Do something to the world at that time."""
    log: list[Stamped] = []

    async def main() -> None:
        world = World(file, log.append)
        running = asyncio.ensure_future(world.run(3600.0))
        await asyncio.sleep(at)
        await meddle(world)
        await running

    run(main())
    return log


def replica_of(world: World, name: str) -> Replica:
    daemon = world.nodes[name].daemon
    assert daemon is not None
    return daemon.node.service.replica


def of_round(replica: Replica, number: int) -> dict[bytes, Any]:
    """Batches of others that say something of it."""
    return {
        record: batch
        for record, batch in replica.log.batches.items()
        if batch.touches(number, number + 1) and batch.slot != replica.slot
    }


def mended(log: list[Stamped]) -> list[tuple[str, Mended]]:
    return [(stamped.node, stamped.event) for stamped in log if isinstance(stamped.event, Mended)]


def equal(log: list[Stamped], count: int) -> bool:
    return len(digests(log)) == count and len(set(digests(log).values())) == 1


@pytest.mark.parametrize(("age", "horizon"), [(6, 64), (60, 16)])
def test_bytes_that_a_node_has_lost_come_back_and_if_they_were_closed_it_says_so(age: int, horizon: int) -> None:
    lost: list[int] = []

    async def forget(world: World) -> None:
        replica = replica_of(world, VICTIM)
        number = replica.round - age
        assert (number < replica.book.closed) == (age == 60)
        gone = of_round(replica, number)
        assert gone
        replica._forget(gone)
        lost.append(number)

    log = live(topology(count=3, steps=110, strategy={**SOON, "horizon": horizon}), 18.0, forget)
    assert equal(log, 3)
    assert not [event for event in of(log, Rejected, Noted) if getattr(event, "level", "error") == "error"]
    found = mended(log)
    assert {node for node, _ in found} == ({VICTIM} if age == 60 else set())
    if age == 60:
        assert any(event.first <= lost[0] < event.last for _, event in found)
        assert sum(event.new for _, event in found) >= 2
        assert sum(event.gone for _, event in found) == 0
        assert all(event.peer for _, event in found)


def test_a_byte_that_one_node_took_when_it_was_too_late_is_gone_again() -> None:
    strangers: list[str] = []

    async def slip_in(world: World) -> None:
        stranger = Stranger(world)
        strangers.append(stranger.me)
        replica = replica_of(world, VICTIM)
        closed, replica.book.closed = replica.book.closed, 0
        world.nodes[VICTIM].daemon.node.service.flood.admit(stranger.public_key)  # type: ignore[union-attr]
        assert replica.receive(stranger.signed(Run(5, 0, b"\x05", -3))).new == 1
        replica.book.closed = closed

    log = live(topology(count=3, steps=110, strategy=SOON), 18.0, slip_in)
    assert equal(log, 3)
    ((node, event),) = mended(log)
    assert (node, event.first, event.last, event.new, event.gone) == (VICTIM, 5, 6, 0, 1)


def test_a_disk_that_lost_closed_rounds_is_mended_after_the_start() -> None:
    async def damage(world: World) -> None:
        world.crash(VICTIM)
        files = world.nodes[VICTIM].home.files
        for name in [name for name in files if name.endswith(".master")]:
            del files[name]
        name = min(name for name in files if name.endswith(".log"))
        files[name] = files[name][: len(files[name]) // 4]
        await world.start(VICTIM)

    log = live(topology(count=3, steps=110, strategy=SOON), 18.0, damage)
    assert equal(log, 3)
    assert any("damaged" in event.message for event in of(log, Noted))


def test_halves_that_closed_rounds_apart_end_with_the_same() -> None:
    sides = [["node-0", "node-1"], ["node-2..node-4"]]
    faults = [{"at": 5, "partition": sides, "for": 15}]

    async def nothing(world: World) -> None: ...

    log = live(topology(count=5, steps=150, strategy=SOON, faults=faults), 1.0, nothing)
    assert equal(log, 5)
    assert {event.reason for event in of(log, Rejected)} == {"closed"}
    assert sum(event.gone + event.new for _, event in mended(log)) > 20
    assert not [event for event in of(log, Noted) if "without all others" in event.message]


@pytest.mark.parametrize("means", ["replay", "snapshot"])
def test_integers_that_a_machine_got_wrong_are_noticed_and_made_anew(
    means: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if means == "snapshot":
        monkeypatch.setattr("p2ptrain.strategies.spsa.part.REPLAYED_MAX", 1000)

    async def break_one(world: World) -> None:
        replica_of(world, VICTIM).master.lattice.values[7] += 1

    log = live(topology(count=3, steps=70, strategy=SOON), 8.0, break_one)
    assert equal(log, 3)
    (note,) = [event for event in of(log, Noted) if event.level == "error"]
    assert "not what most neighbours have" in note.message
    fetched = [stamped for stamped in log if isinstance(stamped.event, Fetched) and stamped.time > 8.0]
    assert [stamped.node for stamped in fetched] == ([VICTIM] if means == "snapshot" else [])
