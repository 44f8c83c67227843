"""From a topology to the configuration of each of its daemons; what can be wrong with it is found beforehand."""

import os
import secrets
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import yaml

from p2ptrain.config import NodeConfig, NodeFile
from p2ptrain.errors import ConfigError, Misplaced
from p2ptrain.telemetry.own_broker import OwnAddress
from p2ptrain.topology import Topology
from p2ptrain.training import devices, splits
from p2ptrain.training.optimizers import make_optimizer

OWN = ("name", "slot", "home", "profile", "speed", "attack")
"""Settings that differ from node to node: `up` chooses them."""
INSTEAD = "`loss` delays what TCP sends again, and `reset` breaks connections"
LEFTOVERS = ("topology.yaml", "events.jsonl", "summary.json")


def check(topology: Topology) -> None:
    """What the file alone cannot tell: this machine's devices, the task's data, the optimizer. Raises `ConfigError`."""
    for key in OWN:
        if key in topology.node:
            raise ConfigError(f"node.{key}: every node has its own, and `up` chooses it; leave it out")
    run = topology.run
    devices.pick(topology.node.get("device", "auto"))
    splits.examples(run.task.labels(), run.data, run.data.shards or topology.num_nodes, 0, run.seed)
    make_optimizer(torch.nn.Linear(1, 1), run.strategy.optimizer or run.task.optimizer, 0.1, run.strategy.options)


def models_links(topology: Topology) -> bool:
    """Whether it says anything of what lies between nodes."""
    return bool(topology.links) or any(deed.pairs for deed in topology.plan())


def check_real(topology: Topology) -> None:
    """That processes and real connections can do what it asks for. Raises `Misplaced`."""
    for place in topology.only_simulated():
        raise Misplaced(place, f"only `--runtime sim` can: no TCP connection does such a thing; {INSTEAD}")
    if models_links(topology) and "proxy" in topology.node:
        raise Misplaced(("node", "proxy"), "the links of this file need proxies of their own; leave it out")


def prepare(out: Path) -> None:
    """Make the folder of the run. Raises `ConfigError` when it cannot be, or when a run is in there already."""
    for name in LEFTOVERS:
        if (out / name).exists():
            raise ConfigError(f"--out {out}: there is a run in it already; choose another folder or remove it")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}") from None


def make_home(node: NodeConfig) -> None:
    """Raises `ConfigError`."""
    try:
        node.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"node.home: {node.home}: {error.strerror}") from None


def node_files(topology: Topology, out: Path) -> dict[str, NodeFile]:
    """The configuration of each node, by name, in order of slots. Raises `ConfigError` for an address that is taken."""
    members = topology.members()
    with ExitStack() as held:
        addresses = _addresses(held, topology.node.get("listen", "127.0.0.1:0"), len(members))
        brokers = [_own_broker(held, group.broker) if group.broker else None for _, group in members]
    speeds = devices.relative_speeds([group.device for _, group in members])
    shared = {"key": secrets.token_urlsafe(24), "threads": _threads(len(members)), **topology.node}
    if found := [broker for broker in brokers if broker]:
        shared = {"mqtt": found[0].url, **shared}
    shards = topology.run.data.shards or len(members)
    run = topology.run.model_copy(update={"data": topology.run.data.model_copy(update={"shards": shards})})
    files = {}
    for slot, (name, group) in enumerate(members):
        door = [addresses[topology.door]] if topology.door not in (None, slot) else []
        bootstrap = [*shared.get("bootstrap", ()), *door] if topology.carrier(group) != "mqtt" else []
        own = {
            "name": name, "slot": slot, "home": out.absolute() / name, "listen": addresses[slot],
            "bootstrap": bootstrap, "profile": group.device, "speed": speeds[slot], "attack": group.attack,
            "step": shared.get("step", 0.0) / speeds[slot], "carrier": topology.carrier(group),
            "broker": str(brokers[slot]) if brokers[slot] else None,
        }  # fmt: skip
        settings = {"name": topology.name, "run": run, "graph": topology.graph, "node": {**shared, **own}}
        files[name] = NodeFile.model_validate(settings)
    return files


def _threads(num_nodes: int) -> int | None:
    """Many nodes on few cores are faster when each keeps to one."""
    return 1 if num_nodes > (os.cpu_count() or 1) / 2 else None


def _addresses(held: ExitStack, listen: str, num: int) -> list[str]:
    """Free host:port for each node: any for port 0, else consecutive ones. All are held until all are found."""
    host, _, port = listen.rpartition(":")
    if int(port) + num > 65536:
        raise ConfigError(f"node.listen: {listen}: there are not {num} ports from there on")
    found = []
    for index in range(num):
        wanted = int(port) + index if int(port) else 0
        found.append(f"{host}:{_bind(held, 'node.listen', host, wanted)}")
    return found


def _own_broker(held: ExitStack, where: str) -> OwnAddress:
    """With a port that is free."""
    own = OwnAddress.parse(where)
    return own._replace(port=_bind(held, "broker", own.host, own.port))


def _bind(held: ExitStack, key: str, host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    probe = held.enter_context(socket.socket(family))
    try:
        probe.bind((host.strip("[]"), port))
    except OSError as error:
        raise ConfigError(f"{key}: {host}:{port}: {error.strerror or error}") from None
    return probe.getsockname()[1]


def with_node(file: NodeFile, **settings: Any) -> NodeFile:
    """The file with other settings of the node's own."""
    return file.model_copy(update={"node": file.node.model_copy(update=settings)})


def dump(model: Topology | NodeFile) -> str:
    """The effective configuration as YAML that can be read back. A topology's is for sharing: it tells no key, and no
    password."""
    body: dict[str, Any] = model.model_dump(mode="json")
    if isinstance(model, Topology):
        body["expect"] = {what: str(want) for what, want in model.expect.items()}
        body["node"].pop("key", None)
        if body["node"].get("mqtt"):
            from p2ptrain.telemetry.mqtt_broker import without_password  # brings aiomqtt, which most nodes do without

            body["node"]["mqtt"] = without_password(body["node"]["mqtt"])
        for group in body["nodes"]:
            if group["broker"]:
                group["broker"] = str(OwnAddress.parse(group["broker"]).without_password())
    return yaml.safe_dump(body, sort_keys=False, allow_unicode=True)


def save(path: Path, model: Topology | NodeFile) -> None:
    """Readable by its owner only: a node's file holds the swarm key."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(dump(model))
