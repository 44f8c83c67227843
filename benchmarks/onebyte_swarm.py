"""One-byte swarms: what an evaluation costs on the wire, and what is learned beside a plain float64 loop.

    python -m benchmarks.onebyte_swarm [--json FILE] [--seconds N] [--rounds N]

Wire: 16 peers in one process, real gRPC and TLS over loopback, batches of a second; slopes are drawn at random, all
else is real. Counted are the sockets' own counters (TCP_INFO): what TCP carried, TLS and HTTP/2 included, and the
headers of its segments at 52 bytes each, acknowledgements too. Per evaluation and peer that came to know it.

Learning: eight simulated nodes go on from digits that are partly learned, over links of 20 ms; beside them one machine
that makes the same evaluations, along the same noise, in float64 and in step. Once more with one of the eight joining
at half time, of which only the hashes at the end are asked.
"""

import asyncio
import contextlib
import os
import random
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import arguments, table, write_json
from p2ptrain import graphs
from p2ptrain.graphs import Graph
from p2ptrain.network.identity import Identity
from p2ptrain.network.tls import Credentials as Tls
from p2ptrain.network.transport import GrpcTransport
from p2ptrain.ports import Contact
from p2ptrain.simulation import loop
from p2ptrain.simulation.world import World
from p2ptrain.strategies.spsa.arithmetic.lattice import Lattice
from p2ptrain.strategies.spsa.arithmetic.noise import signs
from p2ptrain.strategies.spsa.arithmetic.rule import Rule, key_of
from p2ptrain.strategies.spsa.dissemination.flood import Flood
from p2ptrain.strategies.spsa.ledger.book import EVERYTHING
from p2ptrain.strategies.spsa.ledger.replica import Credentials, Replica
from p2ptrain.strategies.spsa.ledger.roster import Roster, slot_of
from p2ptrain.telemetry.events import Event, Stamped, Stopped
from p2ptrain.topology import Topology
from p2ptrain.training.folder import Folder
from p2ptrain.training.replica import Replica as Flat
from p2ptrain.training.tasks import register
from p2ptrain.training.tasks.digits import Digits

WIRE_MAX, DROP_MAX = 4.0, 0.02
PEERS, RULE = 16, Rule(span=16)
SEGMENT_HEADERS = 52
"""IPv4, and TCP with timestamps."""
BYTES_RECEIVED, SEGMENTS_IN = 128, 140
"""Where Linux has them in `struct tcp_info`."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each wire case (default 20)")
    parser.add_argument("--rounds", type=int, default=300, help="of learning (default 300)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [("ring", 50.0, relay_s) for relay_s in (0.5, 0.25, 1.0)]
    cases += [("ring", 10.0, 0.5), ("regular", 50.0, 0.5)]
    wires = [asyncio.run(wire(kind, rate, relay_s, options.seconds)) for kind, rate, relay_s in cases]
    table(f"{PEERS} peers, gRPC and TLS, batches of a second", list(wires[0]), [tuple(row.values()) for row in wires])
    learned = [learning(options.rounds, lr) for lr in (0.001, 0.002, 0.004)]
    table("Eight simulated nodes, digits", list(learned[0]), [tuple(row.values()) for row in learned])
    one_hash = all(row["hashes"] == 1 for row in learned)
    fine = wires[0]["TCP payload"] <= WIRE_MAX and one_hash
    fine = fine and all(row["error of the drop"] <= DROP_MAX for row in learned)
    verdict = "ok" if fine else "MISSED"
    print(f"{WIRE_MAX} bytes per evaluation over sockets at 50 a second, drop within {DROP_MAX}: {verdict}")
    write_json(options.json, {"wire": wires, "learning": learned})


@dataclass(frozen=True)
class Neighbour:
    peer: str
    state: str = "training"


@dataclass
class Host:
    """As much of a node as a flood needs."""

    identity: Identity
    graph: Graph
    folder: Path
    relay_s: float
    neighbour_ids: list[str] = field(default_factory=list)
    everyone: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.me, self.public_key, self.sign = self.identity.peer, self.identity.public_key, self.identity.sign
        self.verify = Identity.verify
        self.credentials = Tls(self.identity, "the key of the swarm", "benchmark")
        self.transport = GrpcTransport(self.me, self.credentials, lambda caller, error: None)
        self.address = self.transport.bind("127.0.0.1:0")
        self.membership = self.compute = self
        self.channel = None
        self.emit = self.events.append
        identity, disk = RULE.identify("benchmark", b"", b""), Folder(self.folder)
        roster = Roster(disk)
        roster.admit(self.public_key)
        credentials = Credentials(slot_of(self.public_key), self.sign, self.verify)
        start = Lattice(key_of(identity), torch.zeros(100, dtype=torch.int64))
        self.replica = Replica(RULE, identity, start, disk, credentials, roster)
        self.flood = Flood(cast(Any, self), self.replica, roster, 1.0, self.relay_s)

    def rng(self, purpose: str) -> random.Random:
        return random.Random(f"{self.me}/{purpose}")

    def neighbours(self) -> list[Neighbour]:
        return [Neighbour(peer) for peer in self.neighbour_ids]

    def view(self) -> list[Neighbour]:
        return [Neighbour(peer) for peer in self.everyone if peer != self.me]

    async def changed(self) -> None:
        await asyncio.sleep(3600)

    async def aside(self, work: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(work)

    async def evaluate(self, per_s: float) -> None:
        """Say drawn slopes, at that pace."""
        rng, clock = self.rng("slopes"), asyncio.get_running_loop()
        due = clock.time()
        while True:
            self.replica.advance()
            self.replica.say(rng.gauss(0, 0.3))
            due += 1 / per_s
            await asyncio.sleep(max(0.0, due - clock.time()))


async def wire(kind: str, per_s: float, relay_s: float, seconds: float) -> dict[str, Any]:
    graph = graphs.make(kind, n=PEERS, **({"degree": 4} if kind == "regular" else {}))
    with tempfile.TemporaryDirectory() as folder:
        hosts = [Host(Identity.ephemeral(), graph, Path(folder) / str(slot), relay_s) for slot in range(PEERS)]
        for slot, host in enumerate(hosts):
            host.everyone = [other.me for other in hosts]
            host.neighbour_ids = [hosts[other].me for other in graph.neighbours(slot)]
            for other in hosts:
                host.transport.learn(other.me, Contact((other.address,), other.credentials.certificate_der))
            await host.transport.start()
        tasks = [asyncio.ensure_future(host.flood.run()) for host in hosts]
        tasks += [asyncio.ensure_future(host.evaluate(per_s)) for host in hosts]
        await asyncio.sleep(8.0)  # connections are made, and the first batches have come round
        before, known, cpu = tcp(), sum(map(heard, hosts)), time.process_time()
        await asyncio.sleep(seconds)
        after, delivered, cpu = tcp(), sum(map(heard, hosts)) - known, time.process_time() - cpu
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for host in hosts:
            await host.transport.close(0)
    carried, segments = after[0] - before[0], after[1] - before[1]
    return {
        "graph": kind,
        "relayed every, s": relay_s,
        "evaluations / s, peer": delivered / seconds / PEERS / (PEERS - 1),
        "payload": 1.0,
        "TCP payload": carried / delivered,
        "with headers": (carried + SEGMENT_HEADERS * segments) / delivered,
        "CPU us / delivery": 1e6 * cpu / delivered,
    }


def heard(host: Host) -> int:
    """Evaluations of others that it knows."""
    return sum(host.replica.said(slot) for slot in host.replica.book.heads if slot != host.replica.slot)


def tcp() -> tuple[int, int]:
    """Bytes and segments that all sockets of this process have received."""
    return tuple(map(sum, zip(*counters(), strict=True)))  # type: ignore[return-value]


def counters() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as found:
            if found.type == socket.SOCK_STREAM and found.family in (socket.AF_INET, socket.AF_INET6):
                info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                yield struct.unpack_from("<Q", info, BYTES_RECEIVED)[0], struct.unpack_from("<I", info, SEGMENTS_IN)[0]


@register("half-learned-digits")
class HalfLearned(Digits):
    """The digits, after some steps of plain gradient descent on one half of them."""

    def model(self, seed: int) -> nn.Module:
        model = super().model(seed)
        model.load_state_dict(_half_learned(self.hidden, seed))
        return model


@cache
def _half_learned(hidden: int, seed: int) -> dict[str, Tensor]:
    task = Digits(hidden=hidden, batch_size=64)
    model, rng = task.model(seed), np.random.default_rng(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        task.loss(model, task.batch(np.arange(700), rng)).backward()
        optimizer.step()
    return model.state_dict()


def learning(num_rounds: int, lr: float, num_peers: int = 8) -> dict[str, Any]:
    node = {"heartbeat": 2, "step": 0.1}
    strategy = {"name": "spsa", "lr": lr, "exponent": -3}
    run = {"task": {"name": "half-learned-digits", "hidden": 16, "batch_size": 64}, "strategy": strategy}
    body = {"name": "learning", "run": {**run, "steps": num_rounds, "evaluate_every": 1000}, "node": node}
    links = {"default": {"latency": "20ms"}}
    file = Topology.model_validate({**body, "nodes": [{"count": num_peers}], "links": links})
    late_s = num_rounds * 0.1 / 2
    joined = Topology.model_validate(
        {**body, "nodes": [{"count": num_peers - 1}, {"name": "late", "starts": late_s}], "links": links}
    )
    ours, hashes, daemons = live(file)
    _, hashes_joined, _ = live(joined)
    start = Flat(file.run.task.model(file.run.seed)).flat
    theirs = plain(daemons, start, lr)
    images, labels = Digits().batch(np.arange(1397), np.random.default_rng(9))
    module = daemons[0].trainer.module
    losses = [evaluate(module, each.double(), images, labels) for each in (start, ours, theirs)]
    return {
        "lr": lr,
        "before": losses[0],
        "bytes": losses[1],
        "float64": losses[2],
        "error of the drop": abs(losses[1] - losses[2]) / (losses[0] - losses[2]),
        "hashes": max(hashes, hashes_joined),
    }


def live(file: Topology) -> tuple[Tensor, int, list[Any]]:
    """The weights at the end, how many different hashes there were, and what made the evaluations."""
    log: list[Stamped] = []
    daemons: list[Any] = []

    async def run() -> None:
        world = World(file, log.append)
        running = asyncio.ensure_future(world.run())
        await asyncio.sleep(1.0)
        daemons.extend(node.daemon for node in world.nodes.values() if node.daemon is not None)
        await running

    loop.run(run())
    hashes = {stamped.event.digest for stamped in log if isinstance(stamped.event, Stopped)}
    return daemons[0].trainer.replica.flat.clone(), len(hashes), daemons


def plain(daemons: list[Any], start: Tensor, lr: float) -> Tensor:
    """The same evaluations, batch by batch, in a float64 loop that knows nothing of bytes, scales, integers and delays.

    Who starts later goes on where the others are, and so leaves out rounds."""
    weights, eps, replica = start.double(), 1e-3, daemons[0].node.service.replica
    trainers = {daemon.node.service.replica.slot: daemon.trainer for daemon in daemons}
    made = sorted(evaluation for evaluation, _ in replica.book.entries(0, EVERYTHING))
    steps = dict.fromkeys(trainers, 0)
    for _, group in groupby(made, key=lambda evaluation: evaluation.round):
        together, total = list(group), torch.zeros_like(weights)
        for evaluation in together:
            trainer, number = trainers[evaluation.slot], steps[evaluation.slot]
            steps[evaluation.slot] += 1
            noise = torch.from_numpy(signs(replica.master.lattice.key, evaluation, len(weights))).double()
            batch = trainer.batch(number)
            above, below = (evaluate(trainer.module, weights + side * eps * noise, *batch) for side in (1, -1))
            total += (above - below) / (2 * eps) * noise
        weights -= lr * total / len(together)
    return weights


@torch.no_grad()
def evaluate(module: nn.Module, weights: Tensor, images: Tensor, labels: Tensor) -> float:
    views, at = {}, 0
    for name, parameter in module.named_parameters():
        views[name] = weights[at : at + parameter.numel()].view(parameter.shape)
        at += parameter.numel()
    return nn.functional.cross_entropy(torch.func.functional_call(module, views, (images.double(),)), labels).item()


if __name__ == "__main__":
    main()
