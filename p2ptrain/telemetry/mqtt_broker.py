"""An MQTT broker: where it is, how to connect to it and to notice that it is gone, when to try again."""

import logging
import os
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from aiomqtt import Client, TLSParameters, Will
from aiomqtt.exceptions import MqttConnectError

PASSWORD_VARIABLE = "P2PTRAIN_MQTT_PASSWORD"
TIMEOUT_S = 5.0
KEEPALIVE_S = 15
RETRY_S = (0.5, 30.0)
WINDOW = 20
"""Messages under way at once, as many as Mosquitto takes."""
MAX_INCOMING = 10_000
SOCKET_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)
"""Two writes in a row would wait for a delayed acknowledgement of TCP: 40 ms, for each message that is answered."""

_quiet = logging.getLogger("p2ptrain.mqtt")
_quiet.setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class Broker:
    """Where a broker is and how to be let in."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @staticmethod
    def parse(url: str) -> "Broker":
        """`mqtt://user:password@host:port`, or `mqtts`; a password that is left out comes from the environment.

        Raises `ValueError`."""
        expected = ValueError("expected mqtt://user:password@host:port or mqtts://..., with %-escapes in the password")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            host.encode("idna")
        except ValueError:  # what it says may tell a part of the password
            raise expected from None
        has_more = parts.path.strip("/") or parts.query or parts.fragment
        if parts.scheme not in ("mqtt", "mqtts") or not host or has_more or (parts.password and not parts.username):
            raise expected
        tls = parts.scheme == "mqtts"
        username = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else os.environ.get(PASSWORD_VARIABLE)
        return Broker(host, port or (8883 if tls else 1883), tls, username, password if username else None)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.tls else ''}://{host}:{self.port}"

    def client(self, identifier: str | None = None, will: Will | None = None) -> Client:
        """To be entered once: a connection that failed is closed by the keep-alive, and not used again."""
        client = Client(
            self.host, self.port, username=self.username, password=self.password, identifier=identifier, will=will,
            tls_params=TLSParameters() if self.tls else None, socket_options=SOCKET_OPTIONS,
            timeout=TIMEOUT_S, keepalive=KEEPALIVE_S, max_queued_incoming_messages=MAX_INCOMING, logger=_quiet,
        )  # fmt: skip
        client.pending_calls_threshold = WINDOW
        return client


def check(url: str) -> str:
    """For settings; raises `ValueError`."""
    Broker.parse(url)
    return url


def without_password(url: str) -> str:
    """For files that are shared."""
    parts = urlsplit(url)
    user, at, address = parts.netloc.rpartition("@")
    return parts._replace(netloc=user.partition(":")[0] + at + address).geturl()


def cause(error: Exception) -> str:
    """For a person: what the broker does, instead of what it should."""
    if isinstance(error, MqttConnectError):
        return f"refuses us ({error.rc}); look at the user name and the password"
    return f"does not answer ({error.__cause__ or error})"


async def until_lost(client: Client) -> None:
    """Raises `MqttError` as soon as the connection ends."""
    async for _ in client.messages:
        pass


def retry_delays(rng: random.Random) -> Iterator[float]:
    """Seconds between attempts: doubling, and random so that a swarm does not come back all at once."""
    delay = RETRY_S[0]
    while True:
        yield delay * rng.uniform(0.5, 1.0)
        delay = min(2 * delay, RETRY_S[1])
