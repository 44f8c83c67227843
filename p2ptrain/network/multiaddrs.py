"""Addresses of DHT nodes as people write them: `/ip4/10.0.0.1/tcp/7001/p2p/12D3KooW...`. Checked before they are
used."""

import difflib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from p2ptrain.errors import ConfigError
from p2ptrain.swarm.records import is_address

EXAMPLE = "/ip4/10.0.0.1/tcp/7001/p2p/12D3KooW..."
_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")
_PEER = re.compile(r"(Qm|12D3KooW|16Uiu2HA)[1-9A-HJ-NP-Za-km-z]{38,50}")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Multiaddr:
    """Where a DHT node listens, and who it is."""

    location: str
    """`/ip4/10.0.0.1/tcp/7001`"""
    peer: str
    """Base58; the hash of its DHT key, which has nothing to do with the node's peer id."""

    def __str__(self) -> str:
        return f"{self.location}/p2p/{self.peer}"


def parse(text: str) -> Multiaddr:
    """Raises `ConfigError` that says which part is wrong."""
    parts = text.split("/")
    if parts[0] != "" or len(parts) != 7:
        raise ConfigError(f"{text!r} is not the address of a DHT node: write {EXAMPLE}")
    _, host_kind, host, transport, port, p2p, peer = parts
    _expect(text, host_kind, _HOSTS)
    _expect(text, transport, ("tcp",))
    _expect(text, p2p, ("p2p",))
    if not _is_host(host_kind, host):
        raise ConfigError(f"{text}: {host!r} is not an {host_kind} address")
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ConfigError(f"{text}: {port!r} is not a port")
    if not _PEER.fullmatch(peer):
        raise ConfigError(f"{text}: {peer!r} is not the id of a DHT node; it looks like 12D3KooW... or Qm...")
    return Multiaddr(f"/{host_kind}/{host}/{transport}/{port}", peer)


def of_listener(address: str, key: str) -> str:
    """host:port as the multiaddr to listen on; `key` is the setting's name, for the message."""
    host, _, port = address.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise ConfigError(f"{key}: {address!r}: write an IP address and a port, such as 0.0.0.0:7001") from None
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigError(f"{key}: {address!r}: {port!r} is not a port")
    return f"/ip{ip.version}/{ip}/tcp/{int(port)}"


def split_bootstrap(entries: Iterable[str]) -> tuple[list[str], list[str]]:
    """host:port of peers and multiaddrs of DHT nodes, told apart and checked. Raises `ConfigError`."""
    addresses, multiaddrs = [], []
    for entry in entries:
        if entry.startswith("/"):
            multiaddrs.append(str(parse(entry)))
        elif is_address(entry):
            addresses.append(entry)
        else:
            raise ConfigError(f"bootstrap: {entry!r} is neither host:port nor a DHT address such as {EXAMPLE}")
    return addresses, multiaddrs


def _expect(text: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        near = max(known, key=lambda candidate: difflib.SequenceMatcher(None, word, candidate).ratio())
        raise ConfigError(f"{text}: unknown part '/{word}/': did you mean '/{near}/'?")


def _is_host(kind: str, host: str) -> bool:
    if kind.startswith("dns"):
        return len(host) <= 253 and _NAME.fullmatch(host) is not None
    try:
        return ipaddress.ip_address(host).version == int(kind[2])
    except ValueError:
        return False
