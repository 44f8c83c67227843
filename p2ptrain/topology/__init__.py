"""A topology file, which `p2ptrain up` reads: a swarm, its links, its faults, and what must hold in the end."""

import operator
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from p2ptrain.config import AGraph, AnAttack, NodeConfig, RunConfig, Strict, lacks_broker, lacks_graph
from p2ptrain.errors import Misplaced
from p2ptrain.registry import Like, place_of, reason_of
from p2ptrain.swarm.records import NAME
from p2ptrain.telemetry import own_broker
from p2ptrain.telemetry.own_broker import OwnAddress
from p2ptrain.topology.faults import AnyFault, Degrade, Place
from p2ptrain.topology.links import ONLY_SIMULATED, Link, Pair
from p2ptrain.topology.plan import Cast, Deed, plan
from p2ptrain.topology.quantities import Seconds
from p2ptrain.training import devices

Measure = Literal["accuracy", "loss", "gap", "consensus", "alive", "views"]


class Expectation(Strict):
    """`accuracy: ">= 0.93"`: a comparison that the finished run must satisfy."""

    relation: Literal[">=", "<=", ">", "<", "=="]
    bound: float

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:g}"

    def holds(self, got: float | None) -> bool:
        compare: dict[str, Callable[[float, float], bool]] = {
            ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq,
        }  # fmt: skip
        return got is not None and compare[self.relation](got, self.bound)

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, int | float):
            return {"relation": "==", "bound": value}
        if isinstance(value, str):
            found = re.fullmatch(r"\s*(>=|<=|==|>|<)\s*([-+0-9.eE]+)\s*", value)
            if not found:
                raise ValueError(f'write a comparison such as ">= 0.93", not {value!r}')
            return {"relation": found[1], "bound": found[2]}
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        comparison = {"type": "string", "pattern": r"^\s*(>=|<=|==|>|<)\s*[-+0-9.eE]+\s*$", "examples": [">= 0.93"]}
        return {"description": cls.__doc__, "anyOf": [{"type": "number"}, comparison]}


class NodeGroup(Strict):
    """`count` nodes alike."""

    count: int = Field(1, gt=0, le=10_000)
    name: str | None = Field(None, pattern=NAME)
    """Default: `node-<slot>`; with a count above one, `<name>-<n>`."""
    device: Annotated[str, AfterValidator(devices.check_profile)] = "this-machine"
    """A device profile: how fast the node is, relative to the fastest of the file."""
    site: str = Field("local", pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    attack: AnAttack | None = None
    """These nodes lie."""
    carrier: Literal["grpc", "mqtt", "both"] | None = None
    """How these reach others, if not as `node.carrier` says."""
    broker: Annotated[str, AfterValidator(own_broker.check)] | None = None
    """This node is the broker of all, at host:port or user:password@host:port, unless `node.mqtt` names another."""
    starts: Seconds = 0.0
    """When, in seconds of the run's clock: a late joiner."""

    @property
    def profile(self) -> devices.Profile:
        return devices.PROFILES[self.device]


class Simulation(Strict):
    """What only the simulator has to be told."""

    step: Seconds = Field(0.02, gt=0)
    """How long a training step takes the fastest device of the file; default: what `node.step` says, if it does."""
    members: Literal["heartbeats", "table"] = "heartbeats"
    """How nodes know of each other: as in the other runtimes, or, for thousands of nodes, from one table."""


class Topology(Strict):
    """A swarm to bring up."""

    name: str = Field("swarm", pattern=NAME)
    run: RunConfig
    graph: AGraph | None = None
    """Who talks to whom; None: everyone to everyone."""
    nodes: tuple[NodeGroup, ...] = (NodeGroup.model_validate({"count": 4}),)
    node: Annotated[dict[str, Any], Like(NodeConfig)] = Field({})
    """Settings of `NodeConfig` for every node, e.g. `heartbeat: 1`."""
    links: dict[str, Link] = Field({})
    """By `default`, site (`eu`), or two sites (`eu-us`, both ways; `eu>us`, one way). Later words win."""
    faults: tuple[AnyFault, ...] = ()
    expect: dict[Measure, Expectation] = Field({})
    """`accuracy`, `loss`, `gap`: the worst honest node's; `views`: into how many separate views the living fall."""
    simulation: Simulation = Field(default_factory=lambda: Simulation.model_validate({}))

    @property
    def num_nodes(self) -> int:
        return sum(group.count for group in self.nodes)

    def members(self) -> list[tuple[str, NodeGroup]]:
        """(name, group) of each node in order of slots."""
        found: list[tuple[str, NodeGroup]] = []
        for group in self.nodes:
            for index in range(group.count):
                base = group.name or f"node-{len(found)}"
                found.append((f"{base}-{index}" if group.name and group.count > 1 else base, group))
        return found

    def carrier(self, group: NodeGroup) -> str:
        return group.carrier or self.node.get("carrier", "grpc")

    @property
    def mqtt(self) -> str | None:
        """Where all nodes find a broker: what `node.mqtt` says, or at the first of them that is one."""
        own = next((f"mqtt://{group.broker}" for group in self.nodes if group.broker), None)
        return self.node.get("mqtt") or own

    @property
    def door(self) -> int | None:
        """The slot of the first node that can be called."""
        carriers = [self.carrier(group) for _, group in self.members()]
        return next((slot for slot, carrier in enumerate(carriers) if carrier != "mqtt"), None)

    @property
    def attackers(self) -> list[str]:
        return [name for name, group in self.members() if group.attack is not None]

    @cached_property
    def cast(self) -> Cast:
        return Cast({name: group.site for name, group in self.members()})

    def plan(self) -> list[Deed]:
        """What is done to the swarm, in order of time."""
        return plan(self.faults, self.cast, self.run.seed)

    def link(self, pair: Pair) -> Link:
        """What lies between two nodes while there is no fault."""
        one, other = (self.cast.site(name) for name in pair)
        keys = ["default", *([one] if one == other else [f"{one}-{other}", f"{other}-{one}", f"{one}>{other}"])]
        settings = [self.links[key].model_dump(exclude_unset=True) for key in keys if key in self.links]
        return Link(**{key: value for setting in settings for key, value in setting.items()})

    def only_simulated(self) -> Iterator[Place]:
        """Where it asks for what no real connection does."""
        links: list[tuple[Place, Link]] = [(("links", key), link) for key, link in self.links.items()]
        degraded = ((index, fault) for index, fault in enumerate(self.faults) if isinstance(fault, Degrade))
        links += [(("faults", index, "link"), fault.link) for index, fault in degraded]
        for place, link in links:
            yield from ((*place, field) for field in ONLY_SIMULATED if getattr(link, field))

    @model_validator(mode="before")
    @classmethod
    def _one_pace(cls, value: Any) -> Any:
        """A pace that is given for real nodes is that of the simulated ones too."""
        node, simulation = (value.get(key, {}) for key in ("node", "simulation")) if isinstance(value, dict) else (0, 0)
        step = node.get("step") if isinstance(node, dict) else None
        if not isinstance(step, int | float) or not step > 0 or not isinstance(simulation, dict):
            return value  # whatever is wrong with these is found where they are
        return {**value, "simulation": {"step": step, **simulation}}

    @model_validator(mode="after")
    def _consistent(self) -> "Topology":
        for place, reason in self._contradictions():
            raise Misplaced(place, reason)
        return self

    def _contradictions(self) -> Iterator[tuple[Place, str]]:
        if reason := lacks_graph(self.run, self.graph):
            yield ("run", "strategy"), reason
        names = [name for name, _ in self.members()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            yield ("nodes",), f"two nodes are named {twice[0]}"
        for index, group in enumerate(self.nodes):
            taken = {**dict.fromkeys(names, "a node"), "all": "all nodes", "default": "all links"}
            if group.site in taken:
                yield ("nodes", index, "site"), f"in faults and links {group.site} means {taken[group.site]} already"
        if "all" in names:
            yield ("nodes",), "no node can be named all: in faults it means everyone"
        if self.graph is not None and self.graph.num_nodes != len(names):
            yield ("graph",), f"graph has {self.graph.num_nodes} vertices for {len(names)} nodes"
        if self.run.steps is None and self.run.seconds is None:
            yield ("run",), "give steps or seconds, or the swarm never ends"
        try:
            NodeConfig.model_validate({"name": names[0], **self.node})
        except ValidationError as error:
            wrong = error.errors()[0]
            yield ("node", *place_of(wrong)), reason_of(wrong)
        yield from self._without_a_broker()
        yield from self._contradictions_in_brokers()
        yield from self._too_many_liars()
        yield from self._contradictions_in_links()
        yield from self._contradictions_in_faults()

    def _without_a_broker(self) -> Iterator[tuple[Place, str]]:
        for index, group in enumerate(self.nodes):
            if reason := lacks_broker(self.run, self.carrier(group), self.mqtt):
                place = ("node", "carrier") if group.carrier is None else ("nodes", index, "carrier")
                yield place, reason

    def _contradictions_in_brokers(self) -> Iterator[tuple[Place, str]]:
        if self.node.get("broker") is not None:
            yield ("node", "broker"), "is for one node only: write it into that node's group, under `nodes`"
        taken = set[str]()
        for index, group in enumerate(self.nodes):
            if not group.broker:
                continue
            own = OwnAddress.parse(group.broker)
            if group.count > 1:
                yield ("nodes", index, "broker"), f"is for one node only, and these are {group.count}"
            if own.address in taken:
                yield ("nodes", index, "broker"), f"two nodes have the same address, {own.address}"
            if own.port:
                taken.add(own.address)

    def _too_many_liars(self) -> Iterator[tuple[Place, str]]:
        borne = self.run.aggregator.borne
        liars = [group.attack is not None for _, group in self.members()]
        if all(liars):
            yield ("nodes",), "all nodes lie; leave at least one without an attack"
        for slot, (name, group) in enumerate(self.members()):
            epochs = [graph.neighbours(slot) for graph in self.graph.epochs] if self.graph else [range(len(liars))]
            met = max(sum(liars[other] for other in others if other != slot) for others in epochs)
            if borne is not None and group.attack is None and met > borne:
                rule = self.run.aggregator.name
                yield (
                    ("run", "aggregator"),
                    f"{name} has {met} lying neighbours, and {rule} with f: {borne} bears {borne}",
                )
                return

    def _contradictions_in_links(self) -> Iterator[tuple[Place, str]]:
        sites = {group.site for group in self.nodes}
        for key in self.links:
            ends = [] if key == "default" else re.split("[->]", key)
            unknown = [site for site in ends if site not in sites]
            if unknown:
                yield ("links", key), f"no node is at site {unknown[0]!r}; the sites are {', '.join(sorted(sites))}"
            if len(ends) > 2 or (len(ends) == 2 and ends[0] == ends[1]):
                yield ("links", key), f"lies not between two sites; write {ends[0]} for the links within it"
            if "-" in key and f"{ends[1]}-{ends[0]}" in list(self.links)[: list(self.links).index(key)]:
                yield ("links", key), f"is the same as {ends[1]}-{ends[0]}; for one way write {ends[0]}>{ends[1]}"

    def _contradictions_in_faults(self) -> Iterator[tuple[Place, str]]:
        for index, fault in enumerate(self.faults):
            try:
                fault.check(self.cast)
            except Misplaced as error:
                yield ("faults", index, *error.place), str(error)
