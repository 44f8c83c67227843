"""`p2ptrain up --runtime sim`: the whole swarm in this process and virtual time; same outcome, report and verdict."""

import time
from pathlib import Path

from rich.console import Console

from node import live, report, resolve, summary
from p2ptrain.daemon import FINAL
from p2ptrain.simulation import loop
from p2ptrain.simulation.world import Hang, World
from p2ptrain.telemetry.events import Noted, Stamped, to_json
from p2ptrain.telemetry.state import SwarmState, apply, expecting
from p2ptrain.topology import Topology

OK, FAILED, INTERRUPTED = 0, 1, 130
REFRESH_S = 0.25


def up(topology: Topology, out: Path, console: Console) -> int:
    """Returns the exit code; raises `ConfigError` before anything begins."""
    resolve.check(topology)
    resolve.prepare(out)
    resolve.save(out / "topology.yaml", topology)
    swarm = _Seen(topology, out, console)
    code, begun = OK, time.perf_counter()
    try:
        loop.run(swarm.run())
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (loop.Deadlock, Hang) as error:
        swarm.take(Stamped("", swarm.now, Noted("error", str(error))))
        code = FAILED
    finally:
        swarm.close()
    return _conclude(swarm, time.perf_counter() - begun, console) or code


class _Seen:
    """A world, the fold of what it says, its log on disk and on the screen."""

    def __init__(self, topology: Topology, out: Path, console: Console) -> None:
        self.topology, self.out = topology, out
        self.state: SwarmState = expecting([name for name, _ in topology.members()])
        self.now, self.trace, self.num_events = 0.0, "", 0
        self._log = (out / "events.jsonl").open("w", encoding="utf-8")
        self._view = live.view(live.Run(topology.name, topology.run.steps, topology.run.seconds), console)
        self._view.say(f"{topology.name}: {topology.num_nodes} simulated nodes, everything in {out}")
        self._refreshed = 0.0

    async def run(self) -> None:
        world = World(self.topology, self.take)
        try:
            await world.run()
        finally:
            self.now, self.trace, self.num_events = world.now, world.trace, world.num_events
            for node in world.nodes.values():
                self._leave(node.name, node.home.files)

    def take(self, stamped: Stamped) -> None:
        self.now = stamped.time
        self.state = apply(self.state, stamped)
        self._log.write(f"{to_json(stamped)}\n")
        self._view.event(stamped, self.state)
        if time.perf_counter() - self._refreshed > REFRESH_S:
            self._refreshed = time.perf_counter()
            self._view.refresh(self.state, self.now)

    def close(self) -> None:
        self._log.close()
        self._view.close()

    def _leave(self, name: str, files: dict[str, bytes]) -> None:
        """What the node left in its home goes where the other runtimes put it."""
        if FINAL in files:
            (self.out / name).mkdir(exist_ok=True)
            (self.out / name / FINAL).write_bytes(files[FINAL])


def _conclude(swarm: _Seen, wall_s: float, console: Console) -> int:
    out, state = swarm.out, swarm.state
    liars = swarm.topology.attackers
    honest = [out / node.name / FINAL for node in state.nodes.values() if node.alive and node.name not in liars]
    result = summary.build(swarm.topology, state, swarm.now, summary.consensus(honest), "sim", swarm.trace)
    summary.save(out / "summary.json", result)
    report.write(out / "report.html", state, result, resolve.dump(swarm.topology))
    summary.show(console, result, state)
    rate = swarm.num_events / max(wall_s, 1e-9)
    console.print(f"{swarm.now:.0f} virtual seconds in {wall_s:.1f}, {rate:.0f} events/s, trace {swarm.trace[:16]}")
    console.print(f"report: {out / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    return OK if result["ok"] else FAILED
