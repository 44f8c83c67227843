"""How long do nodes that start at once need to become one swarm?

Each run starts real daemons with the same bootstrap, and measures from the last `Started` until each sees all others.
"""

import asyncio
import statistics
import tempfile
from pathlib import Path

from benchmarks.common import arguments, table, write_json
from node import resolve
from node.launcher import Swarm
from p2ptrain.telemetry.events import Joined, Stamped, Started
from p2ptrain.telemetry.state import SwarmState
from p2ptrain.topology import Topology

START_S = 180.0


async def measure(num_nodes: int, speed: float, out: Path) -> tuple[float, float] | None:
    """Seconds until all have started, and from then until they are one swarm; None when they were not within 60."""
    run = {"task": {"name": "digits", "hidden": 8}, "seconds": 3600}
    node = {"heartbeat": 1, "threads": 1}
    topology = Topology.model_validate({"name": "join", "run": run, "nodes": [{"count": num_nodes}], "node": node})
    log: list[Stamped] = []
    swarm = Swarm(topology, out, lambda stamped, _: log.append(stamped))
    swarm.files = {name: resolve.with_node(file, speed=speed) for name, file in swarm.files.items()}

    def whole(state: SwarmState) -> bool:
        return all(len(node.peers) == num_nodes - 1 for node in state.nodes.values())

    async with swarm:
        await swarm.wait(lambda state: all(node.started is not None for node in state.nodes.values()), START_S)
        try:
            await swarm.wait(whole, 60)
        except TimeoutError:
            return None
    started = max(stamped.time for stamped in log if isinstance(stamped.event, Started))
    joined = max(stamped.time for stamped in log if isinstance(stamped.event, Joined))
    return started, max(0.0, joined - started)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--times", type=int, default=20, help="runs (default 20)")
    parser.add_argument("--nodes", type=int, default=8, help="nodes in each (default 8)")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds within which a run counts as a success")
    parser.add_argument("--speed", type=float, default=0.1, help="of training, so that it leaves the cores to the rest")
    options = parser.parse_args()
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(options.times):
            found = asyncio.run(measure(options.nodes, options.speed, Path(folder) / str(index)))
            started, seconds = found or (None, None)
            rows.append([index + 1, started, seconds, seconds is not None and seconds <= options.limit])
            print(f"run {index + 1}: " + ("not one swarm" if seconds is None else f"one swarm after {seconds:.2f} s"))
    table(f"{options.nodes} nodes at once", ["run", "all started at, s", "one swarm after, s", "in time"], rows)
    times = [row[2] for row in rows if isinstance(row[2], float)]
    num_in_time = sum(bool(row[3]) for row in rows)
    if times:
        print(f"median {statistics.median(times):.2f} s, longest {max(times):.2f} s")
    print(f"{num_in_time} of {len(rows)} within {options.limit:g} s")
    write_json(
        options.json,
        {"nodes": options.nodes, "limit": options.limit, "seconds": [row[2] for row in rows], "in_time": num_in_time},
    )


if __name__ == "__main__":
    main()
