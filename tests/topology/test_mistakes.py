"""A file that cannot work is refused with line, key and reason."""

from pathlib import Path

import pytest

from p2ptrain.config import load
from p2ptrain.errors import ConfigError
from p2ptrain.topology import Topology

GOOD = """\
name: mine
run: {task: digits, steps: 10}
graph: {kind: ring, n: 4}
nodes:
  - {count: 2, site: eu}
  - {count: 2, site: us}
links: {eu-us: {latency: 90ms}}
faults:
  - {at: 5s, kill: node-3}
  - {at: 6s, start: node-3}
expect: {accuracy: ">= 0.9"}
"""
KILL = "{at: 5s, kill: node-3}"


def wrong(tmp_path: Path, old: str, new: str) -> str:
    path = tmp_path / "bad.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError) as error:
        load(path, Topology)
    return str(error.value).removeprefix(f"{path}:")


def test_the_file_that_the_others_are_made_of_is_good(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    assert load(path, Topology).num_nodes == 4


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("{at: 5s, kill: node-9}", "faults.0.kill: there is no node 'node-9'"),
        ("{at: 5s, kill: node-3..node-1}", "faults.0.kill: node-3..node-1: node-3 comes after node-1"),
        ("{at: 5s, partition: [eu, [us, node-7]]}", "faults.0.partition.1: there is no node 'node-7'"),
        ("{at: 5s, cut: {from: eu, to: asia}}", "faults.0.cut.to: there is no node 'asia'"),
        ("{at: -5s, kill: node-3}", "faults.0.at: Input should be greater than or equal to 0"),
        ("{at: .inf, kill: node-3}", "faults.0.at: Input should be a finite number"),
        ("{at: 5 lightyears, kill: node-3}", "faults.0.at: write it as 20ms, 30s or 2min"),
        ("{kill: node-3}", "faults.0.at: is missing"),
        ("{at: 5s, kill: node-3, kill: node-2}", "kill: is given twice"),
        ("{at: 5s, kill: node-3, pause: node-2, for: 1}", "faults.0.pause: kill and pause are 2 faults"),
        ("{at: 5s, maim: node-3}", "faults.0: says not what happens: one of kill, stop, start, "),
        ("{at: 5s, pause: node-3}", "faults.0.for: is missing"),
        ("{at: 5s, churn: all, session: 5, away: 2}", "faults.0.for: is missing"),
        ("{at: 5s, kill: node-3, how: gently}", "faults.0.how: there is no such key (got 'gently')"),
        ("{at: 5s, kill: []}", "faults.0.kill: Tuple should have at least 1 item"),
        ("{at: 5s, partition: [eu, [us, node-1]]}", "faults.0.partition.1: node-1 is in another group already"),
        ("{at: 5s, partition: [all]}", "faults.0.partition: Tuple should have at least 2 items"),
        ("{at: 5s, cut: {from: node-0, to: node-0}}", "faults.0.cut: from and to are the same node"),
        ("{at: 5s, cut: {from: node-0}}", "faults.0.cut.to: is missing"),
        (
            "{at: 5s, degrade: {from: eu, to: us}, link: {latancy: 1}}",
            "faults.0.link.latancy: there is no such key",
        ),
        (
            "{at: 5s, degrade: {from: eu, to: us}, link: {loss: 110%}}",
            "faults.0.link.loss: Input should be less than or equal to 1",
        ),
        ("{at: 5s, degrade: {from: eu, to: us}, link: {}}", "faults.0.link: says not what changes"),
        (
            "{at: 5s, flap: {from: eu, to: us}, every: 2, down: 2, for: 9}",
            "faults.0.down: down for 2 s of every 2 s",
        ),
        (
            "{at: 5s, flap: {from: eu, to: us}, every: 0, down: 1, for: 9}",
            "faults.0.every: Input should be greater than 0.001",
        ),
        ("{at: 5s, churn: all, for: 9, session: 0, away: 1}", "faults.0.session: Input should be greater than 0"),
        ("{at: 5s, skew: node-3, by: fast}", "faults.0.by: write it as -20ms, 30s or 2min, not 'fast'"),
    ],
)
def test_a_fault_that_cannot_be(tmp_path: Path, fault: str, expected: str) -> None:
    assert wrong(tmp_path, KILL, fault).startswith(f"9: {expected}")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{kind: ring, n: 4}", "{kind: ring, n: 5}", "3: graph: graph has 5 vertices for 4 nodes"),
        ("{kind: ring, n: 4}", "{kind: edges, edges: [[0, 1], [2, 3]]}", "3: graph: graph 'edges': the graph is not"),
        (
            "{kind: ring, n: 4}",
            "{kind: ring, n: 4, schedule: [{at: 0.5, kind: star}, {at: 0.4, kind: ring}]}",
            "3: graph: graph 'ring': schedule.1.at: 0.4 is no later than 0.5",
        ),
        ("{kind: ring, n: 4}", "{kind: rink, n: 4}", "3: graph: unknown graph 'rink'; choose one of"),
        ("{count: 2, site: eu}", "{count: 2, site: eu, name: x}\n  - {name: x-1}", "4: nodes: two nodes are named x-1"),
        (
            "{count: 2, site: eu}",
            "{name: x, site: us}\n  - {site: x}",
            "6: nodes.1.site: in faults and links x means a node",
        ),
        (
            "{count: 2, site: eu}",
            "{count: 2, site: default}",
            "5: nodes.0.site: in faults and links default means all links",
        ),
        ("{count: 2, site: eu}", "{count: 1, name: all}", "4: nodes: no node can be named all"),
        ("{count: 2, site: eu}", "{count: 2, starts: -1}", "5: nodes.0.starts: Input should be greater than or equal"),
        ("{count: 2, site: eu}", "{count: 2, count: 3}", "5: count: is given twice"),
        ("eu-us: {", "eu-asia: {", "7: links.eu-asia: no node is at site 'asia'; the sites are eu, us"),
        ("eu-us: {", "us-us: {", "7: links.us-us: lies not between two sites; write us"),
        ("eu-us: {", "eu-us-eu: {", "7: links.eu-us-eu: lies not between two sites"),
        ("links: {", "links: {us-eu: {loss: 1%}, ", "7: links.eu-us: is the same as us-eu; for one way write eu>us"),
        ("latency: 90ms", "delay: 90ms", "7: links.eu-us.delay: there is no such key"),
        (
            "accuracy:",
            "speed:",
            "11: expect.speed: Input should be 'accuracy', 'loss', 'gap', 'consensus', 'alive' or 'views'",
        ),
        ('">= 0.9"', "high", "11: expect.accuracy: write a comparison such as \">= 0.93\", not 'high'"),
        ("name: mine", "name: mine\nname: yours", "2: name: is given twice"),
        (", steps: 10", "", "2: run: give steps or seconds"),
        ("graph:", "node: {listen: nowhere}\ngraph:", "3: node.listen: expected host:port (got 'nowhere')"),
        ("graph:", "node: {broker: '0.0.0.0:1883'}\ngraph:", "3: node.broker: is for one node only: write it into"),
        ("site: eu}", "site: eu, broker: 'h:1'}", "5: nodes.0.broker: is for one node only, and these are 2"),
        (
            "{count: 2, site: eu}",
            "{broker: 'h:1', site: eu}\n  - {broker: 'me:secret@h:1', site: eu}",
            "6: nodes.1.broker: two nodes have the same address, h:1",
        ),
        ("site: eu}", "site: eu, broker: 'a:secret@h'}", "5: nodes.0.broker: expected host:port, such as 0.0.0.0:1883"),
    ],
)
def test_a_file_that_contradicts_itself(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = wrong(tmp_path, old, new)
    assert found.startswith(expected)
    assert "secret" not in found


def test_an_alias_that_leads_back_to_itself_is_refused_like_anything_else(tmp_path: Path) -> None:
    assert wrong(tmp_path, "nodes:", "node: &loop {a: *loop}\nnodes:").startswith("4: node")
