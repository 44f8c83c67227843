"""The swarm's graph in the report, and its faults on the time axis."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from node import report, resolve
from node.report import charts, graph
from node.report.charts import Band, Chart, Line
from p2ptrain.telemetry import events
from p2ptrain.telemetry.events import Stamped
from p2ptrain.telemetry.state import SwarmState, apply
from p2ptrain.topology import Topology

NODES = [{"count": 2, "site": "eu", "device": "h100"}, {"count": 2, "site": "us", "device": "rtx3060"}]


def plan(**other: object) -> graph.Plan:
    body = {"run": {"task": "digits", "seconds": 60}, "nodes": NODES, **other}
    return graph.plan(resolve.dump(Topology.model_validate(body)))


def edges(figure: str | None) -> dict[str, str]:
    """Attributes of each line by its title."""
    return {
        title: look for look, title in re.findall(r'<line class="link" ([^>]*)><title>([^<]*)</title>', figure or "")
    }


def exchanges(state: SwarmState, **partners: dict[int, int]) -> SwarmState:
    """With these counts instead: `n0={1: 5}`, node-0 had five with node-1."""
    peers = [node.peer for node in state.nodes.values()]
    nodes = {
        name: replace(node, partners={peers[i]: n for i, n in partners.get(f"n{name[-1]}", {}).items()})
        for name, node in state.nodes.items()
    }
    return replace(state, nodes=nodes)


def test_lines_are_the_graph_s_edges_and_dashed_where_nothing_was_exchanged(state: SwarmState) -> None:
    nodes = list(exchanges(state, n0={1: 5}, n1={0: 4}, n2={1: 10}).nodes.values())
    found = edges(graph.draw(nodes, plan(graph={"kind": "ring", "n": 4})))
    assert {title: "dasharray" in look for title, look in found.items()} == {
        "node-0 and node-1: 5 exchanges": False,
        "node-1 and node-2: 10 exchanges": False,
        "node-2 and node-3: 0 exchanges": True,
        "node-0 and node-3: 0 exchanges": True,
    }
    widths = {title: re.search(r'stroke-width="([\d.]+)"', look) for title, look in found.items()}
    thin, thick = widths["node-0 and node-1: 5 exchanges"], widths["node-1 and node-2: 10 exchanges"]
    assert thin
    assert thick
    assert float(thin[1]) < float(thick[1])


def test_nodes_stand_where_the_graph_puts_them(state: SwarmState) -> None:
    torus = graph.draw(list(state.nodes.values()), plan(graph={"kind": "torus", "n": 4})) or ""
    circle = graph.draw(list(state.nodes.values()), graph.Plan()) or ""
    places = [re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', figure) for figure in (torus, circle)]
    assert len({x for x, _ in places[0]}) == len({y for _, y in places[0]}) == 2
    assert len({x for x, _ in places[1]}) == 3
    assert "Graph: torus" in torus
    assert "Exchanges between nodes" in circle


def test_without_a_graph_the_lines_are_who_exchanged(state: SwarmState) -> None:
    nodes = list(exchanges(state, n0={3: 1}).nodes.values())
    assert set(edges(graph.draw(nodes, plan()))) == {"node-0 and node-3: 1 exchanges"}
    assert graph.draw(list(exchanges(state).nodes.values()), plan()) is None


def test_colours_are_sites_else_devices(state: SwarmState) -> None:
    nodes = list(state.nodes.values())
    by_site = graph.draw(nodes, plan()) or ""
    assert re.findall(r'class="dot (c\d)', by_site) == ["c0", "c0", "c1", "c1"]
    assert re.findall(r"</i>(\w+)", by_site) == ["eu", "us"]
    one_site = [{"count": 1, "device": "h100"}, {"count": 3, "device": "rtx3060"}]
    by_device = graph.draw(nodes, plan(nodes=one_site)) or ""
    assert re.findall(r'class="dot (c\d)', by_device) == ["c0", "c1", "c1", "c1"]
    assert re.findall(r"</i>(\w+)", by_device) == ["h100", "rtx3060"]
    assert "key" not in (graph.draw(nodes, plan(nodes=[{"count": 4}])) or "")


def test_the_dead_are_hollow(state: SwarmState) -> None:
    dead = apply(state, Stamped("node-1", 99.0, events.Died(-9)))
    found = re.findall(r'class="dot c\d( dead)?"', graph.draw(list(dead.nodes.values()), plan()) or "")
    assert found == ["", " dead", "", ""]


def test_a_file_that_is_no_topology_tells_nothing() -> None:
    assert graph.plan("") == graph.plan("name: quick\n") == graph.plan("- 1") == graph.Plan()


def drawn(*bands: Band) -> str:
    line = Line("a", [(0.0, 1.0), (100.0, 2.0)], 0, "a")
    return charts.draw(Chart("t", "u", [line], faults=bands)) or ""


def bars(figure: str) -> list[tuple[float, float]]:
    """(begin, end) of each bar, in the chart's time, to the nearest second."""
    scale = 100 / (charts.WIDTH - charts.RIGHT - charts.LEFT)
    found = re.findall(r'<rect class="fault" x="([\d.]+)" width="([\d.]+)"', figure)
    return [
        (round((float(x) - charts.LEFT) * scale), round((float(x) - charts.LEFT + float(w)) * scale)) for x, w in found
    ]


def test_a_fault_lies_below_its_time() -> None:
    assert bars(drawn(Band(20, 60, 70, "cut", "cut: 20 s to 60 s"))) == [(20, 60)]
    assert bars(drawn(Band(50, float("inf"), float("inf"), "kill", "kill"))) == [(50, 100)]
    assert "<title>cut: 20 s to 60 s</title>" in drawn(Band(20, 60, 70, "cut", "cut: 20 s to 60 s"))
    assert bars(drawn(Band(101, 120, 130, "late", "late"))) == []
    assert "faults" not in drawn()


@pytest.mark.parametrize(("end", "healed", "has_tail"), [(60, 70, True), (60, 60, False)])
def test_until_it_is_healed_there_is_a_tail(end: float, healed: float, has_tail: bool) -> None:
    assert ('class="tail"' in drawn(Band(20, end, healed, "cut", "cut"))) == has_tail


def test_faults_at_the_same_time_have_rows_of_their_own() -> None:
    apart = drawn(Band(0, 40, 40, "a", "a"), Band(50, 90, 90, "b", "b"))
    together = drawn(Band(0, 60, 60, "a", "a"), Band(50, 90, 90, "b", "b"))
    rows = [set(re.findall(r"translate\(0 (\d+)\)", figure)) for figure in (apart, together)]
    assert [len(found) for found in rows] == [1, 2]
    many = drawn(*(Band(i, 50, 50, f"{i}", f"{i}") for i in range(30)))
    assert len(set(re.findall(r"translate\(0 (\d+)\)", many))) == charts.MAX_LANES
    assert len(bars(many)) == 30


def test_faults_are_listed_and_drawn_in_the_page(log: list[Stamped], state: SwarmState) -> None:
    faulted = [
        Stamped("", 25.0, events.Faulted(0, "kill", "kill node-2", "node-2")),
        Stamped("", 40.0, events.Faulted(0, "start", "start node-2", "node-2")),
    ]
    merged: SwarmState | None = None
    for stamped in sorted([*log, *faulted], key=lambda stamped: stamped.time):
        merged = apply(merged or replace(state, nodes={}, outages=()), stamped)
    assert merged
    page = report.render(merged, None, "")
    row = re.search(r"<tr><td[^>]*>25 s</td><td[^>]*>kill node-2</td><td>16 s</td><td>(.*?)</td><td>(.*?)</td>", page)
    assert row
    assert row[1] == "-"  # only one of three noticed
    assert 16 <= float(row[2].removesuffix(" s")) < 20
    assert page.count('class="fault"') == 2
    assert "kill node-2: 25 s to 41 s, whole again after" in page


def test_the_whole_log_of_a_run_with_faults_can_be_made_a_report(tmp_path: Path, log: list[Stamped]) -> None:
    (tmp_path / "topology.yaml").write_text(
        resolve.dump(
            Topology.model_validate({"run": {"task": "digits", "steps": 5}, "graph": {"kind": "star", "n": 4}})
        )
    )
    (tmp_path / "events.jsonl").write_text("".join(events.to_json(stamped) + "\n" for stamped in log))
    assert "Graph: star" in report.rebuild(tmp_path / "events.jsonl").read_text()
