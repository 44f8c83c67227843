"""One node is four times slower: DADAO, in which nobody waits, beside gradient tracking, in which all do.

    python -m benchmarks.slow_node [--json FILE] [--nodes N] [--condition K] [--graphs KIND ...]

Real daemons in the simulator, least squares split by target, exact gradients that take one second, or four on the slow
node; what is sent takes less than a millisecond. The time until the worst node's gap, its squared distance to the
optimum as a share of that at the start, is below 1e-4. Gradient tracking has the best of a few learning rates.
"""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks import common
from p2ptrain.simulation.loop import run
from p2ptrain.simulation.world import World
from p2ptrain.telemetry.events import Evaluated, Stamped
from p2ptrain.topology import Topology
from p2ptrain.training.devices import relative_speeds

TARGET, DIVERGED = 1e-4, 1e3
FAST, SLOW = "rtx3060", "macbook-m2"
"""Device profiles, of which one is four times slower."""
RATES = (1.2, 0.9, 0.6, 0.3)
"""Learning rates that are tried, in units of 1 / L of all data together."""
PATIENCE = 6
"""A run of gradient tracking that takes so many times longer than DADAO's is given up."""
LIMIT_S = 20_000.0


class _EndedError(Exception):
    pass


def topology(strategy: dict[str, Any], nodes: int, condition: float, graph: str, slow: bool = True) -> Topology:
    task = {"name": "convex", "problem": "least-squares", "dataset": "synthetic", "whole": True, "condition": condition}
    body = {
        "name": "slow-node", "graph": {"kind": graph, "n": nodes},
        "nodes": [{"count": nodes - 1, "device": FAST}, {"device": SLOW if slow else FAST}],
        "node": {"heartbeat": 30}, "simulation": {"step": 1.0},
        "run": {
            "task": task, "strategy": strategy, "codec": "fp32", "data": {"split": "by-label"}, "seconds": LIMIT_S,
            "evaluate_every": 4,
        },
    }  # fmt: skip
    return Topology.model_validate(body)


def seconds_to_target(file: Topology, limit_s: float = LIMIT_S) -> float | None:
    """Virtual seconds until all nodes are there; None: not before the limit."""
    gaps: dict[str, float] = {}
    reached: list[float] = []

    async def go() -> None:
        def hear(stamped: Stamped) -> None:
            if isinstance(stamped.event, Evaluated) and stamped.event.gap is not None:
                gaps[stamped.node] = stamped.event.gap
            if len(gaps) == file.num_nodes and max(gaps.values()) <= TARGET:
                reached.append(stamped.time)
            if reached or stamped.time > limit_s or max(gaps.values(), default=0.0) > DIVERGED:
                world.fail(_EndedError())

        world = World(file, hear)
        await world.run()

    with suppress(_EndedError):
        run(go())
    return reached[0] if reached else None


def measure(nodes: int, condition: float, graph: str, rates: Sequence[float] = RATES) -> dict[str, float | None]:
    """By what: virtual seconds."""
    dadao = seconds_to_target(topology({"name": "dadao", "unit": 1.0}, nodes, condition, graph))
    tracking, limit_s = None, PATIENCE * dadao if dadao else LIMIT_S
    for lr in rates:
        file = topology({"name": "gradient-tracking", "lr": lr}, nodes, condition, graph)
        if (seconds := seconds_to_target(file, limit_s)) is not None:
            tracking = limit_s = seconds  # others need only be tried for as long
    ratio = tracking / dadao if tracking and dadao else None
    return {"dadao": dadao, "gradient-tracking": tracking, "ratio": ratio}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--condition", type=float, default=100.0, help="L / mu of all data together (default 100)")
    parser.add_argument("--graphs", nargs="+", default=["ring", "complete"], metavar="KIND")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    fast, slow = relative_speeds([FAST, SLOW])
    found = {graph: measure(args.nodes, args.condition, graph) for graph in args.graphs}
    rows = [[graph, row["dadao"], row["gradient-tracking"], row["ratio"], 2] for graph, row in found.items()]
    title = f"virtual seconds to a gap of {TARGET:g}, {args.nodes} nodes, one {fast / slow:.2g} times slower"
    common.table(title, ["graph", "dadao", "gradient-tracking", "ratio", "wanted"], rows)
    common.write_json(args.json, {"nodes": args.nodes, "condition": args.condition, "seconds": found})


if __name__ == "__main__":
    main()
