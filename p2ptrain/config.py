"""What a person writes: strict models, errors with line and key.

RunConfig      what the swarm agrees on: task, strategy, codec, aggregator, length, data
NodeConfig     what is one machine's own: name, address, key, folder, device
NodeFile       run + graph + node: what `p2ptrain node --config` reads
Topology       a whole swarm, in `p2ptrain.topology`: what `p2ptrain up` reads
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue

from p2ptrain import aggregators, attacks, codecs, graphs, strategies
from p2ptrain.errors import ConfigError, Misplaced
from p2ptrain.registry import Named, explain, place_of
from p2ptrain.swarm.records import NAME, is_address
from p2ptrain.telemetry import own_broker
from p2ptrain.training import tasks
from p2ptrain.training.splits import Data


class Strict(BaseModel):
    """Frozen, and a key that nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _default(name: str, parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Options without a name are the default component's: `strategy: {rate: 0.1}`."""
    return lambda value: parse({"name": name, **value} if isinstance(value, dict) else value)


_PYTHON_FILE: JsonSchemaValue = {"type": "string", "pattern": r"\.py$"}

ATask = Annotated[
    SerializeAsAny[tasks.Task],
    BeforeValidator(tasks.parse),
    Named(tasks.registry, others=(_PYTHON_FILE, {"type": "object", "properties": {"name": _PYTHON_FILE}})),
]
AStrategy = Annotated[
    SerializeAsAny[strategies.Strategy],
    BeforeValidator(_default("gossip", strategies.parse)),
    Named(strategies.registry, "gossip"),
]
ACodec = Annotated[
    SerializeAsAny[codecs.Codec], BeforeValidator(_default("int8", codecs.parse)), Named(codecs.registry, "int8")
]
AnAggregator = Annotated[
    SerializeAsAny[aggregators.Aggregator],
    BeforeValidator(_default("mean", aggregators.parse)),
    Named(aggregators.registry, "mean"),
]
AnAttack = Annotated[SerializeAsAny[attacks.Attack], BeforeValidator(attacks.parse), Named(attacks.registry)]
AGraph = Annotated[SerializeAsAny[graphs.Graph], BeforeValidator(graphs.parse), Named(graphs.registry)]


def _address(text: str) -> str:
    if not is_address(text):
        raise ValueError("expected host:port")
    return text


def _listener(text: str) -> str:
    host, _, port = text.rpartition(":")
    _address(f"{host}:1" if port == "0" else text)
    return text


class RunConfig(Strict):
    """What all nodes of a swarm must agree on. Everything has a default except `task`."""

    task: ATask
    strategy: AStrategy = Field(default_factory=lambda: strategies.make("gossip"))
    codec: ACodec = Field(default_factory=lambda: codecs.make("int8"))
    aggregator: AnAggregator = Field(default_factory=lambda: aggregators.make("mean"))
    steps: int | None = Field(None, gt=0)
    """Each node's own training steps; None: until `seconds`, or for ever."""
    seconds: float | None = Field(None, gt=0)
    """Each node's own training time; whichever of the two comes first ends its training."""
    data: Data = Data()
    evaluate_every: float = Field(5.0, gt=0)
    """Seconds between evaluations on held-out data."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> "RunConfig":
        if reason := self.strategy.objection(self.codec, self.aggregator):
            raise Misplaced(("strategy",), reason)
        return self


def _check_broker(url: str) -> str:
    from p2ptrain.telemetry.mqtt_broker import check  # brings aiomqtt, which most nodes do without

    return check(url)


class NodeConfig(Strict):
    """One machine's own settings."""

    name: str = Field("node", pattern=NAME)
    slot: int = Field(0, ge=0, lt=1 << 20)
    """Which shard of the data, and which vertex of the graph, is this node's."""
    listen: Annotated[str, AfterValidator(_listener)] = "127.0.0.1:0"
    """host:port of the gRPC server; port 0 takes a free one."""
    announce: tuple[Annotated[str, AfterValidator(_address)], ...] = ()
    """host:port under which others reach this node; default: where it listens."""
    bootstrap: tuple[str, ...] = ()
    """Where to find the swarm: host:port of peers, or multiaddrs of DHT nodes, in any mix."""
    proxy: Annotated[str, AfterValidator(_address)] | None = None
    """host:port of an HTTP proxy that the node dials out through with CONNECT. gRPC leaves it out for hosts in the
    environment's `no_proxy`; the DHT's own connections never pass it."""
    key: str | None = Field(None, min_length=8)
    """The swarm key; None: the swarm is open to everyone."""
    tls: bool = True
    dht: bool = True
    """Run a DHT node; without one, peers are found through `bootstrap` and through each other."""
    dht_listen: Annotated[str, AfterValidator(_listener)] = "127.0.0.1:0"
    home: Path = Path("p2ptrain-home")
    """Identity, checkpoints and scratch files."""
    device: str = "auto"
    profile: str | None = None
    """A device profile; the node is slowed down to `speed`."""
    speed: float = Field(1.0, gt=0, le=1)
    """1: as fast as the machine goes; 0.25: training steps take four times as long."""
    step: float = Field(0.0, ge=0)
    """Seconds that a training step takes at least: a pace that does not depend on what else the machine does. Given for
    a whole swarm it is the fastest device's, and the simulator's too."""
    threads: int | None = Field(None, gt=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    heartbeat: float = Field(5.0, gt=0)
    """Seconds between heartbeats; a peer that misses three is gone."""
    checkpoint_every: float = Field(30.0, gt=0)
    """Seconds between checkpoints."""
    attack: AnAttack | None = None
    """What this node does instead of what it should: for trying out how much of that a swarm bears."""
    carrier: Literal["grpc", "mqtt", "both"] = "grpc"
    """How a method that can choose (`spsa`) reaches others: by calls, over the broker of `mqtt`, or both, as a bridge.
    With `mqtt` the node calls nobody."""
    mqtt: Annotated[str, AfterValidator(_check_broker)] | None = None
    """A broker to publish events at, `mqtt://user:password@host:port`. The password may come from the environment
    variable P2PTRAIN_MQTT_PASSWORD instead."""
    broker: Annotated[str, AfterValidator(own_broker.check)] | None = None
    """Be a broker for others, at host:port or user:password@host:port; without `mqtt`, it is this node's too. With a
    swarm key, members are let in by it, others by the password. Needs the extra `broker`."""

    @property
    def calls(self) -> bool:
        """Whether it calls others at all."""
        return self.carrier != "mqtt"


class NodeFile(Strict):
    """One daemon's whole configuration."""

    name: str = Field("swarm", pattern=NAME)
    run: RunConfig
    graph: AGraph | None = None
    node: NodeConfig = Field(default_factory=lambda: NodeConfig.model_validate({}))

    @model_validator(mode="after")
    def _check(self) -> "NodeFile":
        if reason := lacks_broker(self.run, self.node.carrier, self.node.mqtt or self.node.broker):
            raise Misplaced(("node", "carrier"), reason)
        if reason := lacks_graph(self.run, self.graph):
            raise Misplaced(("run", "strategy"), reason)
        if self.graph is not None and self.graph.schedule and self.run.steps is None and self.run.seconds is None:
            raise Misplaced(("run",), "give steps or seconds: the graph's schedule is in shares of the run")
        return self


def lacks_graph(run: RunConfig, graph: graphs.Graph | None) -> str | None:
    """What to say to a file without a graph whose strategy needs one."""
    if run.strategy.needs_graph and graph is None:
        return f"{run.strategy.name} needs a graph, such as `graph: {{kind: ring, n: 8}}` beside `run`"
    return None


def lacks_broker(run: RunConfig, carrier: str, broker: str | None) -> str | None:
    """What to say to a node that cannot speak over a broker, and is to."""
    if carrier == "grpc":
        return None
    if not run.strategy.speaks_over_channel:
        return f"{run.strategy.name} needs calls between peers; only spsa can do with a broker"
    return None if broker else "needs a broker: give node.mqtt, such as mqtt://broker:1883"


M = TypeVar("M", bound=BaseModel)


def load(path: Path, model: type[M], overrides: dict[str, Any] | None = None) -> M:
    """Read a YAML file into `model`. `overrides` maps dotted keys to values (`{"run.steps": 100}`).

    Raises `ConfigError`: one line with file, line, key and reason."""
    value, tree = _read(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected keys and values such as `run: {{task: digits}}`")
    if twice := _twice(tree):
        raise ConfigError(f"{path}:{twice.start_mark.line + 1}: {twice.value}: is given twice")
    for dotted, override in (overrides or {}).items():
        _set(value, dotted, override)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        loc = place_of(error.errors()[0])
        raise ConfigError(f"{path}:{_line(tree, loc)}: {explain(error)}") from None


@contextmanager
def placed(path: Path) -> Iterator[None]:
    """Whoever objects to something in a file that was loaded gets file, line and key put in front."""
    try:
        yield
    except Misplaced as error:
        key = ".".join(map(str, error.place))
        raise ConfigError(f"{path}:{_line(_read(path)[1], error.place)}: {key}: {error}") from None


def _read(path: Path) -> tuple[Any, yaml.Node | None]:
    """What is in a YAML file, and where in it."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{place}: not YAML: {getattr(error, 'problem', None) or error}") from None


def override(text: str) -> tuple[str, Any]:
    """`run.steps=100` as ("run.steps", 100); the value is YAML."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set wants key=value, got {text!r}")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {key}: {value!r} is not YAML") from None


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for key in parents:
        below = tree.get(key)
        if isinstance(below, str):  # `codec: int8` and --set run.codec.block=64
            below = {"name": below}
        if below is not None and not isinstance(below, dict):
            raise ConfigError(f"--set {dotted}: {key} is not a section")
        tree[key] = below = below or {}
        tree = below
    tree[last] = value


def _twice(tree: yaml.Node | None) -> yaml.ScalarNode | None:
    """A key that its mapping has already: YAML would silently take the last one."""
    waiting, seen = [tree], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias may lead back to where it stands
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            known = set[str]()
            for key, value in node.value:
                if key.value in known:
                    return key
                known.add(key.value)
                waiting.append(value)
    return None


def _line(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    """The line of the deepest part of `loc` that stands in the file."""
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            line, node = node.value[part].start_mark.line + 1, node.value[part]
    return line
