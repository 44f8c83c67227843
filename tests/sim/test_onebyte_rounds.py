"""Which round a node works at: all bytes of a span have one scale, which those of the spans before decide. What a node
says far from the others means something else once all that was said is known."""

from test_onebyte import topology
from test_onebyte_horizon import live, replica_of

from p2ptrain.simulation.world import World
from p2ptrain.topology import Topology

SPAN = 4


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


def test_one_that_rushes_ahead_takes_nobody_along() -> None:
    nodes = [{"name": "fast", "device": "h100"}, {"name": "slow", "count": 3, "device": "rtx4090"}]
    fast, slow = rounds(topology(nodes=nodes), 10.0, "fast", "slow-0")
    assert fast > 40
    assert slow < 20
