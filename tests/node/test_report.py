import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from node import report, summary
from node.report import charts
from node.report.charts import Chart, Line
from p2ptrain.errors import ConfigError
from p2ptrain.telemetry import events
from p2ptrain.telemetry.events import Stamped, to_json
from p2ptrain.telemetry.state import SwarmState, apply
from p2ptrain.topology import Topology

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that elements nest, and gathers what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.captions: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "figcaption":
            self.captions.append(data)
        if "script" not in self.open and "style" not in self.open:
            self.text += data + " "

    def lines(self, chart: str) -> list[str | None]:
        """Names of the curves of a chart."""
        found, inside = [], False
        for tag, attributes in self.tags:
            if tag == "svg":
                inside = attributes.get("aria-label") == chart
            elif tag == "path" and inside and "data-name" in attributes:
                found.append(attributes["data-name"])
        return found


@pytest.fixture(scope="module")
def made(state: SwarmState) -> summary.Summary:
    run = {"task": "digits", "seconds": 60}
    file = {"name": "quick", "run": run, "expect": {"accuracy": ">= 0.99", "alive": 4}}
    return summary.build(Topology.model_validate(file), state, 61, 0.0012)


def test_the_page_has_everything(state: SwarmState, made: summary.Summary) -> None:
    page = Page(report.render(state, made, "name: quick\n"))
    assert page.captions == [
        "Training loss (smoothed)", "Held-out loss", "Held-out accuracy",
        "Consensus distance (estimated from exchanges)", "Training steps", "Bytes sent", "Exchange rate",
        "Exchanges between nodes",
    ]  # fmt: skip
    for chart in ("Training loss (smoothed)", "Held-out loss", "Held-out accuracy", "Bytes sent", "Exchange rate"):
        assert page.lines(chart) == list(state.nodes)
    for text in (
        "expectations not met",
        ">= 0.99",
        "not met",
        "died (signal 9)",
        "sent (MB)",
        "time (s)",
        "name: quick",
        "0.0012",
    ):
        assert text in page.text
    buttons = [attributes["data-node"] for tag, attributes in page.tags if tag == "button"]
    assert buttons == list(state.nodes)


def test_nothing_is_loaded_from_elsewhere(state: SwarmState, made: summary.Summary) -> None:
    text = report.render(state, made, "")
    assert not re.search(r"https?://|\bimport\b|url\(|@import|fetch\(|XMLHttpRequest|WebSocket", text)
    for _, attributes in Page(text).tags:
        assert not {"src", "href", "srcset", "data", "action"} & attributes.keys()


def test_what_is_missing_is_left_out(state: SwarmState) -> None:
    nodes = {
        name: replace(
            node, evaluations=type(node.evaluations)(tuple((t, v, float("nan")) for t, v, _ in node.evaluations.points))
        )
        for name, node in state.nodes.items()
    }
    page = Page(report.render(replace(state, nodes=nodes), None, ""))
    assert "Held-out accuracy" not in page.captions
    assert "Held-out loss" in page.captions
    assert Page(report.render(SwarmState(), None, "")).captions == []


def test_names_and_notes_are_text(state: SwarmState) -> None:
    evil = '<script>alert("x")</script>'
    state = apply(state, Stamped(evil, 1.0, events.Noted("warning", evil)))
    state = apply(state, Stamped(evil, 1.0, events.Stepped(1, 1.0, 0.1)))
    state = apply(state, Stamped(evil, 2.0, events.Stepped(2, 1.0, 0.1)))
    text = report.render(state, None, evil)
    assert "<script>alert" not in text
    assert evil in Page(text).lines("Training steps")


def test_a_report_is_rebuilt_from_the_log(log: list[Stamped], tmp_path: Path, made: summary.Summary) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(to_json(stamped) + "\n" for stamped in log))
    assert "expectations" not in report.rebuild(path).read_text()
    summary.save(tmp_path / "summary.json", made)
    (tmp_path / "topology.yaml").write_text("name: quick\n")
    text = report.rebuild(path).read_text()
    assert "expectations not met" in text
    assert "name: quick" in text
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(ConfigError, match=r"summary\.json"):
        report.rebuild(path)


def test_curves_are_thinned_and_broken_where_a_node_died() -> None:
    line = Line("a", [(float(x), float(x)) for x in range(100_000)], 0, "a", breaks=[50_000.0])
    drawn = charts.draw(Chart("t", "u", [line]))
    assert drawn
    path = re.search(r' d="([^"]*)"', drawn)
    assert path
    assert len(re.findall(r"[ML]", path[1])) == charts.MAX_POINTS
    assert path[1].count("M") == 2


def test_a_logarithmic_chart_leaves_out_what_has_no_logarithm() -> None:
    assert charts.draw(Chart("t", "u", [Line("a", [(0, 0.0), (1, -1.0)])], log=True)) is None
    assert charts.draw(Chart("t", "u", [Line("a", [(0, 0.0), (1, 1e-3), (2, 1e-5)])], log=True))


def test_a_chart_need_not_be_over_time() -> None:
    line = Line("a", [(0, 1.0), (500, 2.0)])
    drawn = charts.draw(Chart("t", "u", [line], across="steps <each>"))
    assert drawn
    assert "steps &lt;each&gt;</text>" in drawn
    assert 'data-units="steps &lt;each&gt;,u"' in drawn
    assert 'data-x="0,500"' in drawn
    assert "time (" not in drawn
    over_time = charts.draw(Chart("t", "u", [line]))
    assert over_time
    assert "time (min)</text>" in over_time
    assert 'data-units="min,u"' in over_time


def test_a_constant_can_be_drawn() -> None:
    for value in (0.0, 5.0, 1e12):
        assert "nan" not in (charts.draw(Chart("t", "u", [Line("a", [(0, value), (1, value)])])) or "nan")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.3, 0.95), (0, 1e7), (-3, 3), (1.7312, 1.7313), (1e-9, 3e-9)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    found = charts.ticks(low, high, 5)
    assert 3 <= len(found) <= 11
    assert all(low - 1e-9 * abs(low) <= tick <= high * (1 + 1e-9) for tick in found)


@pytest.mark.parametrize(("low", "high"), [(1e-8, 1), (0.001, 0.008), (1e-30, 1e30), (0.5, 2)])
def test_logarithmic_ticks(low: float, high: float) -> None:
    found = charts.log_ticks(low, high)
    assert 2 <= len(found) <= 12
    assert all(low * 0.99 <= tick <= high * 1.01 for tick in found)


def test_rates_add_up_to_the_counter() -> None:
    points = [(0.5 * index, float(index)) for index in range(1, 101)]
    rates = charts.per_second(points, 50.0, 25)
    assert sum(rate for _, rate in rates) * 2.0 == pytest.approx(100)
