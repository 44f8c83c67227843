"""Does the simulator tell what real processes then do? The same files in both runtimes, figure by figure.

    python -m benchmarks.agree [--repeats N] [--json FILE] [FILE ...]

steps      training steps, mean of the nodes
swaps      swaps that were applied, mean of the nodes
bytes      bytes sent in swaps, mean of the nodes; wanted: within 10 %
accuracy   on held-out data, the worst node's; wanted: within 2 points

Who finds whom busy is left to chance in both, so a run differs from the next one: each file is run in both with the
seeds 0, 1, 2, ... and the means are compared. Where links are saturated a single seed says little.
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


def compare(topology: Topology, folder: Path, repeats: int = 1) -> list[Row]:
    """A row per figure, of the means over so many seeds; `ok` is None where nothing is wanted."""
    sims: list[Figures] = []
    processes: list[Figures] = []
    for seed in range(repeats):
        seeded = topology.model_copy(update={"run": topology.run.model_copy(update={"seed": seed})})
        sims.append(run(seeded, folder / f"sim-{seed}", "sim"))
        processes.append(run(seeded, folder / f"process-{seed}", "process"))
    return [_row(topology.name, what, sims, processes) for what in sims[0]]


def _row(name: str, what: str, sims: list[Figures], processes: list[Figures]) -> Row:
    sim, process = (statistics.mean(one[what] for one in runs) for runs in (sims, processes))
    return {
        "file": name,
        "figure": what,
        "sim": sim,
        "sims": _range(what, sims),
        "process": process,
        "processes": _range(what, processes),
        "ratio": process / sim,
        "ok": _agrees(what, sim, process),
    }


def _range(what: str, runs: list[Figures]) -> str:
    values = [one[what] for one in runs]
    return f"{min(values):.4g} to {max(values):.4g}"


def _agrees(what: str, sim: float, process: float) -> bool | None:
    if what == "accuracy":
        return abs(process - sim) <= POINTS_MAX
    return abs(process / sim - 1) <= SHARE_MAX if what == "bytes" else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--repeats", type=common.positive, default=5, help="seeds (default 5)")
    default = [TOPOLOGIES / f"{name}.yaml" for name in DEFAULT]
    parser.add_argument("files", type=Path, nargs="*", default=default, metavar="FILE", help="topology files")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        for file in options.files:
            rows += (found := compare(load(file, Topology), Path(folder) / file.stem, options.repeats))
            print(*(f"{row['file']} {row['figure']}: {row['ratio']:.3f}" for row in found), sep=", ", flush=True)
    columns = ["file", "figure", "sim", "from, to", "process", "from, to", "process / sim", "agree"]
    common.table("The same file in both runtimes", columns, [list(row.values()) for row in rows])
    common.write_json(options.json, {"rows": rows})
    return 0 if all(row["ok"] in (True, None) for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
