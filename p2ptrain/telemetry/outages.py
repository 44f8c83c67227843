"""What each fault did: when the swarm noticed, and when it was whole again. A pure fold beside that of the state.

Nodes are gone (kill, stop, pause, tear)
    detected    when the last of the others that had one in view has said that it left; null if it was back before
    recovered   at its first exchange after it came back; of several, at that of the last
Links are changed (partition, cut, degrade, flap), or their connections break (reset)
    detected    when a node first lost sight of the one at the other end; null if nobody did
    recovered   once it is over: when all who lost sight of each other see each other again, as far as they still run,
                and the first exchange between former sides has been applied
A clock is off (skew)
    neither

All are seconds since the fault began. Signed bytes that were heard (`Flooded`) are an exchange too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from p2ptrain.telemetry import events
from p2ptrain.telemetry.events import Faulted, Stamped

if TYPE_CHECKING:
    from p2ptrain.telemetry.state import SwarmState

MAX_OUTAGES = 1000
"""Later ones are not followed: under churn for days, the first thousand say what there is to know."""

Sight = tuple[str, str]
"""(name of a node, id of a peer in its view)"""


@dataclass(frozen=True)
class Outage:
    """One fault from its beginning on. `detected` and `recovered` are seconds after `at`."""

    at: float
    fault: int
    """Its index in the file."""
    verb: str
    what: str
    detected: float | None = None
    recovered: float | None = None
    over: float | None = None
    """When the fault itself ended, whatever it left behind."""

    def hear(self, state: "SwarmState", stamped: Stamped) -> "Outage":
        """After one more event; `state` is before it."""
        return self


@dataclass(frozen=True)
class Gone(Outage):
    """Nodes do nothing."""

    unaware: frozenset[Sight] = frozenset()
    """Who still sees one of them."""
    noticed: float | None = None
    """When somebody last said that one of them left."""
    away: frozenset[str] = frozenset()
    """Their names."""
    back: Mapping[str, float] = field(default_factory=dict)
    """Those that came back and have not exchanged yet, and since when."""

    def hear(self, state: "SwarmState", stamped: Stamped) -> Outage:
        node, time = stamped.node, stamped.time
        match stamped.event:
            case events.Left(peer) if (node, peer) in self.unaware:
                return self._aware(self.unaware - {(node, peer)}, time)
            case events.Died() | events.Stopped():
                return self._aware(frozenset(sight for sight in self.unaware if sight[0] != node), None)
            case events.Started(peer) if node in self.away:
                return self._returned({node}, {peer}, time)
            case Faulted(verb="resume", whom=whom) if self.verb == "pause":
                names = self.away.intersection(whom.split())
                return self._returned(names, {state.nodes[name].peer for name in names}, time)
            case events.Exchanged() | events.Flooded() if _heard_since(stamped) >= self.back.get(node, time + 1):
                left = {name: since for name, since in self.back.items() if name != node}
                recovered = None if left or self.away else time - self.at
                return replace(self, back=left, recovered=recovered)
        return self

    def _aware(self, unaware: frozenset[Sight], time: float | None) -> Outage:
        if unaware == self.unaware:
            return self
        noticed = self.noticed if time is None or time < self.at else max(time, self.noticed or time)
        detected = None if unaware or noticed is None else noticed - self.at
        return replace(self, unaware=unaware, noticed=noticed, detected=detected)

    def _returned(self, names: set[str] | frozenset[str], peers: set[str], time: float) -> Outage:
        # Whoever has not noticed by now never will, and so it was not detected by all.
        unnoticed = any(peer in peers for _, peer in self.unaware)
        return replace(
            self, away=self.away - names, back={**self.back, **dict.fromkeys(names, time)}, over=time,
            unaware=frozenset() if unnoticed else self.unaware,
        )  # fmt: skip


@dataclass(frozen=True)
class Changed(Outage):
    """Links are not what the file says."""

    across: frozenset[Sight] = frozenset()
    """Who can see whom over them."""
    lost: frozenset[Sight] = frozenset()
    """Who no longer does."""
    crossed: bool = False
    """Something was exchanged over them since it was over."""

    def hear(self, state: "SwarmState", stamped: Stamped) -> Outage:
        node, time = stamped.node, stamped.time
        match stamped.event:
            case Faulted(fault=self.fault, verb="unshape") if self.over is None:
                return replace(self, over=time)
            case events.Left(peer, reason=reason) if (node, peer) in self.across:
                if reason == "leaving" or time < self.at or not _runs(state, peer):
                    return self
                detected = time - self.at if self.detected is None else self.detected
                return replace(self, detected=detected, lost=self.lost | {(node, peer)})
            case events.Joined(peer) if (node, peer) in self.lost:
                return self._healed(time, lost=self.lost - {(node, peer)})
            case events.Died() | events.Stopped() if self.lost:
                peer = state.nodes[node].peer
                return self._healed(time, lost=frozenset(s for s in self.lost if s[0] != node and s[1] != peer))
            case events.Exchanged(peer) | events.Flooded(peer) if (node, peer) in self.across and self.over is not None:
                return self._healed(time, crossed=True) if _heard_since(stamped) >= self.over else self
        return self

    def _healed(self, time: float, **changes: object) -> Outage:
        after = replace(self, **changes)  # pyright: ignore[reportArgumentType]
        whole = after.crossed and not after.lost
        return replace(after, recovered=time - self.at, across=frozenset()) if whole else after


def apply(found: tuple[Outage, ...], state: "SwarmState", stamped: Stamped) -> tuple[Outage, ...]:
    """The outages after one more event; `state` is before it."""
    if not isinstance(stamped.event, _TELLING) or (not found and not isinstance(stamped.event, Faulted)):
        return found
    found = tuple(outage if outage.recovered is not None else outage.hear(state, stamped) for outage in found)
    begun = _begin(found, state, stamped.time, stamped.event) if isinstance(stamped.event, Faulted) else None
    return found if begun is None or len(found) >= MAX_OUTAGES else (*found, begun)


_TELLING = (
    Faulted,
    events.Left,
    events.Joined,
    events.Exchanged,
    events.Flooded,
    events.Started,
    events.Died,
    events.Stopped,
)


def _begin(found: tuple[Outage, ...], state: "SwarmState", time: float, event: Faulted) -> Outage | None:
    """None for what ends a fault, or puts a clock right."""
    known = (time, event.fault, event.verb, event.what)
    match event.verb:
        case "kill" | "stop" | "pause" | "tear":
            names = frozenset(event.whom.split())
            peers = {state.nodes[name].peer for name in names & state.nodes.keys()}
            watchers = [node for node in state.nodes.values() if node.name not in names]
            unaware = frozenset((node.name, peer) for node in watchers for peer in node.peers & peers)
            return Gone(*known, unaware=unaware, away=names)
        case "shape" | "reset":
            ends = [pair.split(">") for pair in event.whom.split()]
            peers = {name: node.peer for name, node in state.nodes.items() if node.peer}
            both_ways = ((a, b) for one, other in ends for a, b in ((one, other), (other, one)))
            across = frozenset((a, peers[b]) for a, b in both_ways if b in peers)
            return Changed(*known, across=across, over=time if event.verb == "reset" else None)
        case "skew" if all((outage.verb, outage.fault) != ("skew", event.fault) for outage in found):
            return Outage(*known)
    return None


def _heard_since(stamped: Stamped) -> float:
    """Since when what an exchange brought had been under way, at the earliest."""
    match stamped.event:
        case events.Flooded(bytes_received=received, seconds=seconds):
            return stamped.time - seconds if received else float("-inf")
        case _:
            return stamped.time


def _runs(state: "SwarmState", peer: str) -> bool:
    return any(node.peer == peer and node.running for node in state.nodes.values())
