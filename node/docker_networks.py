"""The networks of a swarm's containers: one per site, and where there are several sites, one between them.

Those of one site reach each other in their site's network, all others in the one between. No router: where the host
filters bridges, packets of a foreign subnet get lost or rewritten on their way.
"""

import contextlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from node.docker_engine import DockerError, docker
from p2ptrain.errors import ConfigError
from p2ptrain.topology import Topology

BETWEEN = "between-sites"  # no site is called that
TRIES = 5
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Leg:
    """A node in a network."""

    network: str
    address: str


class Networks:
    def __init__(self, topology: Topology, swarm: str, label: str) -> None:
        """`swarm` starts the names of all of them."""
        self._swarm, self._label = swarm, label
        self._sites = {name: group.site for name, group in topology.members()}
        self._legs: dict[str, list[Leg]] = {name: [] for name in self._sites}

    async def make(self) -> None:
        """Raises `ConfigError` when the engine has no room for them."""
        sites = list(dict.fromkeys(self._sites.values()))
        for site in sites:
            await self._make(site, [name for name, where in self._sites.items() if where == site])
        if len(sites) > 1:
            await self._make(BETWEEN, list(self._sites))

    def legs(self, name: str) -> list[Leg]:
        """The one in its site first."""
        return self._legs[name]

    def paths(self, one: str, other: str) -> Iterator[tuple[Leg, str]]:
        """The legs on which the other can be reached, the one to take first, and at which address."""
        theirs = {leg.network: leg.address for leg in self._legs[other]}
        for leg in self._legs[one]:
            if leg.network in theirs:
                yield leg, theirs[leg.network]

    def hosts(self, name: str) -> dict[str, str]:
        """Where it finds the others."""
        return {other: next(self.paths(name, other))[1] for other in self._legs if other != name}

    async def _make(self, suffix: str, names: list[str]) -> None:
        network = f"{self._swarm}-{suffix}"
        subnet = await self._create(network)
        if subnet.num_addresses < len(names) + 3:
            raise ConfigError(f"--runtime docker: the engine's networks have no room for {len(names)} nodes: {subnet}")
        hosts = subnet.hosts()
        next(hosts)  # the bridge
        for name, address in zip(names, hosts, strict=False):
            self._legs[name].append(Leg(network, str(address)))

    async def _create(self, network: str) -> Subnet:
        """With the subnet that the engine would choose, but said by us: only then can nodes be given addresses."""
        create = ["network", "create", "--label", self._label]
        for _ in range(TRIES):
            await docker(*create, network)
            subnet = await docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", network)
            await docker("network", "rm", network)
            with contextlib.suppress(DockerError):  # somebody else was given it in between
                await docker(*create, "--subnet", subnet, network)
                return ipaddress.ip_network(subnet)
        raise DockerError("network create: others take every subnet first; stop them, or wait, and try again")
