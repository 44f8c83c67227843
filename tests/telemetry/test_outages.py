"""When a fault was noticed, and when the swarm was whole again: told from handwritten logs."""

import pytest

from p2ptrain.telemetry import events, outages
from p2ptrain.telemetry.events import Event, Stamped
from p2ptrain.telemetry.outages import Outage
from p2ptrain.telemetry.state import expecting, fold

NAMES = ("a", "b", "c", "d")
Happened = tuple[float, str, Event]


def started(time: float, name: str) -> Happened:
    return time, name, events.Started(f"id-{name}", 0, "cpu", "127.0.0.1:1", 10, False)


def joined(time: float, name: str, *others: str) -> list[Happened]:
    return [(time, name, events.Joined(f"id-{other}", other)) for other in others]


def left(time: float, name: str, other: str, reason: str = "silent") -> Happened:
    return time, name, events.Left(f"id-{other}", other, reason)


def exchanged(time: float, name: str, other: str) -> Happened:
    return time, name, events.Exchanged(f"id-{other}", 1, 1, 0.1, 0.1, True)


def flooded(time: float, name: str, other: str, heard: int = 100) -> Happened:
    """In the two seconds before."""
    return time, name, events.Flooded(f"id-{other}", 100, heard, 2.0)


def fault(time: float, verb: str, *whom: str, index: int = 0) -> Happened:
    return time, "", events.Faulted(index, verb, f"{verb} {whom[0]}", " ".join(whom))


def died(time: float, name: str) -> Happened:
    return time, name, events.Died(-9)


MET: list[Happened] = [
    *(started(0, name) for name in NAMES),
    *(one for name in NAMES for one in joined(1, name, *(other for other in NAMES if other != name))),
]


def found(*happened: Happened) -> list[Outage]:
    log = (Stamped(name, time, event) for time, name, event in (*MET, *happened))
    return list(fold(log, expecting(NAMES)).outages)


def times(*happened: Happened) -> tuple[float | None, float | None]:
    (outage,) = found(*happened)
    return outage.detected, outage.recovered


KILL, DEAD, AGAIN = fault(10, "kill", "d"), died(10, "d"), fault(20, "start", "d")
ALL_NOTICE = [left(12, "a", "d"), left(14, "c", "d"), left(13, "b", "d")]
"""Not in order of time, as logs of several processes are not."""


def test_a_kill_is_detected_by_the_last_and_recovered_by_the_first_exchange() -> None:
    back = [started(22, "d"), exchanged(23, "a", "b"), exchanged(25, "d", "a"), exchanged(27, "d", "b")]
    assert times(KILL, DEAD, *ALL_NOTICE, AGAIN, *back) == (4, 15)


def test_bytes_that_were_heard_since_then_are_an_exchange() -> None:
    back = [started(22, "d"), flooded(23, "d", "a", heard=0), flooded(24, "a", "b"), flooded(25, "d", "a")]
    assert times(KILL, DEAD, *ALL_NOTICE, AGAIN, *back) == (4, 15)
    cut = [fault(10, "shape", "a>b"), fault(20, "unshape", "a>b")]
    assert times(*cut, flooded(21, "a", "b"), flooded(22, "a", "c"), flooded(23, "a", "b")) == (None, 13)


def test_what_is_known_of_it() -> None:
    (outage,) = found(KILL, DEAD, *ALL_NOTICE)
    assert (outage.at, outage.fault, outage.verb, outage.what) == (10, 0, "kill", "kill d")


def test_as_long_as_one_has_not_noticed_it_is_not_detected() -> None:
    assert times(KILL, DEAD, *ALL_NOTICE[:2]) == (None, None)


def test_it_is_not_detected_when_it_was_back_before_the_last_one_noticed() -> None:
    assert times(KILL, DEAD, *ALL_NOTICE[:2], AGAIN, started(22, "d"), exchanged(25, "d", "a")) == (None, 15)
    late = left(23, "b", "d")
    assert times(KILL, DEAD, *ALL_NOTICE[:2], AGAIN, started(22, "d"), late) == (None, None)


def test_being_started_is_not_yet_being_back() -> None:
    assert times(KILL, DEAD, *ALL_NOTICE[:2], fault(12.5, "start", "d"), ALL_NOTICE[2], started(16, "d")) == (4, None)


def test_an_exchange_of_others_with_it_is_not_its_own() -> None:
    assert times(KILL, DEAD, exchanged(11, "a", "d"), AGAIN, started(22, "d"), exchanged(23, "a", "d")) == (None, None)


def test_only_those_that_had_it_in_view_and_live_need_notice() -> None:
    blind = left(5, "a", "d")
    assert times(blind, KILL, DEAD, left(12, "c", "d"), left(13, "b", "d")) == (3, None)
    assert times(KILL, DEAD, *ALL_NOTICE[:2], died(16, "b")) == (4, None)
    assert times(KILL, DEAD, left(12, "a", "d"), died(13, "b"), (14, "c", events.Stopped(1, ""))) == (2, None)
    assert times(died(5, "b"), KILL, DEAD, left(12, "a", "d"), left(14, "c", "d")) == (4, None)


def test_what_was_said_before_it_arrives_late_and_counts_for_nothing() -> None:
    assert times(KILL, DEAD, left(12, "a", "d"), left(13, "b", "d"), left(9.9, "c", "d")) == (3, None)
    assert times(KILL, DEAD, left(9.7, "a", "d"), left(9.8, "b", "d"), left(9.9, "c", "d")) == (None, None)


def test_of_several_the_last_counts() -> None:
    kill = fault(10, "kill", "c", "d")
    notice = [left(t, n, o) for t, n, o in ((12, "a", "c"), (12, "b", "c"), (13, "a", "d"), (15, "b", "d"))]
    back = [started(20, "c"), exchanged(21, "c", "a"), started(22, "d"), exchanged(23, "c", "a")]
    assert times(kill, died(10, "c"), died(10, "d"), *notice, *back) == (5, None)
    assert times(kill, died(10, "c"), died(10, "d"), *notice, *back, exchanged(30, "d", "a")) == (5, 20)


def test_a_stop_is_detected_by_its_goodbyes() -> None:
    goodbye = [left(10.1, n, "d", "leaving") for n in "abc"]
    (detected, recovered) = times(fault(10, "stop", "d"), *goodbye, (10.2, "d", events.Stopped(5, "")))
    assert detected == pytest.approx(0.1)
    assert recovered is None


def test_a_pause_is_over_with_resume_not_with_what_was_said_before() -> None:
    pause, resume = fault(10, "pause", "d"), fault(20, "resume", "d")
    stale = exchanged(9.9, "d", "a")  # in the pipe when it was stopped, read when it went on
    assert times(pause, *ALL_NOTICE, resume, stale) == (4, None)
    assert times(pause, *ALL_NOTICE, resume, stale, exchanged(21, "d", "a")) == (4, 11)
    assert times(pause, resume, exchanged(21, "d", "a")) == (None, 11)


PARTITION = fault(10, "shape", *(f"{a}>{b}" for x, y in (("ab", "cd"), ("cd", "ab")) for a in x for b in y))
HEAL = fault(30, "unshape", *(f"{a}>{b}" for x, y in (("ab", "cd"), ("cd", "ab")) for a in x for b in y))


def test_a_partition_is_detected_by_the_first_and_recovered_when_all_see_and_one_exchanges() -> None:
    lose = [left(13, "a", "c"), left(14, "c", "a"), left(15, "b", "d")]
    meet = [*joined(31, "a", "c"), *joined(32, "c", "a"), *joined(34, "b", "d")]
    assert times(PARTITION, *lose, HEAL, *meet[:2], exchanged(33, "a", "d"), meet[2]) == (3, 24)
    assert times(PARTITION, *lose, HEAL, *meet, exchanged(35, "d", "b")) == (3, 25)
    assert times(PARTITION, *lose, HEAL, *meet, exchanged(35, "a", "b")) == (3, None)
    assert times(PARTITION, *lose, HEAL, *meet[:2], exchanged(33, "a", "d")) == (3, None)


def test_a_cut_that_nobody_noticed_is_recovered_by_an_exchange_after_it() -> None:
    assert times(PARTITION, exchanged(11, "a", "c"), HEAL) == (None, None)
    assert times(PARTITION, exchanged(11, "a", "c"), HEAL, exchanged(30.5, "a", "c")) == (None, 20.5)
    assert times(PARTITION, HEAL, exchanged(29.9, "a", "c")) == (None, None)


def test_what_others_lose_and_those_that_leave_in_order_is_not_the_partition_s() -> None:
    assert times(PARTITION, left(12, "a", "b"), left(13, "c", "a", "leaving")) == (None, None)
    assert times(PARTITION, died(11, "c"), left(12, "a", "c")) == (None, None)


def test_who_dies_meanwhile_is_not_waited_for() -> None:
    lose = [left(13, "a", "c"), left(14, "c", "a"), left(15, "d", "a"), left(15, "a", "d")]
    meet = [*joined(31, "a", "d"), *joined(31, "d", "a"), exchanged(32, "a", "d")]
    assert times(PARTITION, *lose, HEAL, *meet) == (3, None)
    assert times(PARTITION, *lose, HEAL, *meet, died(33, "c")) == (3, 23)


def test_a_cut_one_way_can_be_noticed_at_either_end() -> None:
    cut, end = fault(10, "shape", "a>b"), fault(20, "unshape", "a>b")
    assert times(cut, left(13, "a", "b"), end, *joined(21, "a", "b"), exchanged(22, "b", "a")) == (3, 12)


def test_each_cut_of_a_flapping_link_is_one_of_its_own() -> None:
    log = [
        fault(10, "shape", "a>b", "b>a"), fault(11, "unshape", "a>b", "b>a"), exchanged(12, "a", "b"),
        fault(14, "shape", "a>b", "b>a"), left(14.5, "b", "a"), fault(15, "unshape", "a>b", "b>a"),
        *joined(16, "b", "a"), exchanged(17, "a", "b"),
    ]  # fmt: skip
    assert [(o.at, o.detected, o.recovered) for o in found(*log)] == [(10, None, 2), (14, 0.5, 3)]


def test_two_partitions_do_not_end_each_other() -> None:
    log = [
        fault(10, "shape", "a>b", index=0), fault(11, "shape", "a>b", index=1), fault(12, "unshape", "a>b", index=1),
        exchanged(13, "a", "b"),
    ]  # fmt: skip
    assert [(o.at, o.recovered) for o in found(*log)] == [(10, None), (11, 2)]


def test_a_reset_is_over_at_once() -> None:
    assert times(fault(10, "reset", "a>b", "b>a"), exchanged(10.5, "b", "a")) == (None, 0.5)


def test_a_wrong_clock_is_listed_once_and_has_no_times() -> None:
    assert times(fault(10, "skew", "a"), left(13, "b", "a"), fault(20, "skew", "a"), exchanged(21, "a", "b")) == (
        None,
        None,
    )


def test_starting_a_newcomer_is_no_outage() -> None:
    assert found(fault(10, "start", "d"), exchanged(11, "d", "a")) == []


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "MAX_OUTAGES", 3)
    kills = [event for i in range(5) for event in (fault(10 + i, "kill", "d", index=i), died(10 + i, "d"))]
    assert [outage.at for outage in found(*kills)] == [10, 11, 12]
