"""What liars do to a swarm, attack by attack and rule by rule: real nodes in the simulator.

    python -m benchmarks.liars [--json FILE] [--liars 2 3] [--rules NAME...] [--attacks NAME...] [--steps N] [--seed N]
                               [--processes]

MoNNA on `digits`: 11 nodes that all talk to all, each with its own part of the data (Dirichlet 1.0), and some of them
liars that see every honest model and know the rule. The same daemons, transport and rounds as in the other runtimes,
in virtual time. Printed is the worst honest node's accuracy at the end in percent, the row's own attack-free run
first (`nobody`: all 11 are honest); a dash where a rule refuses so many liars among so few.

With `--processes` the nodes are real daemons on this machine, in real time, and the liars see what they are shown.
"""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.common import arguments, table, write_json
from benchmarks.robust import ATTACKS as ALL_ATTACKS
from benchmarks.robust import NUM_NODES, rules_for
from node.up import up
from p2ptrain.aggregators import Aggregator
from p2ptrain.errors import TooFewError
from p2ptrain.simulation import loop
from p2ptrain.simulation.world import World
from p2ptrain.telemetry.events import Evaluated, Stamped
from p2ptrain.topology import Topology

UNTOLD = ("zero", "bit-flip", "stale")
"""Left to `benchmarks.robust`, which needs no swarm."""
ATTACKS = {name: attack for name, attack in ALL_ATTACKS.items() if name not in UNTOLD}
LIMIT_S = 24 * 3600.0

Row = dict[str, float | None]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--liars", type=int, nargs="+", default=[2, 3], help="of 11 nodes (default 2 3)")
    parser.add_argument("--rules", nargs="+", help="labels of rows (default: all)")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, help="columns (default: all)")
    parser.add_argument("--steps", type=int, default=120, help="of each node, three a round (default 120)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", action="store_true", help="as real processes instead of in the simulator")
    options = parser.parse_args()
    measure = worst_of_processes if options.processes else worst
    torch.set_num_threads(1)
    columns, found = options.attacks or list(ATTACKS), {}
    for liars in options.liars:
        rows: dict[str, Row] = {}
        for label, rule in rules_for(liars, options.rules).items():
            rows[label] = row(
                label,
                {name: topology(rule, ATTACKS[name], liars, options.steps, options.seed) for name in columns},
                measure,
            )
            found[f"{liars} liars"] = rows
            write_json(options.json, {"steps": options.steps, "seed": options.seed, "accuracy": found})
        table(
            f"digits, {NUM_NODES} nodes, {liars} of them liars: accuracy of the worst honest node, %",
            ("rule", *columns),
            [(label, *row.values()) for label, row in rows.items()],
        )


def row(label: str, files: dict[str, Topology], measure: Callable[[Topology], float | None]) -> Row:
    """Percent by attack."""
    found: Row = {}
    for name, file in files.items():
        begun = time.perf_counter()
        found[name] = measure(file) if is_borne(file) else None
        liars = len(file.attackers)
        print(f"{liars} liars, {label}, {name}: {found[name]} % ({time.perf_counter() - begun:.0f} s)", flush=True)
    return found


def is_borne(file: Topology) -> bool:
    """Whether the rule works at all with so many neighbours."""
    try:
        file.run.aggregator.check_enough(file.num_nodes - 1)
    except TooFewError:
        return False
    return True


def topology(rule: Aggregator, attack: Any, liars: int, steps: int, seed: int) -> Topology:
    """The swarm of one cell; without an attack those who would lie are honest."""
    strategy = {
        "name": "monna", "lr": 1.0, "schedule": "cosine", "period": 3, "wait": 5.0,
        "options": {"momentum": 0.9, "dampening": 0.9},
    }  # fmt: skip
    run = {
        "task": {"name": "digits", "hidden": 32}, "strategy": strategy, "aggregator": rule, "codec": "fp32",
        "data": {"split": "dirichlet", "alpha": 1.0}, "steps": steps, "evaluate_every": LIMIT_S, "seed": seed,
    }  # fmt: skip
    nodes = [{"count": NUM_NODES - liars}, {"count": liars, "name": "liar", "attack": attack}]
    simulation = {"step": 0.2, "members": "table"}
    node = {"step": 0.2, "heartbeat": 2}
    return Topology.model_validate(
        {"name": "liars", "run": run, "nodes": nodes, "node": node, "simulation": simulation}
    )


def worst(file: Topology) -> float:
    """The lowest accuracy of an honest node at the end, %, in the simulator."""
    honest = {name for name, _ in file.members()} - set(file.attackers)
    last: dict[str, float] = {}

    def take(stamped: Stamped) -> None:
        if isinstance(stamped.event, Evaluated) and stamped.node in honest:
            last[stamped.node] = stamped.event.accuracy or 0.0

    async def live() -> None:
        await World(file, take).run(LIMIT_S)

    loop.run(live())
    return round(100 * min(last.values()), 1)


def worst_of_processes(file: Topology) -> float:
    """As `worst`, of real daemons."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        asyncio.run(up(file, out))
        nodes = json.loads((out / "summary.json").read_text())["nodes"]
    return round(100 * min(node["accuracy"] for node in nodes.values() if not node["byzantine"]), 1)


if __name__ == "__main__":
    main()
