"""A2CiD2 beside plain gossip: a ring on which each node sees other kinds of digits.

    python -m benchmarks.acid [--json FILE] [--nodes N] [--alpha A] [--steps S] [--rate R] [--seeds N]

Real daemons in the simulator, a training step a second. Distance: the nodes' mean squared distance to their mean, as a
share of the mean's squared norm, over the second half of the run. Accuracy on held-out digits: of the nodes' replicas,
over the second half too; and of all replicas merged at the end.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import common
from p2ptrain.simulation.loop import run
from p2ptrain.simulation.world import World
from p2ptrain.telemetry.events import Evaluated, Finished, Stamped
from p2ptrain.topology import Topology

METHODS = {"gossip": {"momentum": False}, "acid": {"momentum": True}}
"""Options of `acid`: without momentum it is plain gossip on the same graph."""


def topology(options: dict[str, Any], args: argparse.Namespace, seed: int) -> Topology:
    body = {
        "name": "acid", "graph": {"kind": "ring", "n": args.nodes}, "nodes": [{"count": args.nodes}],
        "node": {"heartbeat": 20}, "simulation": {"step": 1.0},
        "run": {
            "task": "digits", "strategy": {"name": "acid", "rate": args.rate, **options}, "steps": args.steps,
            "data": {"split": "dirichlet", "alpha": args.alpha}, "evaluate_every": args.steps / 10, "seed": seed,
        },
    }  # fmt: skip
    return Topology.model_validate(body)


class Watched:
    """One run."""

    def __init__(self, topology: Topology, steps: int) -> None:
        self.steps = steps
        self.distances: dict[int, float] = {}
        """At the first event after each second."""
        self.accuracies: list[float] = []
        self.merged = 0.0
        self._is_over = False
        run(self._run(topology))

    async def _run(self, topology: Topology) -> None:
        self.world = World(topology, self._hear)
        await self.world.run()

    def _hear(self, stamped: Stamped) -> None:
        second, event = int(stamped.time), stamped.event
        self._is_over = self._is_over or isinstance(event, Finished)
        if isinstance(event, Evaluated) and event.accuracy is not None:
            self.merged = event.accuracy
            if second >= self.steps / 2 and not self._is_over:
                self.accuracies.append(event.accuracy)
        daemons = [node.daemon for node in self.world.nodes.values() if node.daemon]
        due = second >= self.steps / 2 and second not in self.distances and not self._is_over
        if due and len(daemons) == len(self.world.nodes):
            models = torch.stack([daemon.trainer.replica.snapshot() for daemon in daemons])
            mean = models.mean(0)
            self.distances[second] = float((models - mean).square().sum(1).mean() / mean.square().sum())

    def figures(self) -> dict[str, float]:
        distance, accuracy = statistics.mean(self.distances.values()), statistics.mean(self.accuracies)
        return {"distance": distance, "accuracy": accuracy, "merged accuracy": self.merged}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--alpha", type=float, default=0.3, help="of the Dirichlet split (default 0.3)")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=0.5, help="swaps that a node starts per step (default 0.5)")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    for seed in range(args.seeds):
        for name, options in METHODS.items():
            runs[name].append(Watched(topology(options, args, seed), args.steps).figures())
    columns = list(runs["gossip"][0])
    rows: list[list[object]] = [
        [f"{name}, seed {seed}", *(figures[column] for column in columns), None]
        for seed in range(args.seeds)
        for name, figures in ((name, runs[name][seed]) for name in METHODS)
    ]
    means = {
        name: {column: statistics.mean(figures[column] for figures in found) for column in columns}
        for name, found in runs.items()
    }
    ratio = means["acid"]["distance"] / means["gossip"]["distance"]
    for name, mean in means.items():
        rows.append([f"{name}, mean", *(mean[column] for column in columns), ratio if name == "acid" else 1.0])
    title = f"digits on a ring of {args.nodes}, Dirichlet {args.alpha:g}, {args.steps} steps (wanted: distance 0.8)"
    common.table(title, ["method", *columns, "distance / gossip"], rows)
    common.write_json(
        args.json, {"settings": vars(args) | {"json": None}, "runs": runs, "means": means, "ratio": ratio}
    )


if __name__ == "__main__":
    main()
