"""Who this node is: an Ed25519 key that stays in its home folder. The peer id is its hash."""

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from p2ptrain.errors import ConfigError
from p2ptrain.ports import PeerId
from p2ptrain.swarm.records import is_signed, peer_id_of

FILE_NAME = "identity.pem"


@dataclass(frozen=True)
class Identity:
    """`load_or_create` for a node, `ephemeral` for a test."""

    private_key: Ed25519PrivateKey

    @property
    def public_key(self) -> bytes:
        """32 bytes, raw."""
        return self.private_key.public_key().public_bytes_raw()

    @property
    def peer(self) -> PeerId:
        return peer_id_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        return self.private_key.sign(message)

    @staticmethod
    def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
        return is_signed(public_key, message, signature)

    @staticmethod
    def ephemeral() -> "Identity":
        return Identity(Ed25519PrivateKey.generate())

    @staticmethod
    def load_or_create(home: Path) -> "Identity":
        """The key in `home`; a new one the first time. Two nodes that start there at once get the same key.

        Raises `ConfigError` for a file that is damaged or cannot be read or written: a new identity in its place
        would be another peer."""
        path = home / FILE_NAME
        try:
            if not path.exists():
                _create(path)
            return Identity(_parse(path.read_bytes(), path))
        except OSError as error:
            raise ConfigError(f"cannot use the identity file {path}: {error.strerror}") from None


def _parse(pem: bytes, path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path} is not a private key: restore it, or delete it to become a new peer") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} holds a {type(key).__name__}, not an Ed25519 key: delete it to become a new peer")
    return key


def _create(path: Path) -> None:
    """Write a new key; whoever looks sees no file or the whole one, and the first of two writers wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
