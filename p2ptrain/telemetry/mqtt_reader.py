"""What a broker says of swarms, folded into one state. Anybody may publish there: all is bounded and checked."""

from dataclasses import replace
from typing import Any

from p2ptrain.telemetry.events import Offline, Stamped, from_json
from p2ptrain.telemetry.mqtt import MAX_MESSAGE, ROOT, Status
from p2ptrain.telemetry.state import NodeState, SwarmState, apply

MAX_NODES = 1000
MAX_TOPIC = 256


class Reader:
    """The fold of a broker's messages. Its rows are called as the nodes are, or `run/node` when it reads all runs.

    Times are the reader's own, as the nodes' clocks do not agree."""

    def __init__(self, run: str | None = None) -> None:
        self.state = SwarmState()
        self.topic = f"{ROOT}/{run or '+'}/+/+"
        self.num_refused = 0
        """Messages that no node could have sent."""
        self._run = run
        self._rows: dict[tuple[str, str], str] = {}
        """By run and peer."""

    def take(self, topic: str, payload: Any, now: float) -> Stamped | None:
        """Fold one message; the event that it told, if it told one. Never raises."""
        try:
            if not isinstance(payload, bytes) or len(payload) > MAX_MESSAGE or len(topic) > MAX_TOPIC:
                raise ValueError("not a message of ours")
            _, run, peer, kind = topic.split("/")
            if kind == "status":
                return self._take_status(run, peer, Status.model_validate_json(payload), now)
            told = from_json(payload.decode())
            if not told.node:
                raise ValueError("what concerns the whole swarm is nobody's to say")
            return self._fold(Stamped(self._row(run, peer, told.node), now, told.event))
        except ValueError:
            self.num_refused += 1
            return None

    def _take_status(self, run: str, peer: str, status: Status, now: float) -> Stamped | None:
        is_left = status.phase == "stopped"
        is_lost = status.status == "offline" and not is_left
        is_old = is_left or (is_lost and self._label(run, status.name) in self.state.nodes)
        if is_old and (run, peer) not in self._rows:
            return None  # it left long ago, or another node has its name by now
        row = self._row(run, peer, status.name)
        node = self.state.nodes.get(row) or NodeState(row, slot=status.slot)
        if is_lost:
            return self._fold(Stamped(row, now, Offline())) if node.running else None
        if node.peer != peer:  # what it had counted before we came says nothing of its speed
            node = replace(node, peer=peer, marks=())
        self.state = replace(self.state, nodes={**self.state.nodes, row: replace(node, **status.figures)})
        return None

    def _fold(self, stamped: Stamped) -> Stamped:
        self.state = apply(self.state, stamped)
        return stamped

    def _label(self, run: str, name: str) -> str:
        return name if self._run else f"{run}/{name}"

    def _row(self, run: str, peer: str, name: str) -> str:
        """Who comes takes the name of one who is gone; of two who live, the second has its peer id beside it."""
        if (run, peer) in self._rows:
            return self._rows[run, peer]
        if len(self._rows) >= MAX_NODES:
            raise ValueError("too many nodes")
        row = self._label(run, name[:64])
        if row in self.state.nodes and self.state.nodes[row].running:
            row = f"{row} {peer[:6]}"
        self._rows = {key: other for key, other in self._rows.items() if other != row} | {(run, peer): row}
        self.state = replace(
            self.state, nodes={other: node for other, node in self.state.nodes.items() if other != row}
        )
        return row
