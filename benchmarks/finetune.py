"""A small language model is trained by gossip, and then fine-tuned on another text at one byte per evaluation.

    python -m benchmarks.finetune [--json FILE] [--rounds N] [--pretrain N] [--only CASE]...

All in the simulator: four nodes learn the sources of Python's standard library with gossip; the `final.safetensors`
that one of them leaves is what eight one-byte nodes start from (`task.weights`), over links of 40 ms and 64 kbit/s.
They learn English: the texts of Python's own help. Each case trains other parameters; loss is in nats per byte, on text
that nobody trains on. `lora` needs the extra `finetune`, and is left out without it.
"""

import asyncio
import importlib.util
import sysconfig
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.common import arguments, table, write_json
from p2ptrain.daemon import FINAL
from p2ptrain.simulation import loop
from p2ptrain.simulation.world import World
from p2ptrain.telemetry.events import Evaluated, Flooded, Stamped, Stopped
from p2ptrain.topology import Topology

ENGLISH = Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data" / "topics.py"
PEERS = 8
LINES = {"default": {"latency": "40ms", "bandwidth": "64kbit"}}


@dataclass(frozen=True)
class Case:
    """Which parameters, and what suits them: the noise in a slope grows with their number, so the rate falls."""

    parameters: str
    lr: float
    eps: float = 1e-3
    exponent: int = -3
    task: dict[str, Any] = field(default_factory=dict)


CASES = {
    "all": Case("", 4e-3),
    "last block": Case(r"^blocks\.1\.", 4e-3),
    "norms": Case("norm", 0.3),
    "lora": Case("", 1e-2, eps=1e-2, task={"lora": {"rank": 4}}),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=400, help="of fine-tuning (default 400)")
    parser.add_argument("--pretrain", type=int, default=150, help="steps of gossip (default 150)")
    parser.add_argument("--only", choices=CASES, action="append", help="of these cases (default all that can be)")
    parser.add_argument("--lr", type=float, help="instead of each case's own")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = options.only or [name for name in CASES if name != "lora" or importlib.util.find_spec("peft")]
    with TemporaryDirectory() as folder:
        weights = Path(folder) / FINAL
        pretrained = pretrain(options.pretrain, weights)
        table("Four nodes, gossip, Python sources", list(pretrained), [tuple(pretrained.values())])
        rows = [finetune(name, CASES[name], options.rounds, weights, options.lr) for name in chosen]
    table(f"{PEERS} nodes, one byte per evaluation, English", list(rows[0]), [tuple(row.values()) for row in rows])
    fine = all(row["hashes"] == 1 and row["after"] < row["before"] for row in rows)
    print(f"loss falls, and all end with one hash: {'ok' if fine else 'MISSED'}")
    write_json(options.json, {"pretrained": pretrained, "finetuned": rows})


def pretrain(num_steps: int, weights: Path) -> dict[str, Any]:
    run = {"task": "charlm", "strategy": "gossip", "steps": num_steps, "evaluate_every": 1000}
    file = Topology.model_validate({"name": "pretrain", "run": run, "nodes": [{"count": 4}]})
    log, world, seconds = live(file)
    weights.write_bytes(world.nodes["node-0"].home.files[FINAL])
    before, after = ends(log)
    return {"steps": num_steps, "before": before, "after": after, "seconds": seconds}


def finetune(name: str, case: Case, num_rounds: int, weights: Path, lr: float | None) -> dict[str, Any]:
    strategy = {
        "name": "spsa", "lr": lr or case.lr, "final_lr": 0.0, "rounds": num_rounds, "eps": case.eps,
        "exponent": case.exponent, "parameters": case.parameters,
    }  # fmt: skip
    task = {"name": "charlm", "text": str(ENGLISH), "weights": str(weights), "batch_size": 16, **case.task}
    run = {"task": task, "strategy": strategy, "steps": num_rounds, "evaluate_every": 1000}
    body = {"name": "finetune", "run": run, "nodes": [{"count": PEERS}], "links": LINES}
    file = Topology.model_validate({**body, "node": {"heartbeat": 2, "step": 0.1}})
    log, world, seconds = live(file)
    before, after = ends(log)
    said = sum(stamped.event.bytes_sent for stamped in log if isinstance(stamped.event, Flooded))
    return {
        "trained": name,
        "numbers": world.size,
        "lr": strategy["lr"],
        "before": before,
        "after": after,
        "hashes": len({stamped.event.digest for stamped in log if isinstance(stamped.event, Stopped)}),
        "bytes sent / evaluation": said / (PEERS * num_rounds),
        "seconds": seconds,
    }


class Watched(World):
    """Remembers how many numbers are trained."""

    size = 0

    async def watch(self) -> None:
        await asyncio.sleep(2.0)
        daemon = self.nodes["node-0"].daemon
        service = daemon.node.service if daemon else None
        self.size = service.replica.master.lattice.values.numel() if service else 0


def live(file: Topology) -> tuple[list[Stamped], Watched, float]:
    """What was said, the world after its end, and how long that took."""
    log: list[Stamped] = []
    worlds: list[Watched] = []
    begun = time.perf_counter()

    async def run() -> None:
        worlds.append(Watched(file, log.append))
        async with asyncio.TaskGroup() as group:
            group.create_task(worlds[0].watch())
            group.create_task(worlds[0].run())

    loop.run(run())
    return log, worlds[0], time.perf_counter() - begun


def ends(log: list[Stamped]) -> tuple[float, float]:
    """Held-out loss of the first node, before and after."""
    found = [stamped.event for stamped in log if stamped.node == "node-0" and isinstance(stamped.event, Evaluated)]
    return found[0].loss, found[-1].loss


if __name__ == "__main__":
    main()
