"""`p2ptrain check`: what a topology file means, without running it."""

import math
import time

import numpy as np
import torch

from node import timeline
from node.units import duration, number, size
from p2ptrain.config import RunConfig
from p2ptrain.graphs import Graph, drawing, measures
from p2ptrain.registry import Component
from p2ptrain.seeds import numpy_random
from p2ptrain.topology import Topology
from p2ptrain.topology.links import Link
from p2ptrain.training import devices

SAMPLE = 1 << 18
MAX_NODES_SHOWN = 32
MAX_SITES_IN_TABLE = 5
RUNTIMES = ("sim", "process", "docker")


def topology(file: Topology) -> str:
    """What, who with whom, over what, and what goes wrong when."""
    parts = [_headline(file), _nodes(file), _links(file), timeline.draw(file)]
    parts.append([f"warning: {warning}" for warning in _warnings(file)])
    return "\n\n".join("\n".join(f"  {line}".rstrip() for line in part) for part in parts if part).lstrip()


def _headline(file: Topology) -> list[str]:
    run = file.run
    model = run.task.start(run.seed)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    speeds = devices.relative_speeds([group.device for _, group in file.members()])
    data = f"{run.data.split}, alpha {run.data.alpha:g}" if run.data.split == "dirichlet" else run.data.split
    lines = [
        f"task        {_short(run.task)}, {num_parameters:,} parameters ({size(4 * num_parameters)})",
        f"strategy    {_short(run.strategy)}",
        f"aggregator  {_short(run.aggregator)}",
        f"codec       {_short(run.codec)}",
        f"traffic     {_traffic(run, num_parameters)}",
        f"data        {data}",
        *_graph(file.graph),
        f"length      {_length(file, speeds, _step_seconds(run, model))}",
        f"runtimes    {_runtimes(file)}",
    ]
    lines += [f"expect      {what} {want}" for what, want in file.expect.items()]
    return [f"{file.name}: {file.num_nodes} nodes, seed {run.seed}", *lines]


def _short(component: Component) -> str:
    """`topk(ratio=0.02)`: the name and what differs from the defaults; schedules have lines of their own."""
    fields = {key: field for key, field in type(component).model_fields.items() if key != "schedule"}
    own = [f"{key}={getattr(component, key)!r}" for key in fields if getattr(component, key) != fields[key].default]
    return component.name + (f"({', '.join(own)})" if own else "")


def _traffic(run: RunConfig, num_parameters: int) -> str:
    """A node starts some of its swaps and answers as many of others; each sends a vector both ways."""
    each = _exchange_bytes(run, num_parameters)
    per_step = 2 * run.strategy.swaps_per_step
    text = f"about {size(each)} each way per exchange, {number(per_step)} exchanges per step and node"
    return text + (f": {size(each * per_step * run.steps)} sent by each" if run.steps and per_step else "")


def _exchange_bytes(run: RunConfig, num_parameters: int) -> float:
    """Encoded size of a vector as long as the model, from a sample."""
    sample = torch.randn(min(num_parameters, SAMPLE), generator=torch.Generator().manual_seed(0))
    memory = torch.zeros_like(sample) if run.codec.uses_memory else None
    return run.codec.encode(sample, memory=memory).nbytes * num_parameters / sample.numel()


def _graph(graph: Graph | None) -> list[str]:
    """A line for each epoch."""
    if graph is None:
        return ["graph       everyone to everyone"]
    labels = ["graph", *(f"from {100 * change.at:g} %" for change in graph.schedule)]
    return [f"{label:<11} {_worth(epoch)}" for label, epoch in zip(labels, graph.epochs, strict=True)]


def _worth(graph: Graph) -> str:
    degrees = [len(graph.neighbours(slot)) for slot in range(graph.num_nodes)]
    degree = f"{min(degrees)}" if min(degrees) == max(degrees) else f"{min(degrees)} to {max(degrees)}"
    text = f"{_short(graph)}, {len(graph.edges)} edges, degree {degree}, diameter {measures.diameter(graph)}"
    return f"{text}, spectral gap {number(measures.spectral_gap(graph))}, chi1 {number(graph.chi1())}"


def _step_seconds(run: RunConfig, model: torch.nn.Module) -> float:
    """Of one training step here and now, without the optimizer's part; the best of a few."""
    examples, rng = np.arange(len(run.task.labels())), numpy_random(run.seed, "check")
    taken = []
    for _ in range(4):
        batch = run.task.batch(examples, rng)
        start = time.perf_counter()
        run.task.loss(model, batch).backward()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _length(file: Topology, speeds: list[float], step_s: float) -> str:
    run, pace_s = file.run, file.node.get("step", 0.0)
    crowded = step_s * max(1.0, len(speeds) / torch.get_num_threads())
    limits = [f"{run.seconds:g} s of training"] if run.seconds else []
    if run.steps:
        slowest = run.steps * max(step_s / min(speeds), pace_s / min(speeds), crowded)
        limits.append(f"{run.steps} steps per node (very roughly {duration(max(1, slowest))} for the slowest)")
    paced = f", and {number(1000 * pace_s)} ms at this file's pace" if pace_s else ""
    return f"{' or '.join(limits)}; a step takes {number(1000 * step_s)} ms here at full speed{paced}"


def _runtimes(file: Topology) -> str:
    places = (".".join(map(str, place)) for place in file.only_simulated())
    place = next(places, None)
    return f"{RUNTIMES[0]} alone: no TCP connection does {place}" if place else ", ".join(RUNTIMES)


def _nodes(file: Topology) -> list[str]:
    """The graph as a picture, and a line per node with its neighbours' slots."""
    members = file.members()
    speeds = devices.relative_speeds([group.device for _, group in members])
    rows = [("node", "device", "site", "speed", "starts")]
    for (name, group), speed in zip(members, speeds, strict=True):
        rows.append((name, group.device, group.site, f"{speed:.3g}", f"{group.starts:g} s" if group.starts else ""))
    kept = [column for column in range(5) if any(row[column] for row in rows[1:])]
    widths = [max(len(row[column]) for row in rows) for column in kept]
    labels = ["  ".join(f"{row[column]:<{width}}" for column, width in zip(kept, widths, strict=True)) for row in rows]
    if file.graph is None:
        lines = [f"{slot:>4}  {label}  all" for slot, label in enumerate(labels[1:])]
    else:
        lines = drawing.draw(file.graph, labels[1:]).splitlines()
    picture, table = lines[: -len(members)], lines[-len(members) :]
    if len(table) > MAX_NODES_SHOWN:
        table = [*table[:MAX_NODES_SHOWN], f"and {len(table) - MAX_NODES_SHOWN} more"]
    return [*picture, f"slot  {labels[0]}  neighbours", *table]


def _links(file: Topology) -> list[str]:
    """From each site to each; a table, unless it is large."""
    if not file.links:
        return []
    sites: dict[str, list[str]] = {}
    for name, group in file.members():
        sites.setdefault(group.site, []).append(name)

    def between(one: str, other: str) -> str:
        a, b = sites[one][0], sites[other][-1]
        return "-" if a == b else _link(file.link((a, b)))

    if len(sites) > MAX_SITES_IN_TABLE:
        return [f"{one} to {other}: {between(one, other)}" for one in sites for other in sites]
    rows = [["from \\ to", *sites], *([one, *(between(one, other) for other in sites)] for one in sites)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(sites) + 1)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]


def _link(link: Link) -> str:
    """`90 ms + 0-10 ms, 100 Mbit/s, loss 0.5 %`"""
    parts = [f"{1000 * link.latency:g} ms" + (f" + 0-{1000 * link.jitter:g} ms" if link.jitter else "")]
    parts += [f"{link.bandwidth / 1e6:g} Mbit/s"] if link.bandwidth else []
    parts += [f"{name} {100 * getattr(link, name):g} %" for name in _SHARES if getattr(link, name)]
    return "down" if link.down else ", ".join(parts)


_SHARES = ("loss", "drop", "duplicate", "reorder", "corrupt")


def _warnings(file: Topology) -> list[str]:
    """What may work and is hardly meant, once per fault."""
    found: dict[int, str] = {}
    down = {name for name, group in file.members() if group.starts > 0}
    ends = _ends(file)
    for deed in file.plan():
        reason, befallen = None, set(deed.nodes)
        if deed.verb == "start" and (up := sorted(befallen - down)):
            reason = f"{up[0]} is to start, and is not down"
        elif deed.verb in ("kill", "stop", "tear", "pause") and (already := sorted(befallen & down)):
            reason = f"{already[0]} is down already"
        elif deed.at > ends:
            reason = "training is over, nothing will come of it"
        if reason:
            found.setdefault(deed.fault, f"faults.{deed.fault}: {deed.what}: at {deed.at:.4g} s {reason}")
        down = down - befallen if deed.verb == "start" else down
        down = down | befallen if deed.verb in ("kill", "stop", "tear") else down
    return [found[fault] for fault in sorted(found)]


def _ends(file: Topology) -> float:
    """When the last node has trained, by the clock; where only steps are given, by the simulator's."""
    run, members = file.run, file.members()
    speeds = devices.relative_speeds([group.device for _, group in members])
    by_steps = [run.steps * file.simulation.step / speed if run.steps else math.inf for speed in speeds]
    return max(
        group.starts + min(limit, run.seconds or math.inf) for (_, group), limit in zip(members, by_steps, strict=True)
    )
