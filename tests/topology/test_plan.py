"""Who a fault befalls, and what its deeds are."""

import random
from typing import Any

import pytest

from p2ptrain.topology import Topology
from p2ptrain.topology.faults import KINDS, Fault
from p2ptrain.topology.plan import Cast, Deed, plan

CAST = Cast({"node-0": "eu", "node-1": "eu", "node-2": "us", "node-3": "us", "far": "asia"})


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (["node-2"], ["node-2"]),
        (["node-1..node-3"], ["node-1", "node-2", "node-3"]),
        (["node-3..far"], ["node-3", "far"]),
        (["node-1..node-1"], ["node-1"]),
        (["eu"], ["node-0", "node-1"]),
        (["all"], ["node-0", "node-1", "node-2", "node-3", "far"]),
        (["far", "node-0"], ["node-0", "far"]),
        (["us", "node-2", "node-2..far"], ["node-2", "node-3", "far"]),
    ],
)
def test_names_ranges_sites_and_lists(written: list[str], names: list[str]) -> None:
    assert CAST.nodes(written) == tuple(names)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("node-9", r"there is no node 'node-9'; the nodes are node-0, node-1, node-2, \.\.\."),
        ("node-0..node-9", "there is no node 'node-9'"),
        ("node-3..node-1", "node-3 comes after node-1"),
        ("eu..us", "there is no node 'eu'"),
        ("", "there is no node ''"),
    ],
)
def test_what_names_nobody(written: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        CAST.nodes([written])


def made(**fault: Any) -> Fault:
    verb = next(verb for verb in KINDS if verb in fault)
    return KINDS[verb].model_validate(fault)


def deeds(**fault: Any) -> list[Deed]:
    return plan([made(**fault)], CAST, seed=0)


def moments(found: list[Deed]) -> list[tuple[float, str, tuple[str, ...]]]:
    return [(deed.at, deed.verb, deed.nodes) for deed in found]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"kill": "eu"}, [(5, "kill", ("node-0", "node-1"))]),
        ({"kill": "far", "for": "2s"}, [(5, "kill", ("far",)), (7, "start", ("far",))]),
        ({"stop": "far"}, [(5, "stop", ("far",))]),
        ({"start": ["far", "node-1"]}, [(5, "start", ("node-1", "far"))]),
        ({"pause": "far", "for": 3}, [(5, "pause", ("far",)), (8, "resume", ("far",))]),
        ({"tear": "far"}, [(5, "tear", ("far",)), (6, "start", ("far",))]),
        ({"tear": "far", "for": 4}, [(5, "tear", ("far",)), (9, "start", ("far",))]),
    ],
)
def test_what_befalls_nodes(fault: dict[str, Any], expected: list[Any]) -> None:
    assert moments(deeds(at=5, **fault)) == expected


def test_a_skewed_clock_is_set_right_after_its_time() -> None:
    found = deeds(at=5, skew="far", by="-30s", **{"for": 2})
    assert [(deed.at, deed.verb, deed.nodes, deed.seconds) for deed in found] == [
        (5, "skew", ("far",), -30),
        (7, "skew", ("far",), 0),
    ]
    assert len(deeds(at=5, skew="far", by=1)) == 1


def test_a_partition_cuts_both_ways_between_its_groups_and_nowhere_else() -> None:
    down, up = deeds(at=1, partition=[["node-0"], "us"], **{"for": 4})
    assert (down.at, down.verb, down.change) == (1, "shape", (("down", True),))
    assert (up.at, up.verb, up.pairs) == (5, "unshape", down.pairs)
    assert set(down.pairs) == {
        ("node-0", "node-2"), ("node-2", "node-0"), ("node-0", "node-3"), ("node-3", "node-0"),
    }  # fmt: skip
    assert len(down.pairs) == 4


def test_three_groups_are_cut_from_each_other() -> None:
    (down,) = deeds(at=1, partition=["eu", "us", "far"])
    assert len(set(down.pairs)) == 2 * (2 * 2 + 2 * 1 + 2 * 1)


def test_a_cut_is_one_way() -> None:
    down, up = deeds(at=1, cut={"from": "node-0", "to": "eu"}, **{"for": 2})
    assert down.pairs == up.pairs == (("node-0", "node-1"),)
    assert (down.change, down.at, up.at, up.verb) == ((("down", True),), 1, 3, "unshape")


def test_a_degraded_link_changes_what_is_written_both_ways() -> None:
    worse, same = deeds(at=1, degrade={"from": "far", "to": "eu"}, link={"latency": "500ms", "loss": 0}, **{"for": 2})
    assert set(worse.pairs) == {("far", "node-0"), ("node-0", "far"), ("far", "node-1"), ("node-1", "far")}
    assert dict(worse.change) == {"latency": 0.5, "loss": 0.0}
    assert (same.verb, same.at, same.pairs) == ("unshape", 3, worse.pairs)


def test_a_flapping_link_goes_down_again_and_again() -> None:
    found = deeds(at=10, flap={"from": "far", "to": "node-0"}, every=4, down=1, **{"for": 9})
    assert [(deed.at, deed.verb) for deed in found] == [
        (10, "shape"), (11, "unshape"), (14, "shape"), (15, "unshape"), (18, "shape"), (19, "unshape"),
    ]  # fmt: skip
    assert {frozenset(deed.pairs) for deed in found} == {frozenset({("far", "node-0"), ("node-0", "far")})}


def test_a_reset_breaks_connections_whoever_made_them() -> None:
    (deed,) = deeds(at=1, reset={"from": "far", "to": "node-0"})
    assert (deed.verb, set(deed.pairs)) == ("reset", {("far", "node-0"), ("node-0", "far")})


def test_deeds_come_in_order_of_time_and_know_their_fault() -> None:
    faults = [made(at=9, kill="far"), made(at=1, pause="node-0", **{"for": 20}), made(at=9, start="node-1")]
    assert [(deed.at, deed.verb, deed.fault) for deed in plan(faults, CAST, 0)] == [
        (1, "pause", 1), (9, "kill", 0), (9, "start", 2), (21, "resume", 1),
    ]  # fmt: skip


CHURN = {"at": 100, "churn": "eu", "for": "10h", "session": 60, "away": 20}


def sessions(found: list[Deed], name: str) -> tuple[list[float], list[float]]:
    """(sessions, absences) of a node, without the last session, which the end may have cut short."""
    own = [deed for deed in found if deed.nodes == (name,)]
    assert [deed.verb for deed in own] == ["kill", "start"] * (len(own) // 2)
    kills, starts = [deed.at for deed in own[::2]], [deed.at for deed in own[1::2]]
    begins = [100.0, *starts[:-1]]
    return (
        [kill - begin for kill, begin in zip(kills, begins, strict=True)],
        [start - kill for kill, start in zip(kills[:-1], starts[:-1], strict=True)],
    )


@pytest.mark.parametrize("shape", [0.6, 1.0, 3.0])
def test_sessions_have_the_mean_and_the_spread_of_their_weibull(shape: float) -> None:
    present, absent = sessions(plan([made(**CHURN | {"for": "1000h", "shape": shape})], CAST, 1), "node-0")
    assert len(present) > 20_000
    assert sum(present) / len(present) == pytest.approx(60, rel=0.05)
    assert sum(absent) / len(absent) == pytest.approx(20, rel=0.05)
    median = sorted(present)[len(present) // 2]
    rng = random.Random(7)
    reference = sorted(rng.weibullvariate(1, shape) for _ in range(200_001))
    assert median / 60 == pytest.approx(reference[100_000] / (sum(reference) / len(reference)), rel=0.1)


def test_all_are_back_when_churn_ends() -> None:
    found = deeds(**CHURN)
    for name in ("node-0", "node-1"):
        own = [deed for deed in found if deed.nodes == (name,)]
        assert own[-1].verb == "start"
        assert all(100 <= deed.at <= 100 + 36_000 for deed in own)
    assert {name for deed in found for name in deed.nodes} == {"node-0", "node-1"}


def test_churn_is_the_same_for_the_same_seed_and_place_in_the_file() -> None:
    churn, kill = made(**CHURN), made(at=0, kill="far")
    assert plan([churn], CAST, 5) == plan([churn], CAST, 5)
    times = [[deed.at for deed in plan(faults, CAST, seed) if deed.what.startswith("churn")]
             for faults, seed in (([churn], 5), ([churn], 6), ([kill, churn], 5))]  # fmt: skip
    assert times[0] != times[1]
    assert times[0] != times[2]


def test_a_topology_s_plan_depends_on_the_run_s_seed() -> None:
    def of(seed: int) -> list[Deed]:
        run = {"task": "digits", "steps": 5, "seed": seed}
        faults = [{"at": 0, "churn": "all", "for": 100, "session": 10, "away": 5}]
        return Topology.model_validate({"run": run, "faults": faults}).plan()

    assert of(1) == of(1)
    assert of(1) != of(2)
