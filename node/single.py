"""`p2ptrain node` and `join`: one daemon in the foreground, as a person runs it or as the launcher does."""

import asyncio
import contextlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from node import resolve
from node.leash import Orders
from p2ptrain.config import NodeConfig, NodeFile, load
from p2ptrain.errors import ConfigError, PeerError
from p2ptrain.network.identity import Identity
from p2ptrain.network.invites import ADDRESSES_MAX, Invite
from p2ptrain.network.tls import Credentials
from p2ptrain.network.transport import GrpcTransport
from p2ptrain.registry import explain
from p2ptrain.swarm import describe
from p2ptrain.telemetry import sinks
from p2ptrain.topology import Topology

if TYPE_CHECKING:
    from p2ptrain.network.broker import OwnBroker
    from p2ptrain.telemetry.mqtt import Publisher


def from_options(options: dict[str, Any]) -> NodeFile:
    """A configuration from dotted keys alone."""
    tree: dict[str, Any] = {}
    for dotted, value in options.items():
        *parents, last = dotted.split(".")
        below = tree
        for key in parents:
            if isinstance(below.get(key), str):  # `--task digits --set run.task.hidden=32`
                below[key] = {"name": below[key]}
            below = below.setdefault(key, {})
            if not isinstance(below, dict):
                raise ConfigError(f"--set {dotted}: {key} is not a section")
        below[last] = value
    tree.setdefault("run", {})
    try:
        return NodeFile.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def from_invite(text: str, config: Path | None, options: dict[str, Any]) -> NodeFile:
    """An invite says where the swarm is and how to be let in; what it trains, the swarm says, unless `config` does."""
    found = Invite.parse(text)
    own = {"key": found.key, "bootstrap": found.addresses, "listen": f"{_own_address(found.addresses[0])}:0"}
    options = {"name": found.run, **{f"node.{key}": value for key, value in own.items()}, **options}
    identity = Identity.load_or_create(Path(options.get("node.home", NodeConfig.model_fields["home"].default)))
    if config:
        source = load(config, Topology if _is_topology(config) else NodeFile)
        described = source.model_dump(mode="json", include={"run", "graph"})
    elif "run.task" in options:
        described = {}
    else:
        described = asyncio.run(_ask(found, identity, options.get("node.proxy")))
    file = from_options({**described, **options})
    if "node.slot" not in options:  # any will do, but the same each time
        file = resolve.with_node(file, slot=int(identity.peer[:5], 16))
    return file


async def _ask(invite: Invite, identity: Identity, proxy: str | None) -> dict[str, Any]:
    """The run's configuration, from the first address of the invite that tells it."""
    credentials = Credentials(identity, invite.key, invite.run)
    transport = GrpcTransport(identity.peer, credentials, lambda caller, error: None, proxy)
    failures = []
    for address in invite.addresses:
        try:
            return await describe.ask(transport, address)
        except PeerError as error:
            failures.append(f"{address}: {error}")
    raise ConfigError(f"{'; '.join(failures)}; is one of them up? --config FILE or --task NAME joins without asking")


def _own_address(towards: str) -> str:
    """This machine's address on the way there; no packet is sent."""
    host, _, port = towards.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host.strip("[]"), int(port)))
        except OSError as error:
            raise ConfigError(f"{towards}: {error.strerror or error}") from None
        address = probe.getsockname()[0]
    return f"[{address}]" if ":" in address else address


def _is_topology(path: Path) -> bool:
    try:
        body = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False  # `load` says what is wrong
    return isinstance(body, dict) and bool({"nodes", "expect"} & body.keys())


def invite(path: Path, addresses: list[str]) -> str:
    """To the swarm of a node file, or of a folder that holds some: a node's home, a run."""
    files = [load(file, NodeFile) for file in sorted([*path.glob("node.yaml"), *path.glob("*/node.yaml")])]
    if not path.is_dir():
        files = [load(path, NodeFile)]
    if not files:
        raise ConfigError("no node.yaml in there")
    known = [address for file in files for address in (file.node.announce or (file.node.listen,))]
    usable = addresses or [address for address in known if not address.endswith(":0")]
    if not usable:
        raise ConfigError("node.listen: port 0 is known only once the node runs; give --address host:port")
    text = str(Invite(files[0].node.key, tuple(usable[:ADDRESSES_MAX]), files[0].name))
    Invite.parse(text)
    return text


def run(file: NodeFile, epoch_unix_s: float | None, as_json: bool, orders: Orders | None = None) -> int:
    """Until the daemon is done; its exit code."""
    return asyncio.run(_run(file, epoch_unix_s or time.time(), as_json, orders))


async def _run(file: NodeFile, epoch_unix_s: float, as_json: bool, orders: Orders | None) -> int:
    if as_json:
        lines = sinks.to_stdout()
        try:
            return await _run_node(file, epoch_unix_s, orders, lines)
        finally:
            lines.close()
            _forget_broken_stdout(lines)
    from node.shown import Shown  # brings rich, 4 MB that a node without a table can do without
    from node.up import ticking

    resolve.make_home(file.node)
    shown = Shown(file)
    log = sinks.to_file(file.node.home / f"events-{time.strftime('%Y%m%d-%H%M%S')}.jsonl")
    try:
        async with ticking(shown.refresh):
            return await _run_node(file, epoch_unix_s, orders, log, shown)
    finally:
        log.close()
        shown.close()


async def _run_node(file: NodeFile, epoch_unix_s: float, orders: Orders | None, *outputs: sinks.Output) -> int:
    """With its events going to these places, and to a broker when there is one; with a broker of its own around all."""
    from node.machine import run_node

    async with contextlib.AsyncExitStack() as stack:
        own = _own_broker(file)
        if own:
            file = resolve.with_node(file, mqtt=file.node.mqtt or own.where.url)
        publisher = _publisher(file)
        everywhere = sinks.FanOut([*outputs, publisher] if publisher else outputs)
        sink = sinks.Stamp(file.node.name, epoch_unix_s, everywhere)
        for runs in (own, publisher):
            if runs:
                await stack.enter_async_context(runs.running(sink.emit))
        return await run_node(file, sink, orders)


def _own_broker(file: NodeFile) -> "OwnBroker | None":
    """It has taken its port. Raises `ConfigError`."""
    if file.node.broker is None:
        return None
    from p2ptrain.network.broker import OwnBroker

    return OwnBroker(file.node.broker, file.node.key, file.name)


def _publisher(file: NodeFile) -> "Publisher | None":
    config = file.node
    if config.mqtt is None:
        return None
    from p2ptrain.network.broker.login import reached_at  # brings aiomqtt, which most nodes do without
    from p2ptrain.telemetry.mqtt import Publisher

    peer = Identity.load_or_create(config.home).peer
    return Publisher(reached_at(config.mqtt, config.key, file.name), file.name, peer, config.name, config.slot)


def _forget_broken_stdout(lines: sinks.Lines) -> None:
    """When the reader is gone, Python would complain about it once more at exit, and change the exit code."""
    if lines.error:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
