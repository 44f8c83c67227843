"""Does the simulator tell what real processes then do? The same files in both runtimes, figure by figure.

    python -m benchmarks.agree [--json FILE] [FILE ...]

steps      training steps, mean of the nodes
swaps      swaps that were applied, mean of the nodes
bytes      bytes sent in swaps, mean of the nodes; wanted: within 10 %
accuracy   on held-out data, the worst node's; wanted: within 2 points

Which node of a swarm answers how many swaps is left to chance in both, so single nodes differ by more than the mean.
"""

import argparse
import asyncio
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from benchmarks import common
from node import simulated
from node.up import up
from p2ptrain.config import load
from p2ptrain.topology import Topology

TOPOLOGIES = Path(__file__).parent.parent / "topologies"
DEFAULT = ("digits", "ring", "wan3", "partition-and-heal", "heterogeneous")
POINTS_MAX, SHARE_MAX = 0.02, 0.10

Figures = dict[str, float]
Row = dict[str, Any]


def figures(summary: dict[str, Any]) -> Figures:
    """What is compared, from a run's `summary.json`."""
    nodes = list(summary["nodes"].values())
    means = {"steps": "steps", "swaps": "exchanges", "bytes": "bytes_sent"}
    found = {what: statistics.mean(node[key] for node in nodes) for what, key in means.items()}
    known = [node["accuracy"] for node in nodes if node["alive"]]
    return found | {"accuracy": min(known)}


def run(topology: Topology, out: Path, runtime: str) -> Figures:
    """Bring the swarm up, and say so when it does not reach what its own file expects."""
    quiet = Console(file=io.StringIO())
    code = simulated.up(topology, out, quiet) if runtime == "sim" else asyncio.run(up(topology, out, quiet))
    summary = json.loads((out / "summary.json").read_text())
    if code != 0:
        print(f"{topology.name} ({runtime}): {[item for item in summary['expect'] if not item['ok']]}")
    return figures(summary)


def compare(topology: Topology, folder: Path) -> list[Row]:
    """A row per figure; `ok` is None where nothing is wanted."""
    sim, process = (run(topology, folder / runtime, runtime) for runtime in ("sim", "process"))
    return [
        {
            "file": topology.name,
            "figure": what,
            "sim": sim[what],
            "process": process[what],
            "ratio": process[what] / sim[what],
            "ok": _agrees(what, sim[what], process[what]),
        }
        for what in sim
    ]


def _agrees(what: str, sim: float, process: float) -> bool | None:
    if what == "accuracy":
        return abs(process - sim) <= POINTS_MAX
    return abs(process / sim - 1) <= SHARE_MAX if what == "bytes" else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    default = [TOPOLOGIES / f"{name}.yaml" for name in DEFAULT]
    parser.add_argument("files", type=Path, nargs="*", default=default, metavar="FILE", help="topology files")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        for file in options.files:
            rows += (found := compare(load(file, Topology), Path(folder) / file.stem))
            print(*(f"{row['file']} {row['figure']}: {row['ratio']:.3f}" for row in found), sep=", ", flush=True)
    columns = ["file", "figure", "sim", "process", "process / sim", "agree"]
    common.table("The same file in both runtimes", columns, [list(row.values()) for row in rows])
    common.write_json(options.json, {"rows": rows})
    return 0 if all(row["ok"] in (True, None) for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
