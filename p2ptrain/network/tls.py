"""Mutual TLS between peers that know each other by their keys.

    swarm CA       a P-256 key derived from the swarm key: every member can make it, no stranger can
    leaf           made at every start, signed by the swarm CA: whoever shows one is a member of the swarm
    extension      the node's Ed25519 key and its signature over the leaf's key: says *which* member (libp2p's
                   idea); without it any member could call itself anything
    pin            a connection to a known peer trusts the exact leaf of its signed record and nothing else

In an open swarm the CA comes from a public constant: the connection is encrypted and peers still know each other, but
everyone is let in. gRPC refuses Ed25519 certificates (NO_COMMON_SIGNATURE_ALGORITHMS), hence the two keys.
"""

import datetime
import ssl
from functools import lru_cache
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2ptrain.errors import PeerError
from p2ptrain.network.identity import Identity
from p2ptrain.ports import PeerId
from p2ptrain.swarm.records import is_signed, peer_id_of, swarm_secret

Options = list[tuple[str, Any]]

EXTENSION = x509.ObjectIdentifier("2.25.303371040206397758332934190710210101112")  # a UUID: no registration needed
_PREFIX = b"p2ptrain-certificate-v1"
_OCTETS = b"\x04\x60"  # DER: an octet string of 96 bytes, a public key and a signature
_OPEN = "p2ptrain-open-swarm-v1: everyone knows this key"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
_CA_FROM = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_CA_UNTIL = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)


class Credentials:
    """One node's keys for TLS: what its server shows and demands, and whom its calls trust."""

    def __init__(self, identity: Identity, swarm_key: str | None, run: str) -> None:
        ca_key = _derive_ca_key(swarm_key, run)
        ca = _make_ca(ca_key)
        leaf_key = ec.generate_private_key(ec.SECP256R1())
        leaf = _make_leaf(leaf_key, identity.peer, _vouch(identity, leaf_key), ca_key, ca)
        self.certificate_der = leaf.public_bytes(Encoding.DER)
        self._certificate = leaf.public_bytes(Encoding.PEM)
        self._key = leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._ca = ca.public_bytes(Encoding.PEM)

    def server(self) -> grpc.ServerCredentials:
        """Lets in who shows a leaf of this swarm; who it is, `authenticate` tells for each call."""
        return grpc.ssl_server_credentials([(self._key, self._certificate)], self._ca, require_client_auth=True)

    def to_peer(self, peer: PeerId, certificate_der: bytes) -> tuple[grpc.ChannelCredentials, Options]:
        """For a channel to a peer whose record is known: nobody else can answer."""
        return self._channel(ssl.DER_cert_to_PEM_cert(certificate_der).encode(), f"{peer}.p2ptrain")

    def to_anyone(self) -> tuple[grpc.ChannelCredentials, Options]:
        """For a channel to an address: some member of the swarm answers."""
        return self._channel(self._ca, "p2ptrain")

    def authenticate(self, pem: bytes) -> PeerId:
        """Whose certificate `context.auth_context()["x509_pem_cert"][0]` is. Raises `PeerError("foreign-key")`."""
        return _owner(pem)

    def _channel(self, root: bytes, name: str) -> tuple[grpc.ChannelCredentials, Options]:
        return (
            grpc.ssl_channel_credentials(root, self._key, self._certificate),
            [("grpc.ssl_target_name_override", name)],
        )


@lru_cache(maxsize=1024)
def _owner(pem: bytes) -> PeerId:
    """TLS has proved that the caller holds the leaf's key; here the leaf's key proves that a peer vouches for it."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        extension = certificate.extensions.get_extension_for_oid(EXTENSION).value
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        key_der = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise PeerError("foreign-key", f"certificate names no peer: {error}") from None
    assert isinstance(extension, x509.UnrecognizedExtension)
    public_key, signature = extension.value[2:34], extension.value[34:]
    if extension.value[:2] != _OCTETS or not is_signed(public_key, _PREFIX + key_der, signature):
        raise PeerError("foreign-key", "certificate is not signed by the peer that it names")
    peer = peer_id_of(public_key)
    if [name.value for name in names] != [peer]:
        raise PeerError("foreign-key", f"certificate of {peer} calls itself {names[:1]}")
    return peer


def _derive_ca_key(swarm_key: str | None, run: str) -> ec.EllipticCurvePrivateKey:
    secret = swarm_secret(_OPEN if swarm_key is None else swarm_key, "certificate-authority")
    # 16 bytes more than the order has, so that the remainder is even (FIPS 186-5, A.2.1)
    seed = HKDF(hashes.SHA256(), length=48, salt=None, info=run.encode()).derive(secret)
    return ec.derive_private_key(int.from_bytes(seed, "big") % (_ORDER - 1) + 1, ec.SECP256R1())


def _make_ca(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Only its name and key matter to those who trust it, and these are the same on every node."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "p2ptrain swarm")])
    builder = _builder(name, name, key.public_key(), _CA_FROM, _CA_UNTIL)
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(
        key, hashes.SHA256()
    )


def _vouch(identity: Identity, leaf_key: ec.EllipticCurvePrivateKey) -> bytes:
    """The extension: this peer says that the leaf's key is its own."""
    key_der = leaf_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _OCTETS + identity.public_key + identity.sign(_PREFIX + key_der)


def _make_leaf(
    key: ec.EllipticCurvePrivateKey,
    peer: PeerId,
    extension: bytes,
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, peer)])
    # a day in the past: clocks differ
    builder = _builder(
        subject, ca.subject, key.public_key(), now - datetime.timedelta(days=1), now + datetime.timedelta(days=3650)
    )
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.SubjectAlternativeName([x509.DNSName(f"{peer}.p2ptrain"), x509.DNSName("p2ptrain")]), False),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (x509.UnrecognizedExtension(EXTENSION, extension), False),
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(ca_key, hashes.SHA256())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    valid_from: datetime.datetime,
    valid_until: datetime.datetime,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(valid_from).not_valid_after(valid_until)
