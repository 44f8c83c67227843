"""Line charts as SVG text: scales, ticks and paths.

The page's script reads the values back from the paths, so that nothing is stored twice.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise

from node.units import number

Point = tuple[float, float]

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 12, 40
MAX_POINTS = 1000
MAX_POINTS_OF_ALL = 16_000
NUM_COLOURS, NUM_DASHES = 8, 4
LANE, MAX_LANES = 15, 6
"""Height of a row of faults, and how many rows; beyond that they overlap."""


@dataclass(frozen=True)
class Line:
    """One curve. `index` chooses colour and dashes; `node` is what the legend switches, None for the swarm's own."""

    name: str
    points: Sequence[Point]
    index: int | None = None
    node: str | None = None
    breaks: Sequence[float] = ()
    """Times at which the curve is interrupted."""


@dataclass(frozen=True)
class Chart:
    title: str
    unit: str
    lines: Sequence[Line]
    log: bool = False
    marks: Sequence[tuple[float, str]] = ()
    """Moments worth a vertical line: (time, what happened)."""
    zero: bool = False
    """The y axis starts at zero."""
    faults: Sequence["Band"] = ()
    """Shown below the time axis."""
    across: str | None = None
    """What the x axis counts; None: time, in seconds."""


@dataclass(frozen=True)
class Band:
    """A fault on the time axis."""

    begin: float
    end: float
    """When it was over; infinite if never."""
    healed: float
    """When nothing of it was left to be seen; no less than `end`."""
    name: str
    what: str
    """All that is known of it."""


@dataclass(frozen=True)
class Scale:
    """Data to pixels, from `low` at `start` to `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def classes(index: int | None) -> str:
    """The style of the curve with this index: colours first, then dashes."""
    return "ink" if index is None else f"c{index % NUM_COLOURS} d{index // NUM_COLOURS % NUM_DASHES}"


def draw(chart: Chart) -> str | None:
    """The chart as one `<figure>`; None when there is nothing to see."""
    lines = [replace(line, points=_drawable(line.points, chart.log)) for line in chart.lines]
    lines = [line for line in lines if line.points]
    if not any(len(line.points) > 1 for line in lines):
        return None
    longest = max(x for line in lines for x, _ in line.points)
    per_time, time_unit = (1.0, chart.across) if chart.across else time_axis(longest)
    x = _x_scale(lines, per_time)
    y = _y_scale(lines, chart)
    limit = max(50, min(MAX_POINTS, MAX_POINTS_OF_ALL // len(lines)))
    body = [_axes(x, y, chart.across or f"time ({time_unit})", chart.unit)]
    body += [_mark(x(time / per_time), what) for time, what in chart.marks if x.low <= time / per_time <= x.high]
    body += [_path(line, thin(line.points, limit), x, y, per_time) for line in lines]
    scale = f'data-x="{x.low:g},{x.high:g}" data-y="{y.low:g},{y.high:g}" data-log="{int(y.log)}"'
    units = escape(f"{time_unit},{chart.unit}")
    box = f'data-box="{LEFT},{WIDTH - RIGHT},{TOP},{HEIGHT - BOTTOM}" data-units="{units}"'
    title = escape(chart.title)
    strip, height = _strip([band for band in chart.faults if band.begin / per_time < x.high], x, per_time)
    return (
        f'<figure class="card"><figcaption>{title}</figcaption>'
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT + height}" role="img" aria-label="{title}" {scale} {box}>'
        f'{strip}{"".join(body)}<g class="hover"></g></svg><div class="tip" hidden></div></figure>'
    )


def thin(points: Sequence[Point], limit: int) -> Sequence[Point]:
    """At most `limit` points, the first and the last among them."""
    if len(points) <= limit:
        return points
    step = (len(points) - 1) / (limit - 1)
    return [points[round(index * step)] for index in range(limit)]


def binned(points: Sequence[Point], num_bins: int) -> list[Point]:
    """Means over equal stretches of time: what a noisy series says."""
    if len(points) <= num_bins:
        return list(points)
    start, width = points[0][0], (points[-1][0] - points[0][0]) / num_bins or 1.0
    sums: dict[int, list[float]] = {}
    for time, value in points:
        total = sums.setdefault(min(num_bins - 1, int((time - start) / width)), [0.0, 0.0, 0.0])
        total[0], total[1], total[2] = total[0] + time, total[1] + value, total[2] + 1
    return [(time / count, value / count) for _, (time, value, count) in sorted(sums.items())]


def per_second(points: Sequence[Point], end: float, num_bins: int = 40) -> list[Point]:
    """The rate of a counter that is given as (time, count so far)."""
    if not points or end <= 0:
        return []
    times = [time for time, _ in points]
    width = max(1.0, end / num_bins)

    def count(time: float) -> float:
        at = bisect_right(times, time)
        return points[at - 1][1] if at else 0.0

    edges = [index * width for index in range(int(end / width) + 1)]
    return [((a + b) / 2, (count(b) - count(a)) / width) for a, b in pairwise(edges)]


def time_axis(longest_s: float) -> tuple[float, str]:
    """Seconds per unit of the time axis, and the unit."""
    return (1.0, "s") if longest_s <= 180 else (60.0, "min") if longest_s <= 3 * 3600 else (3600.0, "h")


def ticks(low: float, high: float, num: int) -> list[float]:
    """About `num` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    rough = (high - low) / max(1, num)
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; with 2 and 5 between them when there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, len(powers) // 7)
    factors = (1,) if len(powers) > 4 else (1, 2, 5)
    found = [factor * 10.0**power for power in powers if power % every == 0 for factor in factors]
    return [tick for tick in found if low * 0.999 <= tick <= high * 1.001]


def _drawable(points: Sequence[Point], log: bool) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log)]


def _x_scale(lines: Sequence[Line], per_time: float) -> Scale:
    high = max(x for line in lines for x, _ in line.points) / per_time
    return Scale(0.0, high if high > 0 else 1.0, LEFT, WIDTH - RIGHT)


def _y_scale(lines: Sequence[Line], chart: Chart) -> Scale:
    low = min(y for line in lines for _, y in line.points)
    high = max(y for line in lines for _, y in line.points)
    if chart.log:
        low, high = low / 1.3, high * 1.3
    else:
        low = min(0.0, low) if chart.zero else low
        room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
        low, high = (low if chart.zero else low - room), high + room
    return Scale(low, high, HEIGHT - BOTTOM, TOP, chart.log)


def _axes(x: Scale, y: Scale, across: str, unit: str) -> str:
    down, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in log_ticks(y.low, y.high) if y.log else ticks(y.low, y.high, 5):
        at = f"{y(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 7}" y="{at}" dy=".32em">{_label(tick)}</text>')
    for tick in ticks(x.low, x.high, 7):
        at = f"{x(tick):.1f}"
        parts.append(f'<line class="axis" x1="{at}" x2="{at}" y1="{down}" y2="{down + 4}"/>')
        parts.append(f'<text class="tick middle" x="{at}" y="{down + 17}">{_label(tick)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{down}" y2="{down}"/>')
    parts.append(f'<text class="label end" x="{right}" y="{HEIGHT - 5}">{escape(across)}</text>')
    middle = (TOP + down) / 2
    parts.append(f'<text class="label middle" transform="translate(13 {middle}) rotate(-90)">{escape(unit)}</text>')
    return "".join(parts)


def _label(tick: float) -> str:
    return (
        f"{tick:g}"
        if tick == 0 or 0.0001 <= abs(tick) < 1e6
        else f"{tick:.0e}".replace("e-0", "e-").replace("e+0", "e")
    )


def _mark(at: float, what: str) -> str:
    line = f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    return f"<g>{line}<title>{escape(what)}</title></g>"


def _strip(bands: Sequence[Band], x: Scale, per_time: float) -> tuple[str, int]:
    """(SVG, its height): a bar while a fault is in force, a thin line until it is healed, and a shade on the plot."""
    parts: list[str] = []
    free_from: list[float] = []
    for band in sorted(bands, key=lambda band: band.begin):
        start, end, healed = (x(min(time / per_time, x.high)) for time in (band.begin, band.end, band.healed))
        end = max(end, start + 3)
        name = _name_in_strip(band.name, start, end, max(end, healed), len(bands))
        lane = next((lane for lane, free in enumerate(free_from) if free <= start), len(free_from))
        if lane == MAX_LANES:
            lane = min(range(MAX_LANES), key=lambda lane: free_from[lane])
        elif lane == len(free_from):
            free_from.append(0.0)
        free_from[lane] = WIDTH if "beside" in name else max(end, healed) + 2
        y, width = HEIGHT + 4 + lane * LANE, f"{end - start:.1f}"
        shade = f'<rect class="shade" x="{start:.1f}" y="{TOP}" width="{width}" height="{HEIGHT - BOTTOM - TOP}"/>'
        tail = f'<line class="tail" x1="{end:.1f}" x2="{healed:.1f}" y1="6" y2="6"/>' if healed > end else ""
        bar = f'<rect class="fault" x="{start:.1f}" width="{width}" height="{LANE - 3}" rx="2"/>'
        row = f'<g transform="translate(0 {y})">{tail}{bar}{name}</g>'
        parts.append(f"<g>{shade}{row}<title>{escape(band.what)}</title></g>")
    if not parts:
        return "", 0
    label = f'<text class="label end" x="{LEFT - 7}" y="{HEIGHT + 14}">faults</text>'
    return f'<g class="faults">{label}{"".join(parts)}</g>', 6 + LANE * len(free_from)


def _name_in_strip(name: str, start: float, end: float, healed: float, num_bands: int) -> str:
    """In the bar if it fits, else after or before it when every bar can have a row of its own."""
    width = 6.2 * len(name) + 8
    if width < end - start:
        return f'<text class="in-fault" x="{start + 4:.1f}" y="9.5">{escape(name)}</text>'
    if num_bands > MAX_LANES:
        return ""
    x, side = (healed + 5, "start") if healed + width < WIDTH else (start - 5, "end")
    return f'<text class="tick beside {side}" x="{x:.1f}" y="9.5">{escape(name)}</text>'


def _path(line: Line, points: Sequence[Point], x: Scale, y: Scale, per_time: float) -> str:
    pixels, breaks, before = "", sorted(line.breaks), -1
    for time, value in points:
        piece = bisect_left(breaks, time)
        pixels += f"{'L' if piece == before else 'M'}{x(time / per_time):.2f},{y(value):.2f}"
        before = piece
    dot = "" if len(points) > 1 else "h.01"  # with round caps, a path of no length is a dot
    node = "" if line.node is None else f' data-node="{escape(line.node)}"'
    last = f"{escape(line.name)}: {number(points[-1][1])}"
    name = f'data-name="{escape(line.name)}"'
    return f'<path class="line {classes(line.index)}" {name}{node} d="{pixels}{dot}"><title>{last}</title></path>'
