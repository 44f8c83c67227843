import random
import statistics

import pytest

from p2ptrain.topology.links import PACKET_BYTES, RTO_S_MAX, RTO_S_MIN, Link, retransmission_s

FAR = Link(latency=0.3, jitter=0.06, loss=0.1)
"""Round trip 0.66 s, mean deviation 0.02 s: a timeout of 0.74 s."""


def test_without_loss_nothing_is_sent_again() -> None:
    assert retransmission_s(Link(latency=0.3), 1 << 20, 0.999) == 0.0
    assert retransmission_s(FAR, 0, 0.999) == 0.0


@pytest.mark.parametrize(
    ("chance", "delay_s"),
    [(0.89, 0.0), (0.91, 0.74), (0.98, 0.74), (0.991, 0.74 * (1 + 2)), (0.9991, 0.74 * (1 + 2 + 4))],
)
def test_a_packet_alone_waits_for_the_timeout_which_doubles(chance: float, delay_s: float) -> None:
    assert retransmission_s(FAR, 100, chance) == pytest.approx(delay_s)


def test_with_packets_behind_it_a_loss_is_noticed_after_a_round_trip() -> None:
    assert retransmission_s(FAR, 4 * PACKET_BYTES, 0.9) == pytest.approx(0.66)
    assert retransmission_s(FAR, 4 * PACKET_BYTES, 0.98) == pytest.approx(0.66 + 2 * 0.74)


def test_timeouts_have_bounds() -> None:
    assert retransmission_s(Link(loss=0.5), 1, 0.6) == RTO_S_MIN
    assert retransmission_s(Link(loss=1), 1, 0.0) < 15 * RTO_S_MAX


def test_packets_are_lost_as_often_as_the_link_says() -> None:
    rng, link = random.Random(0), Link(latency=0.1, loss=0.02)
    for num_packets in (1, 3, 50):
        delays = [retransmission_s(link, num_packets * PACKET_BYTES, rng.random()) for _ in range(20_000)]
        hit = statistics.fmean(delay > 0 for delay in delays)
        assert hit == pytest.approx(1 - 0.98**num_packets, rel=0.1)
