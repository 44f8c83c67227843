"""How fast is the simulator, and where does its time go?

thousand   1000 peers, 50 steps and 50 int8 exchanges each, a model of 10 000 parameters; beside it the bare work, the
           same steps, encodings and mixings in a plain loop, which no simulation can do without
hour       32 peers gossip a small vector for one virtual hour, with a heartbeat each ten seconds
campaign   seeds of topologies/campaign.yaml: 16 peers, random faults, all invariants watched
"""

import cProfile
import pstats
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import arguments, table, write_json
from p2ptrain import codecs
from p2ptrain.config import load
from p2ptrain.simulation.campaign import draw, judge
from p2ptrain.simulation.loop import run
from p2ptrain.simulation.world import World, node_files
from p2ptrain.telemetry.events import Exchanged, Stamped, Stepped
from p2ptrain.topology import Topology
from p2ptrain.training.replica import Replica
from p2ptrain.training.trainer import Trainer

CAMPAIGN = Path(__file__).parents[1] / "topologies" / "campaign.yaml"
ROOMS = ("training", "codecs", "exchange", "swarm", "simulation", "telemetry", "strategies")


def thousand(num_peers: int, steps: int = 50) -> Topology:
    run = {
        "task": {"name": "quadratic", "dim": 10_000, "batch_size": 4}, "steps": steps, "evaluate_every": 1e6,
        "codec": "int8", "strategy": {"rate": 0.5, "merge": "none"},
    }  # fmt: skip
    node = {"checkpoint_every": 1e6}
    graph = {"kind": "exponential", "n": num_peers}
    simulation = {"step": 1, "members": "table"}
    body = {"name": "thousand", "run": run, "graph": graph, "nodes": [{"count": num_peers}], "node": node}
    return Topology.model_validate({**body, "simulation": simulation})


def hour(num_peers: int, seconds: float) -> Topology:
    run = {
        "task": {"name": "quadratic", "dim": 50}, "seconds": seconds, "evaluate_every": 600,
        "strategy": {"rate": 1, "merge": "none"},
    }  # fmt: skip
    node = {"heartbeat": 10, "checkpoint_every": 600}
    links = {"default": {"latency": "20ms", "jitter": "10ms"}}
    body = {"name": "hour", "run": run, "nodes": [{"count": num_peers}], "node": node}
    return Topology.model_validate({**body, "links": links, "simulation": {"step": 10}})


def simulate(topology: Topology) -> dict[str, Any]:
    """Seconds, events, exchanges and steps of one simulated run."""
    counts: Counter[str] = Counter()

    def on_event(stamped: Stamped) -> None:
        counts[type(stamped.event).__name__] += 1

    async def main() -> float:
        world = World(topology, on_event)
        await world.run()
        return world.now

    begun, cpu = time.perf_counter(), time.process_time()
    virtual_s = run(main())
    steps, exchanges = counts[Stepped.__name__], counts[Exchanged.__name__]
    return {
        "seconds": time.perf_counter() - begun, "virtual": virtual_s, "events": counts.total(), "steps": steps,
        "exchanges": exchanges, "cpu": time.process_time() - cpu,
    }  # fmt: skip


def bare(topology: Topology, steps: int, exchanges: int) -> float:
    """Seconds for as many steps, encodings and mixings of one node of this topology, without anything around them."""
    file = node_files(topology)[0]
    trainer = Trainer(file.run.task, Replica(file.run.task.model(0)), file.run.task.labels(), seed=0, slot=0)
    codec, vector = codecs.make("int8"), trainer.replica.snapshot()
    out = torch.empty_like(vector)
    codec.warm()
    trainer.step()
    begun = time.perf_counter()
    for _ in range(steps):
        trainer.step()
    for _ in range(exchanges):
        packet = codec.encode(vector)
        codec.mix(vector, packet, packet, 0.5, out)
    return time.perf_counter() - begun


def shares(work: Callable[[], object]) -> dict[str, float]:
    """Share of the time spent in each room of the library, in torch, in asyncio, and elsewhere."""
    profile = cProfile.Profile()
    profile.runcall(work)
    spent: Counter[str] = Counter()
    for (file, _, function), (_, _, own_s, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        spent[_room(file, function)] += own_s
    return {room: seconds / spent.total() for room, seconds in spent.most_common()}


def _room(file: str, function: str) -> str:
    parts = Path(file).parts
    if "torch" in parts or "torch" in function or "Tensor" in function or "run_backward" in function:
        return "torch"
    if "asyncio" in parts:
        return "asyncio"
    if "p2ptrain" in parts:
        below = parts[len(parts) - parts[::-1].index("p2ptrain") :]
        return next((room for room in ROOMS if below[0].removesuffix(".py") == room), "rest of p2ptrain")
    return "elsewhere"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--peers", type=int, default=1000, help="of the first case (default 1000)")
    parser.add_argument("--virtual", type=float, default=3600.0, help="virtual seconds of the second (default 3600)")
    parser.add_argument("--seeds", type=int, default=20, help="of the third (default 20)")
    options = parser.parse_args()
    torch.set_num_threads(1)

    many, long = thousand(options.peers), hour(32, options.virtual)
    simulate(thousand(8, 2))  # imports, compiles
    first, second = simulate(many), simulate(long)
    seconds = bare(many, first["steps"], first["exchanges"])
    campaign = load(CAMPAIGN, Topology)
    begun, cpu = time.perf_counter(), time.process_time()
    outcomes = [judge(draw(campaign, seed)) for seed in range(options.seeds)]
    third = {
        "seconds": time.perf_counter() - begun, "virtual": sum(outcome.virtual_s for outcome in outcomes),
        "events": sum(outcome.num_events for outcome in outcomes), "steps": None,
        "exchanges": sum(outcome.num_exchanges for outcome in outcomes), "cpu": time.process_time() - cpu,
    }  # fmt: skip
    cases = {
        f"{options.peers} peers": first, "32 peers, virtual hour": second, f"{options.seeds} seeds of a campaign": third
    }  # fmt: skip
    rows = [
        [
            name,
            case["seconds"],
            case["cpu"],
            case["virtual"],
            case["steps"],
            case["exchanges"],
            case["events"] / case["seconds"],
        ]
        for name, case in cases.items()
    ]
    columns = ["case", "seconds", "CPU s", "virtual s", "steps", "exchanges, both sides", "events/s"]
    table("the simulator, on one core", columns, rows)
    times = first["seconds"] / seconds
    print(f"bare work of the first case: {seconds:.1f} s; its simulation takes {times:.2f} times that")
    violations = sum(outcome.failure is not None for outcome in outcomes)
    print(f"campaign: {violations} violations, {third['seconds'] / options.seeds:.2f} s a seed")
    spent = {
        "peers": shares(lambda: simulate(thousand(100))),
        "hour": shares(lambda: simulate(hour(32, options.virtual / 20))),
        "campaign": shares(lambda: [judge(draw(campaign, seed)) for seed in range(3)]),
    }
    rooms = list(dict.fromkeys(room for found in spent.values() for room in found))
    parts = [[room, *(found.get(room) for found in spent.values())] for room in rooms]
    table("share of the time, under a profiler", ["room", *spent], parts)
    write_json(options.json, {"cases": cases, "bare_s": seconds, "shares": spent})


if __name__ == "__main__":
    main()
