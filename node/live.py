"""What a person sees while a swarm runs: a live table on a terminal, plain lines anywhere else."""

import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from node.units import MISSING, clean, duration, number, rate, size
from p2ptrain.telemetry import events
from p2ptrain.telemetry.events import Stamped
from p2ptrain.telemetry.state import NodeState, Note, SwarmState, describe_exit

REFRESH_EVERY_S = 0.25
LINE_EVERY_S = 5.0
NUM_NOTES = 5
MAX_TOLD_APART = 8
"""In larger swarms, plain lines do not say who sees whom."""
PHASE_STYLE = {
    "starting": "dim",
    "fetching": "cyan",
    "training": "green",
    "finished": "blue",
    "stopped": "dim",
    "dead": "bold red",
    "offline": "bold red",
}
NOTE_STYLE = {"info": "", "warning": "yellow", "error": "red"}


@dataclass(frozen=True)
class Run:
    """What the views need to know beforehand."""

    name: str
    steps: int | None = None
    seconds: float | None = None

    def fraction(self, node: NodeState, now: float) -> float:
        """How much of its training a node has done; whichever limit comes first ends it."""
        if node.phase in ("finished", "stopped"):
            return 1.0
        by_step = node.step / self.steps if self.steps else 0.0
        by_time = (
            (now - node.training_since) / self.seconds if self.seconds and node.training_since is not None else 0.0
        )
        return min(1.0, max(by_step, by_time))

    def progress(self, state: SwarmState, now: float) -> float | None:
        """Mean over the nodes that live; None when the run has no end."""
        alive = [node for node in state.nodes.values() if node.alive]
        if not alive or (self.steps is None and self.seconds is None):
            return None
        return statistics.fmean(self.fraction(node, now) for node in alive)


class View(Protocol):
    """Shows a swarm. `now` is in seconds of the run's clock."""

    def event(self, stamped: Stamped, state: SwarmState) -> None:
        """Something happened; `state` is after it."""
        ...

    def refresh(self, state: SwarmState, now: float) -> None:
        """Called often; draws when it is time to."""
        ...

    def say(self, text: str, style: str = "") -> None:
        """A line of the launcher's own, which stays."""
        ...

    def close(self) -> None: ...


def view(run: Run, console: Console | None = None) -> View:
    """The one that fits where standard output goes."""
    console = console or Console(file=sys.stdout)
    return LiveView(run, console) if console.is_terminal and not console.is_dumb_terminal else PlainView(run, console)


class LiveView:
    """One row per node, redrawn in place, gone at the end: the summary takes its place."""

    def __init__(self, run: Run, console: Console) -> None:
        self._run, self._console = run, console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()
        self._next = 0.0

    def event(self, stamped: Stamped, state: SwarmState) -> None:
        pass

    def refresh(self, state: SwarmState, now: float) -> None:
        if now >= self._next:
            self._next = now + REFRESH_EVERY_S
            self._live.update(dashboard(self._run, state, now, *self._console.size), refresh=True)

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style))

    def close(self) -> None:
        self._live.stop()


def dashboard(run: Run, state: SwarmState, now: float, width: int, height: int) -> RenderableType:
    """Table, progress and the last notes, within `width` columns and `height` lines."""
    notes = state.notes[-NUM_NOTES:]
    num_rows = max(1, height - len(notes) - 8)
    shown = list(state.nodes.values())[:num_rows]
    parts: list[RenderableType] = [_headline(run, state, now), _table(shown, now, width)]
    if hidden := len(state.nodes) - len(shown):
        parts.append(Text(f"  and {hidden} more nodes", style="dim"))
    parts.append(_bar(run.progress(state, now), now, width))
    parts.extend(_note_line(note) for note in notes)
    return Group(*parts)


Column = tuple[str, int, Callable[[NodeState, float], str]]
"""Title, the least width of the terminal at which it is shown, and its text."""

COLUMNS: list[Column] = [
    ("step", 0, lambda node, now: str(node.step)),
    ("steps/s", 90, lambda node, now: _rate_text(node, now, 0, number)),
    ("train loss", 90, lambda node, now: number(node.smooth_loss)),
    ("held-out", 0, lambda node, now: number(node.eval_loss)),
    ("accuracy", 0, lambda node, now: number(node.accuracy)),
    ("peers", 0, lambda node, now: str(len(node.peers))),
    ("sent", 0, lambda node, now: size(node.bytes_sent)),
    ("", 124, lambda node, now: _rate_text(node, now, 1, rate)),
    ("received", 104, lambda node, now: size(node.bytes_received)),
    ("", 124, lambda node, now: _rate_text(node, now, 2, rate)),
    ("swaps", 0, lambda node, now: str(node.exchanges)),
    ("failed", 76, lambda node, now: str(node.num_failed or MISSING)),
]


def _table(nodes: list[NodeState], now: float, width: int) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 1), pad_edge=False)
    columns = [column for column in COLUMNS if width >= column[1]]
    table.add_column("node", no_wrap=True, max_width=max(10, width // 5))
    table.add_column("state", no_wrap=True)
    for title, _, _ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for node in nodes:
        dull = "" if node.alive else "dim"
        cells = [Text(text(node, now), style=dull) for _, _, text in columns]
        table.add_row(Text(clean(node.name), style="bold"), Text(node.phase, style=PHASE_STYLE[node.phase]), *cells)
    return table


def _rate_text(node: NodeState, now: float, which: int, text: Callable[[float], str]) -> str:
    rates = node.rates(now)
    return MISSING if rates is None else text(rates[which])


def _headline(run: Run, state: SwarmState, now: float) -> Text:
    sent, speed = _traffic(state, now)
    text = f"  {state.num_alive} of {len(state.nodes)} nodes alive  sent {size(sent)} ({rate(speed)})"
    if state.consensus is not None:
        text += f"  consensus {number(state.consensus, 2)}"
    return Text.assemble((run.name, "bold"), text, no_wrap=True, overflow="ellipsis")


def _traffic(state: SwarmState, now: float) -> tuple[int, float]:
    """(bytes, bytes per second) that all nodes sent."""
    speeds = [rates[1] for node in state.nodes.values() if (rates := node.rates(now))]
    return sum(node.bytes_sent for node in state.nodes.values()), sum(speeds)


def _bar(done: float | None, now: float, width: int) -> RenderableType:
    if done is None:
        return Text(f"{duration(now)} elapsed", style="dim")
    grid = Table.grid(padding=(0, 1))
    left = f"about {duration(_left(done, now))} left" if 0.02 < done < 1 else "ending" if done == 1 else ""
    text = f"{done:4.0%}  {duration(now)} elapsed  {left}"
    grid.add_row(ProgressBar(total=1.0, completed=done, width=max(10, min(50, width - 45))), Text(text))
    return grid


def _left(done: float, now: float) -> float:
    return now * (1 - done) / done


def _note_line(note: Note) -> Text:
    who = f"{clean(note.node)}: " if note.node else ""
    text = f"{duration(note.time):>6}  {who}{clean(note.message)}"
    return Text(text, style=NOTE_STYLE[note.level], no_wrap=True, overflow="ellipsis")


class PlainView:
    """A line of figures every few seconds and a line for everything noteworthy: for logs and pipes."""

    def __init__(self, run: Run, console: Console, every_s: float = LINE_EVERY_S) -> None:
        self._run, self._file, self._every_s = run, console.file, every_s
        self._next = every_s
        self._gone: set[str] = set()

    def event(self, stamped: Stamped, state: SwarmState) -> None:
        for line in self._lines(stamped, state):
            self.say(f"{duration(stamped.time):>8}  {line}")

    def refresh(self, state: SwarmState, now: float) -> None:
        if now >= self._next:
            self._next = now + self._every_s
            self.say(f"{duration(now):>8}  {status(self._run, state, now)}")

    def say(self, text: str, style: str = "") -> None:
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        for line in text.splitlines():
            self._file.write(clean(line).encode(encoding, "replace").decode(encoding) + "\n")
        self._file.flush()

    def close(self) -> None:
        pass

    def _lines(self, stamped: Stamped, state: SwarmState) -> list[str]:
        node, event = stamped.node, stamped.event
        match event:
            case events.Started():
                self._gone.discard(event.peer)
                return [f"{node} is up at {event.address} as {event.peer[:8]} on {event.device}"]
            case events.Joined() if len(state.nodes) <= MAX_TOLD_APART:
                self._gone.discard(event.peer)
                return [f"{node} sees {event.name or event.peer[:8]}, {_count(len(state.nodes[node].peers), 'peer')}"]
            case events.Left() if event.peer not in self._gone:  # the first to notice speaks for all
                self._gone.add(event.peer)
                return [f"{node} lost {event.name or event.peer[:8]} ({event.reason})"]
            case events.Died():
                return [f"{node} died ({describe_exit(event.code)})"]
            case events.Offline():
                return [f"{node} went offline without a goodbye"]
            case events.Restarted():
                return [f"{node} starts again"]
            case events.Fetched():
                donors, received = _count(event.donors, "peer"), size(event.bytes_received)
                return [f"{node} fetched step {event.step} from {donors}, {received}"]
            case events.Resumed():
                return [f"{node} goes on from its checkpoint at step {event.step}"]
            case events.Finished() | events.Stopped():
                return [f"{node} {type(event).__name__.lower()} at step {event.step}"]
            case events.Noted():
                return [f"{node}: {event.message}" if node else event.message]
            case events.Faulted():
                return [f"fault: {event.what}"]
        return []


def status(run: Run, state: SwarmState, now: float) -> str:
    """A swarm in one line."""
    nodes = list(state.nodes.values())
    steps = sorted(node.step for node in nodes) or [0]
    step = str(steps[0]) if steps[0] == steps[-1] else f"{steps[0]}..{steps[-1]}"
    sent, speed = _traffic(state, now)
    parts = [
        f"{state.num_alive}/{len(nodes)} alive",
        f"step {step}",
        f"loss {_mean(node.smooth_loss for node in nodes)}",
    ]
    parts += [
        f"held-out {_mean(node.eval_loss for node in nodes)}",
        f"accuracy {_mean(node.accuracy for node in nodes)}",
    ]
    parts += [f"sent {size(sent)} ({rate(speed)})", f"{sum(node.exchanges for node in nodes)} swaps"]
    if failed := sum(node.num_failed for node in nodes):
        parts.append(f"{failed} failed")
    done = run.progress(state, now)
    parts.insert(0, MISSING if done is None else f"{done:.0%}")
    return "  ".join(parts)


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return number(statistics.fmean(known)) if known else MISSING


def _count(num: int, noun: str) -> str:
    return f"{num} {noun}" if num == 1 else f"{num} {noun}s"
