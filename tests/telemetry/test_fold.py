import dataclasses
import math
import random
from itertools import pairwise

import pytest

from p2ptrain.telemetry import events
from p2ptrain.telemetry.events import Event, Stamped
from p2ptrain.telemetry.state import (
    MAX_NOTES,
    MAX_POINTS,
    MAX_REASONS,
    NodeState,
    Series,
    SwarmState,
    apply,
    expecting,
    fold,
)

STARTED = events.Started("aa" * 16, 3, "cpu", "127.0.0.1:1", 10, True)


def after(*happened: Event, every_s: float = 1.0) -> NodeState:
    return swarm(*happened, every_s=every_s).nodes["n"]


def swarm(*happened: Event, every_s: float = 1.0) -> SwarmState:
    return fold(Stamped("n", index * every_s, event) for index, event in enumerate(happened))


def exchanged(distance: float = 0.1, peer: str = "bb" * 16) -> Event:
    return events.Exchanged(peer, 100, 200, 0.1, distance, True)


@pytest.mark.parametrize(
    ("happened", "phase"),
    [
        ([], "starting"),
        ([STARTED], "fetching"),
        ([STARTED, events.Fetched(5, 1, 10, 0.1)], "training"),
        ([STARTED, events.Stepped(1, 1.0, 0.1)], "training"),
        ([STARTED, events.Stepped(1, 1.0, 0.1), events.Finished(1)], "finished"),
        ([STARTED, events.Finished(1), exchanged()], "finished"),
        ([STARTED, events.Finished(1), events.Stopped(1, "ab")], "stopped"),
        ([STARTED, events.Died(-9)], "dead"),
        ([STARTED, events.Died(-9), events.Restarted()], "starting"),
        ([STARTED, events.Offline()], "offline"),
        ([STARTED, events.Offline(), events.Stepped(1, 1.0, 0.1)], "training"),
    ],
)
def test_phases(happened: list[Event], phase: str) -> None:
    state = fold((Stamped("n", 0.0, event) for event in happened), expecting(["n"]))
    assert state.nodes["n"].phase == phase
    assert state.num_alive == (phase not in ("dead", "offline"))


def test_counters() -> None:
    node = after(
        STARTED,
        events.Joined("bb", "b"),
        events.Joined("cc", "c"),
        events.Left("bb", "b", "silent"),
        exchanged(peer="cc"),
        exchanged(peer="cc"),
        events.Failed("cc", "deadline", True),
        events.Failed("cc", "deadline", False),
        events.Rejected("dd", "malformed", ""),
        events.Fetched(7, 2, 1000, 0.5),
        events.Evaluated(7, 2.5, None, 0.25),
        events.Stopped(9, "digest"),
    )
    assert (node.eval_loss, node.accuracy, node.gap) == (2.5, None, 0.25)
    assert (node.slot, node.device, node.started, node.first_contribution) == (3, "cpu", 0.0, 4.0)
    assert (node.bytes_sent, node.bytes_received, node.exchanges) == (200, 1400, 2)
    assert (dict(node.failed), dict(node.rejected), dict(node.partners)) == (
        {"deadline": 2},
        {"malformed": 1},
        {"cc": 2},
    )
    assert (node.eval_loss, node.accuracy, node.step, node.digest) == (2.5, None, 9, "digest")


def test_peers_in_view_are_of_this_life() -> None:
    joined = events.Joined("bb", "b")
    assert len(after(STARTED, joined, joined).peers) == 1
    assert not after(STARTED, joined, events.Died(1)).peers
    assert not after(STARTED, joined, events.Stopped(1, "")).peers


def test_a_restarted_node_keeps_what_it_did() -> None:
    node = after(STARTED, exchanged(), events.Died(-9), events.Restarted(), STARTED, events.Resumed(4))
    assert (node.started, node.first_contribution, node.exchanges, node.step) == (0.0, 1.0, 1, 4)
    assert node.num_restarts == 1
    assert node.exit_code is None


def test_the_loss_is_smoothed_and_survives_nan() -> None:
    node = after(*(events.Stepped(step, 1.0, 0.1) for step in range(50)), events.Stepped(50, math.nan, 0.1))
    assert math.isnan(node.loss or 0)
    assert node.smooth_loss == 1.0
    assert after(events.Stepped(1, 1.0, 0.1), events.Stepped(2, 2.0, 0.1)).smooth_loss == pytest.approx(1.05)


def test_rates_are_of_the_last_seconds() -> None:
    slow = [events.Stepped(step, 1.0, 0.1) for step in range(20)]
    node = after(*slow, every_s=1.0)
    rates = node.rates(19.0)
    assert rates is not None
    assert rates[0] == pytest.approx(1.0)
    assert rates[1:] == (0.0, 0.0)
    later = node.rates(60.0)
    assert later is not None
    assert later[0] < 0.2
    assert after(STARTED).rates(0.0) is None


def test_consensus_is_estimated_from_pairs() -> None:
    """The mean of |x_i - x_j|^2 over pairs is 2n/(n-1) times the mean squared distance to the mean."""
    rng, n = random.Random(0), 5
    replicas = [[rng.gauss(1, 1) for _ in range(40)] for _ in range(n)]
    mean = [sum(column) / n for column in zip(*replicas, strict=True)]
    exact = sum(math.dist(replica, mean) ** 2 for replica in replicas) / n
    pairs = [(a, b) for a in range(n) for b in range(n) if a != b]
    distance = sum(math.dist(replicas[a], replicas[b]) ** 2 for a, b in pairs) / len(pairs)
    joined = [events.Joined(str(peer), "") for peer in range(n - 1)]
    state = swarm(STARTED, *joined, exchanged(distance))
    assert state.consensus == pytest.approx(exact)
    assert swarm(STARTED, exchanged(math.nan)).consensus is None


def test_series_are_thinned_but_keep_their_ends() -> None:
    series = Series()
    for index in range(100_000):
        series = series.add((index, index))
        assert series.last == (index, index)
    times = [time for time, _ in series.points]
    assert MAX_POINTS / 2 <= len(times) <= MAX_POINTS + 1
    assert (times[0], times[-1]) == (0, 99_999)
    gaps = {int(b - a) for a, b in pairwise(times[:-1])}
    assert gaps == {series.stride}


@pytest.mark.parametrize("count", [1, 2, MAX_POINTS - 1, MAX_POINTS, MAX_POINTS + 1])
def test_series_lose_nothing_while_they_have_room(count: int) -> None:
    series = Series()
    for index in range(count):
        series = series.add((index, 0))
    times = [time for time, _ in series.points]
    assert times == sorted(set(times))
    assert times[-1] == count - 1
    if count < MAX_POINTS:
        assert times == list(range(count))


def test_everything_is_bounded() -> None:
    state = SwarmState()
    for index in range(MAX_NOTES + 100):
        state = apply(state, Stamped("n", index, events.Noted("warning", f"note {index}")))
        state = apply(state, Stamped("n", index, events.Rejected("x", f"reason {index}", "")))
        state = apply(state, Stamped("n", index, events.Failed("x", f"reason {index}", True)))
    assert len(state.notes) == MAX_NOTES
    assert len(state.nodes["n"].rejected) <= MAX_REASONS + 1
    assert state.nodes["n"].num_failed == MAX_NOTES + 100


def test_only_the_first_refusal_of_a_kind_is_a_note() -> None:
    state = swarm(STARTED, *[events.Rejected("x", "malformed", "")] * 5, events.Rejected("x", "not-finite", ""))
    assert [note.kind for note in state.notes] == ["rejected", "rejected"]


def test_suspects_come_and_go_and_quarantine_is_a_note() -> None:
    first = [
        events.Suspected("x", "suspected", "malformed", 1.0),
        events.Suspected("x", "quarantined", "malformed", 8.0),
    ]
    state = swarm(STARTED, *first, events.Suspected("y", "suspected", "far from the others", 1.0))
    assert state.nodes["n"].suspects == {"x": "quarantined", "y": "suspected"}
    assert [note.message for note in state.notes if note.kind == "suspected"] == ["x is in quarantine (malformed)"]
    state = apply(state, Stamped("n", 9.0, events.Suspected("x", "readmitted", "forgotten", 3.9)))
    assert state.nodes["n"].suspects == {"y": "suspected"}
    assert state.notes[-1].message == "x is no longer suspected (forgotten)"
    assert not swarm(STARTED, *first, STARTED).nodes["n"].suspects  # a new process has forgotten


def test_apply_leaves_the_state_before_as_it_was() -> None:
    before = swarm(STARTED)
    copy = dataclasses.replace(before, nodes=dict(before.nodes))
    apply(before, Stamped("n", 5, exchanged()))
    apply(before, Stamped("m", 5, STARTED))
    assert before == copy


def test_every_event_can_be_folded_and_written() -> None:
    assert {cls.__name__ for cls in Event.__subclasses__()} >= {"Died", "Restarted"}
    samples = {int: 1, float: 1.0, str: "x", bool: True, float | None: None}
    for cls in Event.__subclasses__():
        event = cls(**{field.name: samples[field.type] for field in dataclasses.fields(cls)})  # type: ignore[index]
        stamped = Stamped("n", 1.0, event)
        assert events.from_json(events.to_json(stamped)) == stamped
        assert apply(SwarmState(), stamped).nodes["n"].name == "n"


def test_what_concerns_the_whole_swarm_is_no_node_s() -> None:
    fault = Stamped("", 3.0, events.Faulted(0, "kill", "kill all", "a b"))
    state = fold([fault, Stamped("", 4.0, events.Noted("warning", "too late"))])
    assert state.nodes == {}
    assert state.time == 4.0
    assert state.faults == (fault,)
    assert [(note.level, note.message) for note in state.notes] == [("info", "kill all"), ("warning", "too late")]


def test_a_death_on_purpose_is_no_alarm() -> None:
    state = fold([Stamped("a", 1.0, events.Died(-9)), Stamped("b", 2.0, events.Died(-9, on_purpose=True))])
    assert [note.level for note in state.notes] == ["error", "info"]
    assert state.num_alive == 0
