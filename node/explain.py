"""`p2ptrain check` and `p2ptrain list`: what a configuration means, and what there is to choose from."""

import inspect
import json
import sys
import textwrap
import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from pydantic_core import PydanticUndefined

from node import resolve
from node.units import duration, number, size
from p2ptrain import aggregators, codecs, graphs, strategies
from p2ptrain.config import RunConfig
from p2ptrain.errors import ConfigError
from p2ptrain.registry import Component
from p2ptrain.seeds import numpy_random
from p2ptrain.topology import Topology
from p2ptrain.training import devices, tasks

KINDS: dict[str, ModuleType] = {
    "codecs": codecs, "aggregators": aggregators, "strategies": strategies, "tasks": tasks, "graphs": graphs,
}  # fmt: skip
SAMPLE = 1 << 18
MAX_NODES_SHOWN = 32


def topology(file: Topology) -> str:
    """Who, with whom, what, how much and how long."""
    run, members = file.run, file.members()
    speeds = devices.relative_speeds([group.device for _, group in members])
    model = run.task.model(run.seed)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    step_s = _step_seconds(run, model)
    lines = [
        f"{file.name}: {len(members)} nodes, seed {run.seed}",
        f"  task        {_short(run.task)}, {num_parameters:,} parameters ({size(4 * num_parameters)})",
        f"  strategy    {_short(run.strategy)}",
        f"  aggregator  {_short(run.aggregator)}",
        f"  codec       {_short(run.codec)}, about {size(_exchange_bytes(run, num_parameters))} each way per exchange",
        f"  data        {run.data.split}" + (f", alpha {run.data.alpha:g}" if run.data.split == "dirichlet" else ""),
        f"  graph       {_graph(file)}",
        f"  length      {_length(file, speeds, step_s)}",
    ]
    if only := resolve.only_simulated(file):
        lines.append(f"  runtime     only sim: {', '.join('.'.join(map(str, place)) for place in only)}")
    lines += [f"  expect      {what} {want}" for what, want in file.expect.items()]
    lines.append(f"  {'node':<16}{'device':<16}{'speed':>6}  neighbours")
    for slot, (name, group) in enumerate(members[:MAX_NODES_SHOWN]):
        lines.append(f"  {name:<16}{group.device:<16}{speeds[slot]:>6.3g}  {_neighbours(file, slot)}")
    if len(members) > MAX_NODES_SHOWN:
        lines.append(f"  and {len(members) - MAX_NODES_SHOWN} more")
    return "\n".join(lines)


def _short(component: Component) -> str:
    """`topk(ratio=0.02)`: the name and what differs from the defaults."""
    fields = type(component).model_fields
    own = [f"{key}={getattr(component, key)!r}" for key in fields if getattr(component, key) != fields[key].default]
    return component.name + (f"({', '.join(own)})" if own else "")


def _graph(file: Topology) -> str:
    if file.graph is None:
        return "everyone to everyone"
    degrees = [len(file.graph.neighbours(slot)) for slot in range(file.graph.num_nodes)]
    degree = f"{min(degrees)}" if min(degrees) == max(degrees) else f"{min(degrees)} to {max(degrees)}"
    return f"{_short(file.graph)}, {len(file.graph.edges)} edges, degree {degree}, chi1 {number(file.graph.chi1())}"


def _neighbours(file: Topology, slot: int) -> str:
    if file.graph is None:
        return "all"
    names = [name for name, _ in file.members()]
    return ", ".join(names[other] for other in file.graph.neighbours(slot))


def _exchange_bytes(run: RunConfig, num_parameters: int) -> float:
    """Encoded size of a vector as long as the model, from a sample."""
    sample = torch.randn(min(num_parameters, SAMPLE), generator=torch.Generator().manual_seed(0))
    memory = torch.zeros_like(sample) if run.codec.uses_memory else None
    return run.codec.encode(sample, memory=memory).nbytes * num_parameters / sample.numel()


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
    run, crowded = file.run, step_s * max(1.0, len(speeds) / torch.get_num_threads())
    limits = [f"{run.seconds:g} s of training"] if run.seconds else []
    if run.steps:
        slowest = run.steps * max(step_s / min(speeds), crowded)
        limits.append(f"{run.steps} steps per node (very roughly {duration(max(1, slowest))} for the slowest)")
    return f"{' or '.join(limits)}; a step takes {number(1000 * step_s)} ms here at full speed"


@dataclass(frozen=True)
class Entry:
    name: str
    what: str
    options: dict[str, Any]


def listing(kind: str, as_json: bool) -> str:
    """Names, what they are, and their options with defaults."""
    if kind == "devices":
        entries = [_device(name) for name in devices.PROFILES]
    elif kind in KINDS:
        module = KINDS[kind]
        entries = [_entry(name, module.get(name)) for name in module.names()]
    else:
        raise ConfigError(f"unknown kind {kind!r}; choose one of {', '.join((*KINDS, 'devices'))}")
    if as_json:
        return json.dumps([vars(entry) for entry in entries], indent=1)
    width = max(len(entry.name) for entry in entries) + 2
    lines = []
    for entry in entries:
        lines.append(f"{entry.name:<{width}}{entry.what}")
        if entry.options:
            options = ", ".join(f"{key}: {_yaml(value)}" for key, value in entry.options.items())
            lines.append(textwrap.fill(options, 110, initial_indent=" " * width, subsequent_indent=" " * width))
    return "\n".join(lines)


def _entry(name: str, cls: type[Component]) -> Entry:
    module = sys.modules[cls.__module__]
    own_file = module.__name__.endswith(f".{name}")  # such a file says at its top what it is about
    text = inspect.cleandoc((own_file and module.__doc__) or cls.__doc__ or "").split("\n\n")[0]
    options = {field.alias or key: _default(field) for key, field in cls.model_fields.items()}
    return Entry(name, " ".join(text.split()), options)


def _default(field: Any) -> Any:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "(required)"
    return value if isinstance(value, int | float | str | bool | list | dict) or value is None else str(value)


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _device(name: str) -> Entry:
    profile = devices.PROFILES[name]
    speed = f"{profile.speed:g} TFLOP/s" if profile.speed else "as fast as the fastest of the swarm"
    what = f"{speed}, {profile.memory_gib:g} GiB, uplink {profile.uplink_mbit_s:g} Mbit/s"
    return Entry(name, what, {})
