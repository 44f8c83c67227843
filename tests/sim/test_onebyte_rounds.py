"""Which round a node works at: all bytes of a span have one scale, which those of the spans before decide. What a node
says far from the others means something else once all that was said is known."""

import pytest
from test_onebyte import of, topology
from test_onebyte_horizon import live, replica_of

from p2ptrain.simulation.world import World
from p2ptrain.telemetry.events import Evaluated
from p2ptrain.topology import Topology

SPAN = 4
UNEQUAL = [{"name": "fast", "device": "h100"}, {"name": "slow", "count": 3, "device": "rtx4090"}]


def rounds(file: Topology, at: float, *names: str) -> list[int]:
    """Where these nodes are at that time."""
    found = list[int]()

    async def look(world: World) -> None:
        found.extend(replica_of(world, name).round for name in names)

    live(file, at, look)
    return found


def test_those_who_come_when_most_have_finished_work_at_the_same_rounds() -> None:
    nodes = [{"count": 4}, {"name": "late", "starts": "8s"}, {"name": "later", "starts": "14s"}]
    late, later = rounds(topology(nodes=nodes, steps=60), 19.0, "late", "later")
    assert late > 60  # further than those who have finished ever were
    assert abs(late - later) < SPAN


def test_of_two_the_slower_one_goes_on_where_the_faster_one_is() -> None:
    fast, slow = rounds(
        topology(nodes=[{"name": "fast", "device": "h100"}, {"name": "slow", "device": "rtx4090"}]),
        10.0,
        "fast",
        "slow",
    )
    assert fast > 40
    assert fast - slow < 2 * SPAN


@pytest.mark.parametrize(("f", "is_followed"), [(None, False), (1, False), (0, True)])
def test_as_many_as_the_strategy_says_rush_ahead_and_take_nobody_along(f: int | None, is_followed: bool) -> None:
    fast, slow = rounds(topology(nodes=UNEQUAL, strategy={"f": f}), 10.0, "fast", "slow-0")
    assert fast > 40
    assert (fast - slow < 2 * SPAN) == is_followed


def test_unequal_machines_learn_sooner_when_all_go_on_where_the_fastest_is() -> None:
    def learnt(f: int | None) -> float:
        found = list[float]()

        async def look(world: World) -> None:
            daemon = world.nodes["fast"].daemon
            assert daemon is not None
            found.append(daemon.trainer.evaluate().loss)

        log = live(topology(nodes=UNEQUAL, strategy={"f": f, "lr": 0.05}, steps=150), 28.0, look)
        return of(log, Evaluated)[0].loss - found[0]

    assert learnt(0) > 1.5 * learnt(None)
