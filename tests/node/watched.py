"""A swarm of real daemons that remembers every event, for tests."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from node import resolve
from node.launcher import Swarm
from p2ptrain.telemetry.events import Event, Noted, Stamped, Started
from p2ptrain.telemetry.state import SwarmState
from p2ptrain.topology import Topology

HEARTBEAT_S = 1.0
SPEED = 0.1
"""Nodes that leave the machine idle most of the time, so that what is measured is not the queue for its cores."""
UNTRAINED = 2.0
"""ten digits by guessing: ln 10 = 2.3"""
START_S = 180.0
"""For processes to come up on a busy machine."""

E = TypeVar("E", bound=Event)


def topology(
    count: int,
    *,
    links: dict[str, Any] | None = None,
    faults: Any = (),
    heartbeat: float = HEARTBEAT_S,
    **run: Any,
) -> Topology:
    run = {"task": "digits", "seconds": 3600, "evaluate_every": 1, **run}
    node = {"heartbeat": heartbeat, "checkpoint_every": 2, "threads": 1}
    body = {"name": "test", "run": run, "nodes": [{"count": count}], "node": node, "faults": faults}
    return Topology.model_validate(body | ({"links": links} if links else {}))


class Watched(Swarm):
    """A swarm that remembers every event."""

    def __init__(self, topology: Topology, out: Path, speed: float = SPEED) -> None:
        self.log: list[Stamped] = []
        super().__init__(topology, out, lambda stamped, _: self.log.append(stamped))
        self.files = {name: resolve.with_node(file, speed=speed) for name, file in self.files.items()}

    def events(self, node: str, kind: type[E], since: float = 0.0) -> list[tuple[float, E]]:
        """(time, event) of one node and one kind."""
        return [
            (stamped.time, stamped.event)
            for stamped in self.log
            if stamped.node == node and isinstance(stamped.event, kind) and stamped.time >= since
        ]

    def peer(self, name: str) -> str:
        return self.state.nodes[name].peer

    def notes(self, node: str, *words: str) -> list[str]:
        found = [event.message for _, event in self.events(node, Noted)]
        return [message for message in found if all(word in message for word in words)]

    async def until(self, condition: Callable[[], object], timeout_s: float) -> None:
        await self.wait(lambda _: bool(condition()), timeout_s)

    async def whole(self, names: Iterable[str], timeout_s: float) -> None:
        """Until each of these sees all others of these, and nobody else."""
        names = set(names)

        def is_whole(state: SwarmState) -> bool:
            nodes = {name: state.nodes[name] for name in names}
            ids = {node.peer for node in nodes.values()}
            return all(node.peer and node.peers == ids - {node.peer} for node in nodes.values())

        await self.wait(is_whole, timeout_s)

    async def lose_and_regain(self, name: str) -> None:
        """SIGKILL, once all have trained for a while. The others train on; then they stand still until it is up again:
        however long that takes on a busy machine, their training is not over before."""
        others = self.files.keys() - {name}
        await self.grow(self.files, START_S, 50)
        await self.kill(name)
        await self.grow(others, START_S)
        for other in others:
            await self.pause(other)
        killed = self.now
        await self.start(name)
        await self.until(lambda: self.events(name, Started, killed), START_S)
        for other in others:
            await self.resume(other)

    async def grow(self, names: Iterable[str], timeout_s: float, steps: int = 20) -> None:
        """Until each of these has taken that many more steps."""
        goals = {name: self.state.nodes[name].step + steps for name in names}
        await self.wait(lambda state: all(state.nodes[name].step >= goal for name, goal in goals.items()), timeout_s)
