"""One `report.html` of a run: everything inline, so that the file can be mailed, and opens without a network."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from node.report import charts, graph
from node.report.charts import Band, Chart, Line, Point
from node.units import MISSING, duration, number, size
from p2ptrain.errors import ConfigError
from p2ptrain.telemetry import sinks
from p2ptrain.telemetry.outages import Outage
from p2ptrain.telemetry.state import NodeState, SwarmState

MAX_FAULTS_LISTED = 200
HERE = Path(__file__).parent

Summary = dict[str, Any]


def write(path: Path, state: SwarmState, summary: Summary | None = None, topology: str = "") -> None:
    """`summary` and `topology` (YAML) add the verdict and the configuration where they are known."""
    path.write_text(render(state, summary, topology), encoding="utf-8")


def rebuild(log: Path, target: Path | None = None) -> Path:
    """From a log of events; takes the summary and the topology of the same folder when they are there."""
    state, target = sinks.read(log), target or log.with_name("report.html")
    topology = log.with_name("topology.yaml")
    try:
        text = topology.read_text() if topology.is_file() else ""
        write(target, state, _summary(log.with_name("summary.json")), text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot write {target}: {error}") from None
    return target


def _summary(path: Path) -> Summary | None:
    if not path.is_file():
        return None
    try:
        body = json.loads(path.read_text())
    except ValueError:
        body = None
    if not isinstance(body, dict) or not body.keys() >= {"name", "ok", "expect", "nodes", "consensus", "seconds"}:
        raise ConfigError(f"{path}: not the summary of a run; without it the report can be made all the same")
    return body


def render(state: SwarmState, summary: Summary | None, topology: str) -> str:
    """The page."""
    name = summary["name"] if summary else "swarm"
    nodes = list(state.nodes.values())
    figures = [*map(charts.draw, _charts(state)), graph.draw(nodes, graph.plan(topology))]
    figures = [figure for figure in figures if figure]
    body = "".join(
        [
            _header(name, state, summary),
            _tiles(state, summary),
            _expectations(summary),
            _legend(nodes) if figures else "",
            f'<section class="charts">{"".join(figures)}</section>',
            _faults_table(state),
            _nodes_table(state, summary),
            _notes(state),
            f"<details><summary>Topology file as resolved</summary><pre>{escape(topology)}</pre></details>"
            if topology
            else "",
        ]
    )
    css, script = (HERE / "page.css").read_text(), (HERE / "page.js").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}: p2ptrain report</title><style>{css}</style></head>\n<body><main>{body}"
        "<footer>Made by p2ptrain. Click a node to hide it, double-click to see it alone.</footer></main>"
        f"<script>{script}</script></body></html>\n"
    )


def _charts(state: SwarmState) -> list[Chart]:
    nodes = list(state.nodes.values())
    died = [note for note in state.notes if note.kind == "died"]
    marks = [(note.time, f"{note.node} {note.message}") for note in state.notes if note.kind in ("died", "restarted")]

    def lines(points: Callable[[NodeState], Iterable[Point]], broken: bool = True) -> list[Line]:
        breaks = [[note.time for note in died if broken and note.node == node.name] for node in nodes]
        return [Line(node.name, list(points(node)), i, node.name, breaks[i]) for i, node in enumerate(nodes)]

    faults = [_band(outage) for outage in state.outages]
    unit, prefix = _prefix(max((node.bytes_sent for node in nodes), default=0))
    losses = lines(lambda node: ((time, loss) for time, _, loss in node.losses.points))
    held_out = lines(lambda node: ((time, loss) for time, loss, _ in node.evaluations.points))
    accuracies = lines(lambda node: ((time, accuracy) for time, _, accuracy in node.evaluations.points))
    steps = lines(lambda node: ((time, step) for time, step, _ in node.losses.points))
    consensus = [
        Line("swarm", charts.binned(sorted((time, value) for time, value in state.consensus_series.points), 80))
    ]
    sent = lines(lambda node: _sent(node, unit), broken=False)
    rates = lines(lambda node: _exchange_rate(node, state.time), broken=False)
    return [
        Chart("Training loss (smoothed)", "loss", losses, marks=marks, faults=faults),
        Chart("Held-out loss", "loss", held_out, marks=marks),
        Chart("Held-out accuracy", "accuracy", accuracies, marks=marks),
        Chart(
            "Consensus distance (estimated from exchanges)",
            "relative squared distance",
            consensus,
            log=True,
            marks=marks,
            faults=faults,
        ),
        Chart("Training steps", "steps", steps, marks=marks, zero=True),
        Chart("Bytes sent", f"sent ({prefix}B)", sent, marks=marks, zero=True),
        Chart("Exchange rate", "exchanges per second", rates, marks=marks, zero=True),
    ]


def _prefix(most: float) -> tuple[float, str]:
    return next((pair for pair in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if most >= pair[0]), (1.0, ""))


def _sent(node: NodeState, unit: float) -> list[Point]:
    start = [(node.started, 0.0)] if node.started is not None else []
    return [*start, *((time, sent / unit) for time, sent, _, _ in node.traffic.points)] if node.exchanges else []


def _exchange_rate(node: NodeState, end: float) -> list[Point]:
    return charts.per_second([(time, float(count)) for time, _, _, count in node.traffic.points], end)


def _band(outage: Outage) -> Band:
    over = math.inf if outage.over is None else outage.over
    healed = over if outage.recovered is None else max(over, outage.at + outage.recovered)
    until = "" if outage.over in (None, outage.at) else f" to {_seconds(outage.over)}"
    parts = [f"{outage.what}: {_seconds(outage.at)}{until}"]
    parts += [f"noticed after {_seconds(outage.detected)}"] if outage.detected is not None else []
    parts += [f"whole again after {_seconds(outage.recovered)}"] if outage.recovered is not None else []
    return Band(outage.at, over, healed, outage.what, ", ".join(parts))


def _header(name: str, state: SwarmState, summary: Summary | None) -> str:
    badge = ""
    if summary:
        word, style = ("expectations met", "good") if summary["ok"] else ("expectations not met", "bad")
        word = word if summary["expect"] else ("finished" if summary["ok"] else "no node is alive")
        badge = f'<span class="badge {style}">{word}</span>'
    sizes = {node.num_parameters for node in state.nodes.values() if node.num_parameters}
    parts = [f"{len(state.nodes)} nodes"]
    parts += [f"{max(sizes):,} parameters"] if sizes else []
    parts += [f"{summary['runtime']} runtime", f"seed {summary['seed']}"] if summary else []
    return f'<header><h1>{escape(name)}</h1>{badge}</header><p class="sub">{escape(" · ".join(parts))}</p>'


def _tiles(state: SwarmState, summary: Summary | None) -> str:
    nodes = list(state.nodes.values())
    consensus = summary["consensus"] if summary else state.consensus
    tiles = [
        ("duration", duration(summary["seconds"] if summary else state.time)),
        ("nodes alive", f"{state.num_alive} of {len(nodes)}"),
        ("held-out loss", _middle(node.eval_loss for node in nodes if node.alive)),
        ("held-out accuracy", _middle(node.accuracy for node in nodes if node.alive)),
        ("consensus", number(consensus, 2)),
        ("sent by all", size(sum(node.bytes_sent for node in nodes))),
        ("exchanges", f"{sum(node.exchanges for node in nodes):,}"),
        ("failed exchanges", f"{sum(node.num_failed for node in nodes):,}"),
    ]
    shown = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{what}</span></div>'
        for what, value in tiles
        if value != MISSING
    )
    return f'<section class="tiles">{shown}</section>'


def _middle(values: Iterable[float | None]) -> str:
    """The middle of the nodes' values."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return number(statistics.median(known)) if known else MISSING


def _expectations(summary: Summary | None) -> str:
    if not summary or not summary["expect"]:
        return ""
    rows = [
        (item["what"], item["want"], _value(item["got"]), ("met", "good") if item["ok"] else ("not met", "bad"))
        for item in summary["expect"]
    ]
    cells = "".join(
        f'<tr><td class="text">{escape(what)}</td><td class="text">{escape(want)}</td><td class="text">{got}</td>'
        f'<td class="text {style}">{verdict}</td></tr>'
        for what, want, got, (verdict, style) in rows
    )
    return _table("Expectations", ["what", "expected", "got", ""], 4, cells)


def _value(got: float | None) -> str:
    return str(got) if isinstance(got, int) else number(got, 4)


def _table(heading: str, titles: Sequence[str], num_text: int, rows: str) -> str:
    """The first `num_text` columns are text and stand to the left."""
    styles = (' class="text"' if index < num_text else "" for index in range(len(titles)))
    head = "".join(f"<th{style}>{title}</th>" for style, title in zip(styles, titles, strict=True))
    return f'<h2>{heading}</h2><div class="scroll"><table class="data"><tr>{head}</tr>{rows}</table></div>'


def _legend(nodes: Sequence[NodeState]) -> str:
    buttons = "".join(
        f'<button aria-pressed="true" data-node="{escape(node.name)}"><svg viewBox="0 0 26 10" aria-hidden="true">'
        f'<path class="swatch line {charts.classes(index)}" d="M1,5L25,5"/></svg>{escape(node.name)}</button>'
        for index, node in enumerate(nodes)
    )
    return f'<h2>Over time</h2><nav class="legend" aria-label="nodes">{buttons}</nav>'


def _faults_table(state: SwarmState) -> str:
    if not state.outages:
        return ""
    rows = "".join(
        f'<tr><td class="text">{_seconds(outage.at)}</td><td class="text wrap">{escape(outage.what)}</td>'
        f"<td>{_seconds(outage.over, outage.at)}</td><td>{_seconds(outage.detected)}</td>"
        f"<td>{_seconds(outage.recovered)}</td></tr>"
        for outage in state.outages[:MAX_FAULTS_LISTED]
    )
    if len(state.outages) > MAX_FAULTS_LISTED:
        rows += f'<tr><td class="text" colspan="5">and {len(state.outages) - MAX_FAULTS_LISTED} more</td></tr>'
    return _table("Faults", ["at", "fault", "over after", "noticed after", "whole again after"], 2, rows)


def _seconds(time: float | None, since: float = 0.0) -> str:
    return MISSING if time is None else f"{round(time - since, 2):g} s"


def _nodes_table(state: SwarmState, summary: Summary | None) -> str:
    titles = [
        "node", "device", "state", "steps", "training loss", "held-out loss", "accuracy", "sent", "received",
        "exchanges", "failed", "refused", "started", "first exchange", "digest",
    ]  # fmt: skip
    rows = "".join(_node_row(node, summary) for node in state.nodes.values())
    return _table("Nodes", titles, 3, rows)


def _node_row(node: NodeState, summary: Summary | None) -> str:
    profile = summary["nodes"].get(node.name, {}).get("device", "") if summary else ""
    device = " on ".join(part for part in (profile, node.device) if part) or MISSING
    dead = ' class="text bad"' if not node.alive else ' class="text"'
    cells = [
        str(node.step), number(node.smooth_loss), number(node.eval_loss), number(node.accuracy), size(node.bytes_sent),
        size(node.bytes_received), f"{node.exchanges:,}",
    ]  # fmt: skip
    counts = [_counted(node.failed), _counted(node.rejected)]
    times = [duration(node.started), duration(node.first_contribution)]
    plain = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    rest = "".join(f"<td>{escape(cell)}</td>" for cell in times)
    digest = f'<td><code title="{escape(node.digest or "")}">{escape((node.digest or MISSING)[:8])}</code></td>'
    name = f'<td class="text">{escape(node.name)}</td><td class="text">{escape(device)}</td><td{dead}>{node.phase}</td>'
    return f"<tr>{name}{plain}{''.join(counts)}{rest}{digest}</tr>"


def _counted(counts: Any) -> str:
    reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))
    return f'<td title="{escape(reasons)}">{sum(counts.values()) or MISSING}</td>'


def _notes(state: SwarmState) -> str:
    if not state.notes:
        return ""
    rows = "".join(
        f'<tr><td class="text">{duration(note.time)}</td><td class="text">{escape(note.node)}</td>'
        f'<td class="text wrap {note.level}">{escape(note.message)}</td></tr>'
        for note in state.notes
    )
    return _table("Notes", ["time", "node", "note"], 3, rows)
