"""The faults of a topology on a time axis, as text."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from node.report.charts import ticks
from node.units import number
from p2ptrain.topology import Topology
from p2ptrain.topology.plan import Deed

WIDTH = 60
"""Characters of the time axis."""
LABEL_MAX = 40
HEIGHTS = " ▁▂▃▄▅▆▇█"
MOMENT, NO_END = "x", ">"
ENDED_BY = {"kill": "start", "stop": "start", "tear": "start", "pause": "resume"}


@dataclass
class Span:
    """When a fault is in force."""

    begin: float
    end: float | None = None
    """None: it does not end."""
    nodes: set[str] = field(default_factory=set)
    """Those that it still holds down."""
    ended_by: str = ""


def draw(topology: Topology) -> list[str]:
    """One line per latecomer and per fault, below an axis; nothing when there are none. The higher a block, the more
    of a fault's nodes or flaps are in force at a time."""
    rows = [(f"{name} comes", [Span(at, at)]) for name, at in _latecomers(topology)]
    rows += list(zip(map(str, topology.faults), spans(topology.plan(), len(topology.faults)), strict=True))
    if not rows:
        return []
    latest = max((end for _, row in rows for span in row for end in (span.begin, span.end or 0)), default=0.0)
    end = max(topology.run.seconds or 0.0, 1.1 * latest, 1.0)
    width = min(LABEL_MAX, max(len(label) for label, _ in rows))
    lines = [f"{label[:width]:<{width}}  {_bar(row, end):<{WIDTH}}  {_times(row)}" for label, row in rows]
    return [" " * (width + 2) + line for line in _axis(end)] + lines


def spans(deeds: Sequence[Deed], num_faults: int) -> list[list[Span]]:
    """For each fault of the file. What is down is so until anything starts it, this fault or another."""
    found: list[list[Span]] = [[] for _ in range(num_faults)]
    held: list[Span] = []
    for deed in deeds:
        own = found[deed.fault]
        if deed.verb in ENDED_BY:
            own.append(Span(deed.at, None, set(deed.nodes), ENDED_BY[deed.verb]))
            held.append(own[-1])
        elif deed.verb in ("start", "resume"):
            for span in held:
                if span.ended_by == deed.verb:
                    span.nodes -= set(deed.nodes)
                    span.end = span.end if span.nodes else deed.at
            held = [span for span in held if span.nodes]
        elif deed.verb == "unshape" or (deed.verb == "skew" and own):
            own[-1].end = deed.at
        elif deed.verb != "reset":
            own.append(Span(deed.at))
        if not own:
            own.append(Span(deed.at, deed.at))  # a reset, or a start that no fault of its own called for
    return found


def _latecomers(topology: Topology) -> list[tuple[str, float]]:
    late = [(group.name or name, group.starts) for name, group in topology.members() if group.starts > 0]
    return list(dict.fromkeys(late))


def _bar(row: Sequence[Span], end: float) -> str:
    """A character for each WIDTH-th of the time."""
    counts = [0] * WIDTH
    for span in row:
        first, last = _column(span.begin, end), _column(end if span.end is None else span.end, end)
        for column in range(first, max(first + 1, last)):
            counts[column] += 1
    full = len(HEIGHTS) - 1
    bar = [HEIGHTS[-(-count * full // max(counts, default=1))] if count else " " for count in counts]
    for span in row:
        if span.end == span.begin:
            bar[_column(span.begin, end)] = MOMENT
        elif span.end is None:
            bar[-1] = NO_END
    return "".join(bar)


def _column(time: float, end: float) -> int:
    return min(WIDTH - 1, int(time / end * WIDTH))


def _axis(end: float) -> list[str]:
    figures, marks = [" "] * (WIDTH + 8), ["─"] * WIDTH
    for tick in ticks(0, end, 6):
        column = _column(tick, end)
        marks[column] = "┬"
        figures[column : column + len(f"{tick:g}")] = f"{tick:g}"
    return [f"{''.join(figures).rstrip()} s", "".join(marks)]


def _times(row: Sequence[Span]) -> str:
    if not row:
        return "never"
    if len(row) > 1:
        lengths = [span.end - span.begin for span in row if span.end is not None]
        mean = f", {number(sum(lengths) / len(lengths))} s on average" if lengths else ""
        return f"{len(row)} times{mean}"
    (span,) = row
    if span.end is None:
        return f"from {span.begin:.4g} s on"
    return f"at {span.begin:.4g} s" if span.end == span.begin else f"{span.begin:.4g} to {span.end:.4g} s"
