"""Campaigns: many seeds, each with a random schedule of faults and random interference inside the code, and all
invariants watched. A seed that fails is shrunk to the fewest faults that still make it fail.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from p2ptrain import chaos
from p2ptrain.daemon import SEARCH_S
from p2ptrain.seeds import python_random
from p2ptrain.simulation.invariants import Violation, Watch
from p2ptrain.simulation.loop import NODE, Deadlock, run
from p2ptrain.simulation.world import Hang, World
from p2ptrain.telemetry.events import Exchanged, Faulted, Left, Stamped
from p2ptrain.topology import Topology

Mode = Literal["safety", "liveness"]

STORM_S = 20.0
"""How long faults begin and end."""
CALM_S = 40.0
"""How long the swarm then has to heal, at most. Where faults do not end, and so some addresses never answer, also the
minute for which nodes that have nothing hope that somebody there has."""
MAX_FAULTS = 8
LIMIT_S = 600.0
DRAWN = (
    "kill", "kill", "restart all", "pause", "tear", "partition", "partition", "cut", "degrade", "flap", "reset", "skew",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """What to run: a topology file, and what befalls it."""

    topology: Topology
    """With its seed and all its faults."""
    interference: bool = True
    """Wait, break connections and crash at random points of the code."""
    core: frozenset[str] = frozenset()
    """Who must be well in the end; empty: everybody."""


@dataclass
class Outcome:
    """What a trial showed."""

    seed: int
    failure: str | None = None
    virtual_s: float = 0.0
    num_events: int = 0
    num_exchanges: int = 0
    trace: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    """How many of each kind, interference included."""
    noticed_s: list[float] = field(default_factory=list)
    """From a death to each `Left` that it caused."""
    recovered_s: float | None = None
    """From the end of the last fault to one connected swarm in which everybody exchanges."""
    healed_s: list[float] = field(default_factory=list)
    """From each node's start, after the first, to its first exchange."""


def draw(topology: Topology, seed: int, mode: Mode = "safety") -> Trial:
    """The file under this seed's own faults. `liveness`: those outside a core of half the nodes are for good."""
    rng = python_random(seed, "schedule")
    names = [name for name, _ in topology.members()]
    core = set(rng.sample(names, (len(names) + 1) // 2)) if mode == "liveness" else set()
    faults = [_draw_fault(rng, names, core) for _ in range(rng.randint(1, MAX_FAULTS))]
    for fault in faults if core else ():
        if "kill" in fault:
            del fault["for"]
        elif fault.keys() & {"pause", "partition", "cut", "degrade"}:
            fault["for"] = LIMIT_S
    body = topology.model_dump(mode="json")
    body["run"]["seed"] = seed
    body["faults"] = [*body["faults"], *faults]
    return Trial(Topology.model_validate(body), core=frozenset(core))


def _draw_fault(rng: random.Random, names: Sequence[str], core: set[str]) -> dict[str, Any]:
    at = round(rng.uniform(0, STORM_S - 1), 3)
    lasts = round(min(rng.expovariate(1 / 5.0) + 0.05, STORM_S - at), 3)
    outside = [name for name in names if name not in core]
    few = rng.sample(outside, min(len(outside), rng.choice([1, 1, 2, 3])))
    others = [name for name in names if name not in few]
    way = {"from": few, "to": rng.sample(others, rng.randint(1, len(others)))}
    match rng.choice(DRAWN):
        case "kill":
            return {"at": at, "kill": few, "for": lasts}
        case "restart all":
            return {"at": at, "kill": outside, "for": lasts}
        case "pause":
            return {"at": at, "pause": few, "for": lasts}
        case "tear":
            return {"at": at, "tear": few, "for": lasts}
        case "partition":
            side = rng.sample(outside, rng.randint(1, len(outside)))
            rest = [name for name in names if name not in side] or [side.pop()]
            return {"at": at, "partition": [side or rest[:1], rest if side else rest[1:]], "for": lasts}
        case "cut":
            return {"at": at, "cut": way, "for": lasts}
        case "degrade":
            link = {"latency": rng.uniform(0, 1), "loss": rng.uniform(0, 0.3), "bandwidth": 10 ** rng.uniform(4, 8)}
            return {"at": at, "degrade": way, "link": link, "for": lasts}
        case "flap":
            return {"at": at, "flap": way, "every": 2.0, "down": round(rng.uniform(0.1, 1.5), 3), "for": lasts}
        case "reset":
            return {"at": at, "reset": way}
        case _:
            return {"at": at, "skew": few, "by": round(rng.uniform(-20, 20), 3), "for": lasts}


def judge(trial: Trial) -> Outcome:
    """Run it in virtual time, with all invariants watched."""
    outcome = Outcome(trial.topology.run.seed)
    try:
        run(_judge(trial, outcome))
    except (Violation, Hang, Deadlock) as error:
        outcome.failure = f"{type(error).__name__}: {error}"
    except BaseExceptionGroup as errors:
        outcome.failure = "; ".join(f"{type(error).__name__}: {error}" for error in _leaves(errors))
    return outcome


async def _judge(trial: Trial, outcome: Outcome) -> None:
    world = World(trial.topology)
    watch, seen = Watch(world, trial.core), _Statistics(world, outcome)

    def on_event(stamped: Stamped) -> None:
        seen.event(stamped)
        watch.event(stamped)

    world.on_event = on_event
    chaos.observe = watch.observe
    interference = Interference(world, outcome.faults, trial.core)
    if trial.interference:
        chaos.interfere = interference.at
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(world.run(LIMIT_S))
            await asyncio.sleep(STORM_S)
            chaos.interfere = None
            for node in world.nodes.values():
                node.keep_power()
            world.disturb(())
            await _until_healed(world, watch, CALM_S + (SEARCH_S if trial.core else 0.0))
            outcome.recovered_s = world.now - STORM_S
            interference.is_over = True
            for node in world.nodes.values():
                group.create_task(world.stop(node.name))
        watch.ended()
    finally:
        chaos.interfere = chaos.observe = None
        outcome.virtual_s, outcome.num_events, outcome.trace = world.now, world.num_events, world.trace


async def _until_healed(world: World, watch: Watch, within_s: float) -> None:
    """As soon as every invariant says so; raises `Violation` of one that does not in time."""
    give_up = world.now + within_s
    while True:
        await asyncio.sleep(1.0)
        try:
            return watch.healed()
        except Violation:
            if world.now > give_up:
                raise


class Interference:
    """At points of the code: mostly nothing, now and then a wait, a broken connection, or a crash with a restart."""

    WAIT, BREAK, CRASH = 0.02, 0.01, 0.001

    def __init__(self, world: World, counts: Counter[str], core: frozenset[str]) -> None:
        self._world, self._counts, self._core = world, counts, core
        self.is_over = False
        """Nobody is started again that was stopped meanwhile: it would live for ever."""
        self._rng = python_random(world.topology.run.seed, "interference")

    async def at(self, place: str) -> None:
        name, chance = NODE.get().partition("#")[0], self._rng.random()
        if not name:
            return
        if chance < self.CRASH and name not in self._core:
            self._counts[f"crash: {place}"] += 1
            self._world.disturb([name])
            self._world.crash(name)
            self._world.loop.call_later(self._rng.uniform(0.1, 5.0), self._restart, name, context=self._world.context)
            await asyncio.get_running_loop().create_future()  # the loop runs nothing of this node any more
        elif chance < self.CRASH + self.BREAK:
            self._counts[f"break: {place}"] += 1
            self._world.links.reset_all(self._world.nodes[name].peer)
        elif chance < self.CRASH + self.BREAK + self.WAIT:
            self._counts[f"wait: {place}"] += 1
            await asyncio.sleep(self._rng.expovariate(2.0))

    def _restart(self, name: str) -> None:
        if self.is_over:
            return
        asyncio.ensure_future(self._world.start(name))  # noqa: RUF006 - it returns at once


class _Statistics:
    def __init__(self, world: World, outcome: Outcome) -> None:
        self._world, self._outcome = world, outcome
        self._lives: set[str] = set()

    def event(self, stamped: Stamped) -> None:
        match stamped.event:
            case Faulted(verb=verb, what=what) if not what.startswith("end of") and verb not in ("start", "resume"):
                self._outcome.faults[what.split()[0]] += 1
            case Left(peer=peer, reason="silent"):
                lost = self._world.node_of(peer)
                if not lost.alive:
                    self._outcome.noticed_s.append(stamped.time - lost.died)
            case Exchanged():
                self._outcome.num_exchanges += 1
                node = self._world.nodes[stamped.node]
                if node.lives > 1 and node.life not in self._lives:
                    self._outcome.healed_s.append(stamped.time - node.born)
                self._lives.add(node.life)


def shrink(trial: Trial, fails: Callable[[Trial], bool]) -> Trial:
    """The same failure with as few faults as can be found by leaving out one after another."""
    calm = replace(trial, interference=False)
    smallest = calm if fails(calm) else trial
    for index in reversed(range(len(trial.topology.faults))):
        candidate = keep(smallest, [at for at in range(len(smallest.topology.faults)) if at != index])
        if fails(candidate):
            smallest = candidate
    return smallest


def keep(trial: Trial, indices: Sequence[int]) -> Trial:
    """With these of its faults only."""
    faults = tuple(trial.topology.faults[index] for index in indices)
    return replace(trial, topology=trial.topology.model_copy(update={"faults": faults}))


def _leaves(errors: BaseExceptionGroup) -> Iterator[BaseException]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
