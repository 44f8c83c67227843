"""What lies between two nodes: by the file, and while faults change it."""

from typing import Any

from p2ptrain.faults import Shapes
from p2ptrain.topology import Topology
from p2ptrain.topology.links import Link, Pair

EU, US = ("node-0", "node-1"), ("node-2", "node-3")
ACROSS: Pair = ("node-0", "node-2")
BACK: Pair = ("node-2", "node-0")


def topology(links: dict[str, Any] | None = None, *faults: dict[str, Any]) -> Topology:
    nodes = [{"count": 2, "site": "eu"}, {"count": 2, "site": "us"}]
    body = {"run": {"task": "digits", "steps": 5}, "nodes": nodes, "links": links or {}, "faults": faults}
    return Topology.model_validate(body)


def test_without_words_a_link_is_perfect() -> None:
    assert topology().link(ACROSS) == Link()


def test_default_holds_everywhere_and_later_words_win_field_by_field() -> None:
    file = topology(
        {
            "default": {"latency": "10ms", "loss": "1%", "bandwidth": "1mbit"},
            "eu": {"latency": "1ms"},
            "eu-us": {"latency": "90ms"},
            "us>eu": {"latency": "95ms", "loss": "5%"},
        }
    )
    assert file.link(EU) == Link(latency=0.001, loss=0.01, bandwidth=1e6)
    assert file.link(US) == Link(latency=0.01, loss=0.01, bandwidth=1e6)
    assert file.link(ACROSS) == Link(latency=0.09, loss=0.01, bandwidth=1e6)
    assert file.link(BACK) == Link(latency=0.095, loss=0.05, bandwidth=1e6)


def test_two_sites_may_be_written_in_either_order() -> None:
    file = topology({"us-eu": {"latency": "90ms"}})
    assert file.link(ACROSS).latency == file.link(BACK).latency == 0.09
    assert file.link(EU).latency == 0


def test_an_explicit_zero_wins_over_the_default() -> None:
    assert topology({"default": {"latency": 1}, "eu": {"latency": 0}}).link(EU).latency == 0


def test_a_dump_keeps_what_was_left_out_left_out() -> None:
    file = topology({"default": {"latency": 1}, "eu": {"loss": 0.5}})
    again = Topology.model_validate(file.model_dump(mode="json"))
    assert again.link(EU) == file.link(EU) == Link(latency=1, loss=0.5)


CUT = {"at": 1, "cut": {"from": "node-0", "to": "us"}, "for": 10}
SLOW = {"at": 2, "degrade": {"from": "eu", "to": "us"}, "link": {"latency": 2, "down": False}, "for": 4}
SLOWER = {"at": 3, "degrade": {"from": "node-0", "to": "node-2"}, "link": {"latency": 3}, "for": 10}


def links_over_time(file: Topology, pair: Pair) -> list[tuple[float, Link]]:
    """(time, link) at each change of the pair."""
    shapes = Shapes(file)
    changes = ((deed.at, shapes.after(deed)) for deed in file.plan())
    return [(at, links[pair]) for at, links in changes if pair in links]


def test_faults_in_force_lie_over_each_other_and_the_latest_wins() -> None:
    file = topology({"default": {"latency": 1, "loss": 0.1}}, CUT, SLOW, SLOWER)
    assert links_over_time(file, ACROSS) == [
        (1, Link(latency=1, loss=0.1, down=True)),
        (2, Link(latency=2, loss=0.1, down=False)),
        (3, Link(latency=3, loss=0.1, down=False)),
        (6, Link(latency=3, loss=0.1, down=True)),  # SLOW is over: the cut shows again
        (11, Link(latency=3, loss=0.1)),
        (13, Link(latency=1, loss=0.1)),
    ]
    assert [at for at, _ in links_over_time(file, BACK)] == [2, 3, 6, 13]
    assert links_over_time(file, EU) == []


def test_of_two_faults_on_the_same_link_the_one_that_ends_goes() -> None:
    way = {"from": "node-0", "to": "node-2"}
    long = {"at": 1, "degrade": way, "link": {"latency": 1}, "for": 9}
    short = {"at": 2, "degrade": way, "link": {"latency": 2}, "for": 1}
    found = links_over_time(topology({}, long, short), ACROSS)
    assert [(at, link.latency) for at, link in found] == [(1, 1), (2, 2), (3, 1), (10, 0)]


def test_a_flapping_link_ends_each_of_its_own_cuts() -> None:
    flap = {"at": 1, "flap": {"from": "node-0", "to": "node-2"}, "every": 2, "down": 1, "for": 4}
    found = links_over_time(topology({}, flap), ACROSS)
    assert [(at, link.down) for at, link in found] == [(1, True), (2, False), (3, True), (4, False)]


def test_a_fault_that_never_ends_stays_in_force() -> None:
    cut = {"at": 1, "cut": {"from": "eu", "to": "us"}}
    assert links_over_time(topology({}, cut), ACROSS) == [(1, Link(down=True))]
