"""The fold: `apply(state, stamped) -> state`. All that is shown of a swarm is read from a `SwarmState`.

Runs are long and states are kept whole, so everything in here is bounded: series are thinned, notes are forgotten.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Literal

from p2ptrain.telemetry import events, outages
from p2ptrain.telemetry.events import Event, Stamped
from p2ptrain.telemetry.outages import Outage

MAX_POINTS = 2000
MAX_NOTES = 200
MAX_FAULTS = 10_000
MAX_REASONS = 50
MAX_PARTNERS = 256
SMOOTHING = 0.05
"""Weight of the newest value in what is shown as the training loss."""
MARK_EVERY_S = 1.0
NUM_MARKS = 8

_LEVELS = {"quarantined": "is in quarantine", "readmitted": "is no longer suspected"}

Phase = Literal["starting", "fetching", "training", "finished", "stopped", "dead", "offline"]
Point = tuple[float, ...]
Counts = Mapping[str, int]


@dataclass(frozen=True)
class Series:
    """Points over time, the first of each `stride`; when full, every other one goes and the stride doubles."""

    kept: tuple[Point, ...] = ()
    stride: int = 1
    skipped: int = 0
    last: Point | None = None

    @property
    def points(self) -> tuple[Point, ...]:
        """What was kept, and always the newest point."""
        return self.kept if self.last is None or self.skipped == 0 else (*self.kept, self.last)

    def add(self, point: Point) -> "Series":
        if self.kept and self.skipped + 1 < self.stride:
            return Series(self.kept, self.stride, self.skipped + 1, point)
        kept = (*self.kept, point)
        if len(kept) < MAX_POINTS:
            return Series(kept, self.stride, 0, point)
        return Series(kept[::2], self.stride * 2, self.stride, point)  # MAX_POINTS is even: the newest is not kept


@dataclass(frozen=True)
class Mark:
    """Counters at a moment of the recent past, to tell speeds from."""

    time: float
    step: int
    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True)
class NodeState:
    """What is known of one node."""

    name: str
    phase: Phase = "starting"
    peer: str = ""
    slot: int | None = None
    device: str = ""
    address: str = ""
    num_parameters: int = 0
    step: int = 0
    loss: float | None = None
    """Of the last training step."""
    smooth_loss: float | None = None
    eval_loss: float | None = None
    accuracy: float | None = None
    gap: float | None = None
    peers: frozenset[str] = frozenset()
    """Peer ids in this node's view."""
    saw: frozenset[str] = frozenset()
    """The same, with those that left in order: at the end of a run, whom it saw before everyone went."""
    sent_away: bool = False
    """A fault of the file made it leave, and it has not come back."""
    bytes_sent: int = 0
    bytes_received: int = 0
    exchanges: int = 0
    partners: Counts = field(default_factory=dict)
    """Exchanges by the other's peer id."""
    failed: Counts = field(default_factory=dict)
    """Exchanges that came to nothing, by reason."""
    rejected: Counts = field(default_factory=dict)
    """What was refused from outside, by reason."""
    suspects: Mapping[str, str] = field(default_factory=dict)
    """Peer ids that it thinks ill of: `suspected` or `quarantined`."""
    started: float | None = None
    training_since: float | None = None
    first_contribution: float | None = None
    """When its first exchange was applied."""
    digest: str | None = None
    exit_code: int | None = None
    num_restarts: int = 0
    marks: tuple[Mark, ...] = ()
    losses: Series = Series()
    """(time, step, smoothed training loss)"""
    evaluations: Series = Series()
    """(time, held-out loss, accuracy or NaN)"""
    traffic: Series = Series()
    """(time, bytes sent, bytes received, exchanges), all since the start"""

    @property
    def alive(self) -> bool:
        """A node that left in order is alive in this sense; one whose process died, or that a broker lost, is not."""
        return self.phase not in ("dead", "offline")

    @property
    def running(self) -> bool:
        return self.phase not in ("dead", "offline", "stopped")

    @property
    def num_failed(self) -> int:
        return sum(self.failed.values())

    @property
    def num_rejected(self) -> int:
        return sum(self.rejected.values())

    def rates(self, now: float) -> tuple[float, float, float] | None:
        """(steps, bytes sent, bytes received) per second, of the last few seconds; None when nothing is known."""
        if not self.marks or not self.running or now - self.marks[0].time < MARK_EVERY_S / 2:
            return None
        first, span = self.marks[0], now - self.marks[0].time
        sent, received = self.bytes_sent - first.bytes_sent, self.bytes_received - first.bytes_received
        return max(0, self.step - first.step) / span, sent / span, received / span


@dataclass(frozen=True)
class Note:
    """Something for a person to read."""

    time: float
    node: str
    level: Literal["info", "warning", "error"]
    kind: Literal["noted", "rejected", "suspected", "died", "restarted", "faulted", "offline"]
    message: str


@dataclass(frozen=True)
class SwarmState:
    """What is known of a swarm: the fold of all events so far."""

    time: float = 0.0
    """Of the newest event."""
    nodes: Mapping[str, NodeState] = field(default_factory=dict)
    consensus: float | None = None
    """Smoothed estimate of the mean squared distance of the replicas to their mean over the mean's squared norm."""
    consensus_series: Series = Series()
    """(time, estimate) of each exchange"""
    notes: tuple[Note, ...] = ()
    faults: tuple[Stamped, ...] = ()
    """What was done to the swarm on purpose, the first `MAX_FAULTS`: `Faulted` events."""
    outages: tuple[Outage, ...] = ()
    """What came of it."""

    @property
    def num_alive(self) -> int:
        return sum(node.alive for node in self.nodes.values())

    @property
    def num_views(self) -> int:
        """Into how many parts the living fall, if two belong together that see each other. One is as it should be."""
        here = {node.peer or node.name: node for node in self.nodes.values() if node.alive and not node.sent_away}
        parts = 0
        while here:
            parts += 1
            reached = [here.popitem()]
            for peer, node in reached:
                mutual = [other for other in node.saw if other in here and peer in here[other].saw]
                reached += [(other, here.pop(other)) for other in mutual]
        return parts

    def name_of(self, peer: str) -> str:
        """The name of the node with this peer id, or the beginning of the id."""
        return next((node.name for node in self.nodes.values() if node.peer == peer), peer[:8])


def expecting(names: Iterable[str]) -> SwarmState:
    """A state in which these nodes are known before they say anything, in this order."""
    return SwarmState(nodes={name: NodeState(name) for name in names})


def apply(state: SwarmState, stamped: Stamped) -> SwarmState:
    """The state after one more event."""
    followed = outages.apply(state.outages, state, stamped)
    if followed is not state.outages:
        state = replace(state, outages=followed)
    if not stamped.node:
        return _of_swarm(state, stamped)
    before = state.nodes.get(stamped.node) or NodeState(stamped.node)
    event = stamped.event
    if isinstance(event, events.Left) and _stopped(state, event.peer):
        event = replace(event, reason="leaving")  # a goodbye can be lost; whoever left in order was seen to the end
    after = _mark(_fold(event, before, stamped.time), stamped.time)
    after_state = replace(state, time=max(state.time, stamped.time), nodes={**state.nodes, stamped.node: after})
    if isinstance(stamped.event, events.Exchanged):
        after_state = _estimate(after_state, after, stamped.time, stamped.event.distance)
    note = _note(state, before, stamped)
    return after_state if note is None else replace(after_state, notes=(*state.notes, note)[-MAX_NOTES:])


def fold(log: Iterable[Stamped], state: SwarmState | None = None) -> SwarmState:
    """Apply all of them."""
    result = state or SwarmState()
    for stamped in log:
        result = apply(result, stamped)
    return result


@singledispatch
def _fold(event: Event, node: NodeState, time: float) -> NodeState:
    """One node after one of its events; events that say nothing about the node's state leave it as it is."""
    return node


@_fold.register
def _(event: events.Started, node: NodeState, time: float) -> NodeState:
    return replace(
        node, phase="fetching", peer=event.peer, slot=event.slot, device=event.device, address=event.address,
        num_parameters=event.num_parameters, started=time if node.started is None else node.started,
        peers=frozenset(), saw=frozenset(), sent_away=False, exit_code=None, digest=None, suspects={},
    )  # fmt: skip


@_fold.register
def _(event: events.Joined, node: NodeState, time: float) -> NodeState:
    return replace(node, peers=node.peers | {event.peer}, saw=node.saw | {event.peer})


@_fold.register
def _(event: events.Left, node: NodeState, time: float) -> NodeState:
    saw = node.saw if event.reason == "leaving" else node.saw - {event.peer}
    return replace(node, peers=node.peers - {event.peer}, saw=saw)


@_fold.register
def _(event: events.Stepped, node: NodeState, time: float) -> NodeState:
    smooth = _smooth(node.smooth_loss, event.loss)
    return replace(
        _training(node, time), step=event.step, loss=event.loss, smooth_loss=smooth,
        losses=node.losses if smooth is None else node.losses.add((time, event.step, smooth)),
    )  # fmt: skip


@_fold.register
def _(event: events.Exchanged, node: NodeState, time: float) -> NodeState:
    sent, received = node.bytes_sent + event.bytes_sent, node.bytes_received + event.bytes_received
    return replace(
        node, bytes_sent=sent, bytes_received=received, exchanges=node.exchanges + 1,
        partners=_count(node.partners, event.peer, MAX_PARTNERS),
        first_contribution=time if node.first_contribution is None else node.first_contribution,
        traffic=node.traffic.add((time, sent, received, node.exchanges + 1)),
    )  # fmt: skip


@_fold.register
def _(event: events.Flooded, node: NodeState, time: float) -> NodeState:
    sent, received = node.bytes_sent + event.bytes_sent, node.bytes_received + event.bytes_received
    return replace(node, bytes_sent=sent, bytes_received=received)


@_fold.register
def _(event: events.Failed, node: NodeState, time: float) -> NodeState:
    return replace(node, failed=_count(node.failed, event.reason))


@_fold.register
def _(event: events.Rejected, node: NodeState, time: float) -> NodeState:
    return replace(node, rejected=_count(node.rejected, event.reason))


@_fold.register
def _(event: events.Suspected, node: NodeState, time: float) -> NodeState:
    others = {peer: level for peer, level in node.suspects.items() if peer != event.peer}
    if event.level == "readmitted" or len(others) >= MAX_PARTNERS:
        return replace(node, suspects=others)
    return replace(node, suspects={**others, event.peer: event.level})


@_fold.register
def _(event: events.Evaluated, node: NodeState, time: float) -> NodeState:
    accuracy = math.nan if event.accuracy is None else event.accuracy
    series = node.evaluations.add((time, event.loss, accuracy))
    return replace(node, eval_loss=event.loss, accuracy=event.accuracy, gap=event.gap, evaluations=series)


@_fold.register
def _(event: events.Fetched, node: NodeState, time: float) -> NodeState:
    received = node.bytes_received + event.bytes_received
    return replace(_training(node, time), step=event.step, bytes_received=received)


@_fold.register
def _(event: events.Resumed, node: NodeState, time: float) -> NodeState:
    return replace(node, step=event.step, marks=())


@_fold.register
def _(event: events.Finished, node: NodeState, time: float) -> NodeState:
    return replace(node, phase="finished", step=event.step)


@_fold.register
def _(event: events.Stopped, node: NodeState, time: float) -> NodeState:
    return replace(node, phase="stopped", step=event.step, digest=event.digest, peers=frozenset())


@_fold.register
def _(event: events.Died, node: NodeState, time: float) -> NodeState:
    return replace(node, phase="dead", exit_code=event.code, peers=frozenset(), saw=frozenset())


@_fold.register
def _(event: events.Offline, node: NodeState, time: float) -> NodeState:
    return replace(node, phase="offline", peers=frozenset())


@_fold.register
def _(event: events.Restarted, node: NodeState, time: float) -> NodeState:
    return replace(
        node, phase="starting", exit_code=None, digest=None, peers=frozenset(), saw=frozenset(), marks=(),
        training_since=None, smooth_loss=None,
        num_restarts=node.num_restarts + 1,
    )  # fmt: skip


def _training(node: NodeState, time: float) -> NodeState:
    if node.phase == "training":
        return node
    since = time if node.training_since is None else node.training_since
    return replace(node, phase="training", training_since=since)


def _smooth(old: float | None, new: float) -> float | None:
    if not math.isfinite(new):
        return old
    return new if old is None else old + SMOOTHING * (new - old)


def _count(counts: Counts, key: str, max_keys: int = MAX_REASONS) -> Counts:
    """Reasons come from a fixed set, but what comes from outside is bounded all the same."""
    known = key if key in counts or len(counts) < max_keys else "other"
    return {**counts, known: counts.get(known, 0) + 1}


def _of_swarm(state: SwarmState, stamped: Stamped) -> SwarmState:
    """What is said of the swarm as a whole, by whoever runs it."""
    note = _note(state, NodeState(""), stamped)
    notes = state.notes if note is None else (*state.notes, note)[-MAX_NOTES:]
    state = replace(state, time=max(state.time, stamped.time), notes=notes)
    if not isinstance(stamped.event, events.Faulted):
        return state
    nodes = dict(state.nodes)
    for name in nodes.keys() & set(stamped.event.whom.split() if stamped.event.verb == "stop" else ()):
        nodes[name] = replace(nodes[name], sent_away=True)
    return replace(state, nodes=nodes, faults=(*state.faults, stamped)[:MAX_FAULTS])


def _stopped(state: SwarmState, peer: str) -> bool:
    return any(node.peer == peer and node.phase == "stopped" for node in state.nodes.values())


def _mark(node: NodeState, time: float) -> NodeState:
    if node.marks and time - node.marks[-1].time < MARK_EVERY_S:
        return node
    mark = Mark(time, node.step, node.bytes_sent, node.bytes_received)
    return replace(node, marks=(*node.marks, mark)[-NUM_MARKS:])


def _estimate(state: SwarmState, node: NodeState, time: float, distance: float) -> SwarmState:
    """For a random pair E|x_i - x_j|^2 = 2n/(n-1) times the mean squared distance to the mean."""
    if not math.isfinite(distance):
        return state
    n = max(2, 1 + len(node.peers), sum(other.running for other in state.nodes.values()))
    estimate = distance * (n - 1) / (2 * n)
    smooth = estimate if state.consensus is None else state.consensus + 0.1 * (estimate - state.consensus)
    return replace(state, consensus=smooth, consensus_series=state.consensus_series.add((time, estimate)))


def _note(state: SwarmState, before: NodeState, stamped: Stamped) -> Note | None:
    time, node, event = stamped.time, stamped.node, stamped.event
    match event:
        case events.Noted():
            level = event.level if event.level in ("info", "error") else "warning"
            return Note(time, node, level, "noted", event.message)  # pyright: ignore[reportArgumentType]
        case events.Rejected() if event.reason not in before.rejected:  # the first of each kind; the rest is a count
            message = f"refused {event.reason} from {state.name_of(event.peer)}: {event.detail}"
            return Note(time, node, "warning", "rejected", message)
        case events.Suspected() if event.level != "suspected":
            message = f"{state.name_of(event.peer)} {_LEVELS.get(event.level, event.level)} ({event.reason})"
            return Note(time, node, "warning", "suspected", message)
        case events.Died():
            level = "info" if event.on_purpose else "error"
            return Note(time, node, level, "died", f"died ({describe_exit(event.code)})")
        case events.Offline():
            return Note(time, node, "error", "offline", "went offline without a goodbye")
        case events.Faulted():
            return Note(time, node, "info", "faulted", event.what)
        case events.Restarted():
            return Note(time, node, "info", "restarted", "starts again")
    return None


def describe_exit(code: int) -> str:
    """`exit code 1`, or `signal 9` for -9 as `subprocess` reports it."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"
