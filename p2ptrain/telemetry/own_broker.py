"""Where a node is the broker of others, as `node.broker` says it: `host:port`, or `user:password@host:port`."""

from typing import NamedTuple

_HERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


class OwnAddress(NamedTuple):
    """Taken apart; `str` puts it together again."""

    login: str
    """`user:password`, with %-escapes, `user`, or nothing."""
    host: str
    port: int
    """0 is any that is free."""

    @staticmethod
    def parse(where: str) -> "OwnAddress":
        """Of what `check` has let pass."""
        login, _, address = where.rpartition("@")
        host, _, port = address.rpartition(":")
        return OwnAddress(login, host, int(port))

    def __str__(self) -> str:
        return f"{self.login}@{self.address}" if self.login else self.address

    @property
    def address(self) -> str:
        """host:port"""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """For the nodes of this machine."""
        return f"mqtt://{self._replace(host=_HERE.get(self.host, self.host))}"

    def without_password(self) -> "OwnAddress":
        """For files that are shared."""
        return self._replace(login=self.login.partition(":")[0])


def check(where: str) -> str:
    """For settings; raises `ValueError`."""
    from p2ptrain.telemetry.mqtt_broker import Broker  # brings aiomqtt, which most nodes do without

    expected = ValueError("expected host:port, such as 0.0.0.0:1883, or user:password@host:port")
    try:
        Broker.parse(f"mqtt://{where}")
        own = OwnAddress.parse(where)
    except ValueError:
        raise expected from None
    if not own.host:
        raise expected
    return where
