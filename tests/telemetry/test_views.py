"""Into how many views the living fall at the end of a run."""

from p2ptrain.telemetry import events
from p2ptrain.telemetry.events import Event, Stamped
from p2ptrain.telemetry.state import SwarmState, expecting, fold

NAMES = ("a", "b", "c", "d")
STOPPED = events.Stopped(9, "ff")


def started(name: str) -> tuple[str, Event]:
    return name, events.Started(f"id-{name}", 0, "cpu", "127.0.0.1:1", 10, False)


def sees(name: str, *others: str) -> list[tuple[str, Event]]:
    return [(name, events.Joined(f"id-{other}", other)) for other in others]


def left(name: str, other: str, reason: str = "silent") -> tuple[str, Event]:
    return name, events.Left(f"id-{other}", other, reason)


def met() -> list[tuple[str, Event]]:
    """All four are up and see each other."""
    return [*map(started, NAMES), *(one for name in NAMES for one in sees(name, *(n for n in NAMES if n != name)))]


def swarm(*happened: tuple[str, Event]) -> SwarmState:
    return fold((Stamped(name, i, event) for i, (name, event) in enumerate(happened)), expecting(NAMES))


def lost(one: str, other: str) -> list[tuple[str, Event]]:
    return [left(one, other), left(other, one)]


def goodbyes() -> list[tuple[str, Event]]:
    """All leave in order, one after the other, each seen off by those that are still there."""
    rest, said = list(NAMES), []
    while rest:
        name = rest.pop(0)
        said += [*(left(other, name, "leaving") for other in rest), (name, STOPPED)]
    return said


def test_all_see_each_other() -> None:
    assert swarm(*met()).num_views == 1


def test_nobody_sees_anybody() -> None:
    assert swarm(*map(started, NAMES)).num_views == 4
    assert swarm().num_views == 4


def test_a_chain_of_sight_is_one_view() -> None:
    assert swarm(*met(), *lost("a", "c"), *lost("a", "d"), *lost("b", "d")).num_views == 1
    assert swarm(*met(), *lost("a", "c"), *lost("a", "d"), *lost("b", "d"), *lost("b", "c")).num_views == 2


def test_sight_must_be_mutual() -> None:
    assert swarm(*met(), left("a", "b"), left("a", "c"), left("d", "a")).num_views == 2


def test_leaving_in_order_at_the_end_does_not_count() -> None:
    state = swarm(*met(), *goodbyes())
    assert all(not node.peers for node in state.nodes.values())
    assert state.num_views == 1


def test_a_split_shows_after_all_have_left() -> None:
    split = [event for one in "ab" for other in "cd" for event in lost(one, other)]
    assert swarm(*met(), *split, *goodbyes()).num_views == 2
    healed = [event for one in "ab" for other in "cd" for event in (*sees(one, other), *sees(other, one))]
    assert swarm(*met(), *split, *healed, *goodbyes()).num_views == 1


def test_a_lost_goodbye_splits_nobody() -> None:
    assert swarm(*met(), ("a", STOPPED), left("b", "a"), left("c", "a"), left("d", "a")).num_views == 1


def test_the_dead_do_not_count_and_do_not_connect() -> None:
    through_b = [*lost("a", "c"), *lost("a", "d")]
    assert swarm(*met(), *through_b).num_views == 1
    assert swarm(*met(), *through_b, ("b", events.Died(-9))).num_views == 2
    assert swarm(*met(), ("b", events.Died(-9))).num_views == 1


def test_who_was_sent_away_does_not_connect_and_does_again_when_back() -> None:
    gone = [("", events.Faulted(0, "stop", "stop b", "b")), *(left(n, "b", "leaving") for n in "acd"), ("b", STOPPED)]
    split = [*lost("a", "c"), *lost("a", "d")]
    assert swarm(*met(), *gone, *split).num_views == 2
    back = [
        ("b", events.Restarted()),
        started("b"),
        *sees("b", "a", "c", "d"),
        *(e for n in "acd" for e in sees(n, "b")),
    ]
    assert swarm(*met(), *gone, *split, *back).num_views == 1


def test_who_came_back_and_met_nobody_is_alone() -> None:
    back = [("b", events.Died(-9)), ("b", events.Restarted()), started("b")]
    assert swarm(*met(), *back).num_views == 2
