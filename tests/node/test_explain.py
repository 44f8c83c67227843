"""What `check` says of a file: graph, links, faults on a time axis, runtimes, and what is hardly meant."""

import re
from typing import Any

import pytest

from node import explain, timeline
from node.timeline import WIDTH
from p2ptrain.topology import Topology

NODES = [{"count": 2, "site": "eu", "device": "h100"}, {"count": 2, "site": "us", "device": "rtx3090"}]


def topology(*faults: dict[str, Any], **other: Any) -> Topology:
    run = {"task": "digits", "seconds": 60}
    return Topology.model_validate({"run": run, "nodes": NODES, "faults": faults, **other})


def rows(*faults: dict[str, Any], **other: Any) -> dict[str, str]:
    """Label and the sixty characters of each row; here each stands for a second."""
    width = max(len(str(fault)) for fault in topology(*faults, **other).faults)
    lines = timeline.draw(topology(*faults, **other))[2:]
    return {line[:width].strip(): line[width + 2 : width + 2 + WIDTH] for line in lines}


def bar(*pieces: tuple[int, str]) -> str:
    """(column, characters) on an empty axis."""
    line = " " * WIDTH
    for column, text in pieces:
        line = line[:column] + text + line[column + len(text) :]
    return line


def test_no_fault_no_timeline() -> None:
    assert timeline.draw(topology()) == []


def test_a_fault_is_a_bar_as_long_as_it_lasts() -> None:
    found = rows(
        {"at": 10, "kill": "node-0", "for": 5},
        {"at": 20, "partition": ["eu", "us"], "for": 10},
        {"at": 30, "pause": "node-1", "for": 1},
        {"at": 5, "skew": "node-2", "by": 3, "for": 4},
    )
    assert found == {
        "kill node-0": bar((10, "█████")),
        "partition eu | us": bar((20, "█" * 10)),
        "pause node-1": bar((30, "█")),
        "skew node-2 by 3 s": bar((5, "████")),
    }


def test_what_does_not_end_has_no_end_and_what_takes_no_time_is_a_mark() -> None:
    found = rows({"at": 50, "cut": {"from": "eu", "to": "us"}}, {"at": 7, "reset": {"from": "eu", "to": "us"}})
    assert found == {"cut eu -> us": bar((50, "█" * 9 + ">")), "reset eu -> us": bar((7, "x"))}


def test_a_dead_node_is_so_until_another_fault_starts_it() -> None:
    found = rows({"at": 10, "kill": "eu"}, {"at": 20, "start": "node-0"}, {"at": 25, "start": "node-1"})
    assert found == {
        "kill eu": bar((10, "█" * 15)),
        "start node-0": bar((20, "x")),
        "start node-1": bar((25, "x")),
    }


def test_starting_does_not_end_a_pause() -> None:
    found = rows({"at": 10, "pause": "node-0", "for": 10}, {"at": 12, "kill": "node-0"}, {"at": 15, "start": "node-0"})
    assert found["pause node-0"] == bar((10, "█" * 10))
    assert found["kill node-0"] == bar((12, "███"))


def test_flaps_are_told_apart() -> None:
    found = rows({"at": 10, "flap": {"from": "eu", "to": "us"}, "every": 5, "down": 2, "for": 11})
    assert found == {"flap eu -> us": bar((10, "██   ██   ██"))}


def test_churn_is_as_high_as_many_are_away_and_its_departures_are_counted() -> None:
    churn = {"at": 0, "churn": "all", "for": 50, "session": 5, "away": 3}
    away = {name: [False] * WIDTH for name in ("node-0", "node-1", "node-2", "node-3")}
    gone: dict[str, float] = {}
    kills = 0
    for deed in topology(churn).plan():
        if deed.verb == "kill":
            gone[deed.nodes[0]] = deed.at
            kills += 1
        else:
            begin = int(gone[deed.nodes[0]])
            for column in range(begin, min(WIDTH, max(begin + 1, int(deed.at)))):
                away[deed.nodes[0]][column] = True
    drawn = rows(churn)["churn all"]
    assert [char != " " for char in drawn] == [any(column) for column in zip(*away.values(), strict=True)]
    assert len(set(drawn)) > 2
    assert f"  {kills} times, " in timeline.draw(topology(churn))[2]


def test_latecomers_are_on_it() -> None:
    late = timeline.draw(topology(nodes=[{"count": 3}, {"name": "slow", "starts": 30}]))
    assert late[2].startswith(f"slow comes  {bar((30, 'x'))}  at 30 s")


def test_the_axis_reaches_as_far_as_faults_do() -> None:
    assert "60 s" not in timeline.draw(topology({"at": 200, "stop": "node-0"}))[0]
    assert "200" in timeline.draw(topology({"at": 200, "stop": "node-0"}))[0]
    assert "60 s" in timeline.draw(topology({"at": 2, "stop": "node-0"}))[0]


def test_links_are_a_table_from_site_to_site() -> None:
    links = {"default": {"latency": "5ms"}, "eu-us": {"bandwidth": "20mbit"}, "us>eu": {"loss": "1%", "jitter": "2ms"}}
    lines = explain.topology(topology(links=links)).splitlines()
    at = next(i for i, line in enumerate(lines) if "from \\ to" in line)
    assert [re.split("  +", line.strip()) for line in lines[at : at + 3]] == [
        ["from \\ to", "eu", "us"],
        ["eu", "5 ms", "5 ms, 20 Mbit/s"],
        ["us", "5 ms + 0-2 ms, 20 Mbit/s, loss 1 %", "5 ms"],
    ]
    assert "from \\ to" not in explain.topology(topology())


def test_many_sites_are_a_list() -> None:
    nodes = [{"site": f"s{index}"} for index in range(6)]
    text = explain.topology(topology(nodes=nodes, links={"s0>s5": {"latency": "9ms"}}))
    assert "s0 to s5: 9 ms" in text
    assert "s5 to s0: 0 ms" in text
    assert "s0 to s0: -" in text


def test_the_graph_is_drawn_with_what_it_is_worth() -> None:
    text = explain.topology(topology(graph={"kind": "ring", "n": 4}))
    assert "ring(n=4), 4 edges, degree 2, diameter 2, spectral gap 0.667, chi1 0.500" in text
    assert any("\u2800" < char <= "\u28ff" for char in text)
    assert "   0  node-0  h100     eu    1      1, 3" in text


def test_a_graph_that_changes_has_a_line_for_each_epoch() -> None:
    text = explain.topology(topology(graph={"kind": "ring", "n": 4, "schedule": [{"at": 0.25, "kind": "complete"}]}))
    assert "graph       ring(n=4), 4 edges, degree 2" in text
    assert "from 25 %   complete(n=4), 6 edges, degree 3, diameter 1, spectral gap 1.000, chi1 0.250" in text


def test_what_each_node_sends() -> None:
    run = {"task": "digits", "steps": 1000, "strategy": {"name": "gossip", "rate": 0.1, "final_rate": 0.3}}
    text = explain.topology(topology(run=run))
    assert "about 4.9 kB each way per exchange, 0.400 exchanges per step and node: 2.0 MB sent by each" in text
    alone = explain.topology(topology(run={"task": "digits", "steps": 9, "strategy": "local"}))
    assert "0 exchanges per step and node\n" in alone


def test_what_only_the_simulator_can_carry() -> None:
    assert "runtimes    sim, process, docker\n" in explain.topology(topology(links={"eu": {"loss": "1%"}}))
    assert "sim alone: no TCP connection does links.eu.drop" in explain.topology(topology(links={"eu": {"drop": "1%"}}))
    degrade = {"at": 1, "degrade": {"from": "eu", "to": "us"}, "link": {"corrupt": "1%"}}
    assert "sim alone: no TCP connection does faults.0.link.corrupt" in explain.topology(topology(degrade))
    assert "sim, process" in explain.topology(topology(links={"eu": {"drop": 0}}))


def warnings(*faults: dict[str, Any], **other: Any) -> list[str]:
    lines = explain.topology(topology(*faults, **other)).splitlines()
    return [line.strip().removeprefix("warning: ") for line in lines if "warning" in line]


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ([{"at": 1, "kill": "node-0"}, {"at": 2, "start": "node-0"}], []),
        ([{"at": 1, "kill": "node-0", "for": 5}, {"at": 7, "kill": "node-0"}], []),
        ([{"at": 2, "start": "node-0"}], ["faults.0: start node-0: at 2 s node-0 is to start, and is not down"]),
        (
            [{"at": 1, "kill": "node-0", "for": 5}, {"at": 2, "stop": "eu"}],
            ["faults.1: stop eu: at 2 s node-0 is down already"],
        ),
        (
            [{"at": 61, "stop": "node-0"}],
            ["faults.0: stop node-0: at 61 s training is over, nothing will come of it"],
        ),
        (
            [{"at": 61, "flap": {"from": "eu", "to": "us"}, "every": 2, "down": 1, "for": 9}],
            ["faults.0: flap eu -> us: at 61 s training is over, nothing will come of it"],
        ),
    ],
)
def test_what_is_hardly_meant_is_said(faults: list[dict[str, Any]], expected: list[str]) -> None:
    assert warnings(*faults) == expected


def test_a_latecomer_is_down_until_it_is_started_or_comes() -> None:
    late = [{"count": 3}, {"name": "slow", "starts": 30}]
    assert warnings({"at": 5, "start": "slow"}, nodes=late) == []
    assert len(warnings({"at": 5, "kill": "slow"}, nodes=late)) == 1


def test_where_only_steps_are_given_the_simulator_s_clock_counts() -> None:
    run, simulation = {"task": "digits", "steps": 100}, {"step": 0.1}
    kill = {"at": 30, "kill": "node-0"}  # the slower of the devices takes ten times as long: 100 s
    assert warnings(kill, run=run, simulation=simulation) == []
    assert len(warnings(kill, run=run, simulation=simulation, nodes=[{"count": 4}])) == 1
