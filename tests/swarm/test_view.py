import pytest

from p2ptrain.swarm.throttle import Throttle
from p2ptrain.swarm.view import Latency


def test_deadlines_follow_the_round_trips() -> None:
    latency = Latency()
    assert latency.deadline_s(0.5, 3.0, misses=0) == 3.0  # nothing is known
    for _ in range(100):
        latency.observe(0.01)
    assert latency.deadline_s(0.5, 3.0, misses=0) == 0.5
    assert latency.deadline_s(0.001, 3.0, misses=0) == pytest.approx(0.01, rel=0.01)
    for _ in range(100):
        latency.observe(0.8)
        latency.observe(0.4)
    assert 0.8 < latency.deadline_s(0.5, 3.0, misses=0) < 1.6


def test_deadlines_double_with_each_miss() -> None:
    latency = Latency()
    latency.observe(0.1)
    assert [latency.deadline_s(0.5, 3.0, misses) for misses in range(4)] == [0.5, 1.0, 2.0, 3.0]


def test_a_throttle_lets_each_key_through_once_and_only_so_many() -> None:
    throttle = Throttle(period_s=60, keys_max=2)
    assert [throttle.lets(key, 0.0) for key in "aabbcc"] == [True, False, True, False, False, False]
    assert [throttle.lets(key, 59.0) for key in "abc"] == [False] * 3
    assert [throttle.lets(key, 60.0) for key in "cab"] == [True, True, False]
