import stat
from pathlib import Path

import pytest

from p2ptrain.errors import ConfigError
from p2ptrain.network.identity import FILE_NAME, Identity
from p2ptrain.swarm.records import peer_id_of


def test_same_identity_at_every_start(tmp_path: Path) -> None:
    first = Identity.load_or_create(tmp_path / "home")
    again = Identity.load_or_create(tmp_path / "home")
    assert first.peer == again.peer == peer_id_of(first.public_key)
    assert len(first.peer) == 32
    path = tmp_path / "home" / FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [FILE_NAME]


def test_the_first_of_two_writers_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Identity.load_or_create(tmp_path)
    monkeypatch.setattr(Path, "exists", lambda self: False)  # the other one was faster by a hair
    assert Identity.load_or_create(tmp_path).peer == first.peer


def test_signatures() -> None:
    one, other = Identity.ephemeral(), Identity.ephemeral()
    signature = one.sign(b"message")
    assert Identity.verify(one.public_key, b"message", signature)
    assert not Identity.verify(one.public_key, b"massage", signature)
    assert not Identity.verify(other.public_key, b"message", signature)
    assert not Identity.verify(b"short", b"message", signature)
    assert not Identity.verify(one.public_key, b"message", b"")


RSA_LIKE = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEIA==\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("damage", [b"", b"nonsense", RSA_LIKE, "half"])
def test_a_damaged_key_is_never_replaced(tmp_path: Path, damage: bytes | str) -> None:
    Identity.load_or_create(tmp_path)
    path = tmp_path / FILE_NAME
    damaged = path.read_bytes()[:60] if isinstance(damage, str) else damage
    path.write_bytes(damaged)
    with pytest.raises(ConfigError, match=r"identity\.pem"):
        Identity.load_or_create(tmp_path)
    assert path.read_bytes() == damaged


def test_another_kind_of_key_is_named(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / FILE_NAME).write_bytes(pem)
    with pytest.raises(ConfigError, match="not an Ed25519 key"):
        Identity.load_or_create(tmp_path)


def test_a_home_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(ConfigError, match=r"home/identity\.pem"):
        Identity.load_or_create(tmp_path / "home")
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        Identity.load_or_create(tmp_path)
