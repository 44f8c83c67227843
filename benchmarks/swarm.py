"""Whole swarms of real daemons: what training together brings, and what a codec saves.

    python -m benchmarks.swarm [--json FILE] [--only charlm|digits]

charlm   the default swarm (topologies/quickstart.yaml), then each node's shard alone for the same number of own steps
digits   topologies/digits.yaml with int8 and with fp32: worst accuracy, and bytes for each swap
"""

import argparse
import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import common
from node import resolve
from node.up import up
from p2ptrain.config import NodeFile, load
from p2ptrain.topology import Topology
from p2ptrain.training.replica import Replica
from p2ptrain.training.splits import examples
from p2ptrain.training.trainer import Trainer

TOPOLOGIES = Path(__file__).parent.parent / "topologies"


def run(topology: Topology, folder: Path) -> dict[str, Any]:
    """Bring the swarm up as processes; its summary."""
    asyncio.run(up(topology, folder))
    return json.loads((folder / "summary.json").read_text())


def alone(file: NodeFile, steps: int) -> float:
    """Held-out loss of one node's shard, model and recipe after as many steps without any peer."""
    task, data = file.run.task, file.run.data
    own = examples(task.labels(), data, data.shards or 1, file.node.slot, file.run.seed)
    trainer = Trainer(
        task, Replica(task.model(file.run.seed)), own, file.run.strategy, seed=file.run.seed, slot=file.node.slot
    )
    for step in range(steps):
        trainer.step(step / steps)
    return trainer.evaluate().loss


def charlm(folder: Path) -> dict[str, Any]:
    topology = load(TOPOLOGIES / "quickstart.yaml", Topology)
    summary = run(topology, folder / "quickstart")
    rows, results = [], {}
    for name, file in resolve.node_files(topology, folder / "alone").items():
        node = summary["nodes"][name]
        lonely = alone(file, node["steps"])
        results[name] = {"steps": node["steps"], "swarm": node["loss"], "alone": lonely}
        rows.append((name, node["steps"], node["loss"], lonely, node["loss"] < min(lonely, 2.6)))
    columns = ["node", "own steps", "nats per byte in the swarm", "alone", "below 2.6 and below alone"]
    common.table(
        f"The default swarm, {summary['seconds']:.0f} s from start to end (required: under 180)", columns, rows
    )
    return {"seconds": summary["seconds"], "nodes": results}


def digits(folder: Path) -> dict[str, Any]:
    rows, results = [], {}
    for codec in ("fp32", "int8"):
        summary = run(load(TOPOLOGIES / "digits.yaml", Topology, {"run.codec": codec}), folder / codec)
        nodes = summary["nodes"].values()
        swaps, sent = sum(node["exchanges"] for node in nodes), sum(node["bytes_sent"] for node in nodes)
        worst = min(node["accuracy"] for node in nodes)
        results[codec] = {"worst_accuracy": worst, "swaps": swaps, "bytes_sent": sent, "bytes_per_swap": sent / swaps}
        shares = [results[codec][what] / results["fp32"][what] for what in ("bytes_sent", "bytes_per_swap")]
        rows.append((codec, worst, swaps, sent, *shares))
    columns = [
        "codec", "worst accuracy (required 0.93)", "swaps", "bytes sent", "of fp32 (required 0.27)", "of fp32, per swap"
    ]  # fmt: skip
    common.table("digits, 4 nodes, Dirichlet 0.3", columns, rows)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--only", choices=["charlm", "digits"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        cases = {"charlm": charlm, "digits": digits}
        results = {name: case(Path(folder)) for name, case in cases.items() if args.only in (None, name)}
    common.write_json(args.json, results)


if __name__ == "__main__":
    main()
