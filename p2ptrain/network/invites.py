"""Invites: `p2ptrain://KEY@host:port,host:port/RUN`, all that a machine needs to join. An open swarm has no KEY."""

import base64
import binascii
import re
from dataclasses import dataclass

from p2ptrain.errors import ConfigError
from p2ptrain.swarm.records import NAME, is_address

SCHEME = "p2ptrain://"
ADDRESSES_MAX = 8
LENGTH_MAX = 4096


@dataclass(frozen=True)
class Invite:
    """What an invite says."""

    key: str | None
    addresses: tuple[str, ...]
    run: str

    def __str__(self) -> str:
        key = "" if self.key is None else base64.urlsafe_b64encode(self.key.encode()).decode().rstrip("=")
        return f"{SCHEME}{key}@{','.join(self.addresses)}/{self.run}"

    @staticmethod
    def parse(text: str) -> "Invite":
        """Raises `ConfigError` that says which part is wrong, and never shows the key."""
        text = text.strip()
        if not text.startswith(SCHEME) or len(text) > LENGTH_MAX:
            raise ConfigError(f"an invite starts with {SCHEME} and is one line: {SCHEME}KEY@host:port/RUN")
        key, at, rest = text[len(SCHEME) :].partition("@")
        if not at:
            raise ConfigError("the invite has no @ after its key; in an open swarm the key is empty but the @ is there")
        hosts, slash, run = rest.partition("/")
        if not slash or not re.fullmatch(NAME, run):
            raise ConfigError(f"the invite must end in /RUN, the name of the run; it ends in {run[:64]!r}")
        addresses = tuple(hosts.split(","))
        if len(addresses) > ADDRESSES_MAX:
            raise ConfigError(f"the invite has {len(addresses)} addresses; {ADDRESSES_MAX} at most")
        for address in addresses:
            if not is_address(address):
                raise ConfigError(f"the invite's address {address[:80]!r} is not host:port")
        return Invite(_decode_key(key), addresses, run)


def _decode_key(key: str) -> str | None:
    if not key:
        return None
    try:
        return base64.b64decode(key + "=" * (-len(key) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise ConfigError("the invite's key is damaged: copy the whole line again") from None
