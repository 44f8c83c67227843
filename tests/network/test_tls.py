"""Real gRPC servers and clients on loopback: who gets in, and who is taken for whom."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from p2ptrain.errors import PeerError
from p2ptrain.network import tls
from p2ptrain.network.identity import Identity
from p2ptrain.network.tls import Credentials
from p2ptrain.ports import PeerId

KEY, RUN = "the swarm's key", "run"
METHOD = "/p2ptrain.v1.Membership/Heartbeat"


def node(key: str | None = KEY, run: str = RUN) -> tuple[PeerId, Credentials]:
    identity = Identity.ephemeral()
    return identity.peer, Credentials(identity, key, run)


def forger(victim: PeerId, extension: bytes | None = None) -> Credentials:
    """A member whose certificate has the victim's name; vouched for by itself, or by a copied extension."""
    identity = Identity.ephemeral()
    forged = Credentials(identity, KEY, RUN)
    ca_key = tls._derive_ca_key(KEY, RUN)
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    extension = extension or tls._vouch(identity, leaf_key)
    leaf = tls._make_leaf(leaf_key, victim, extension, ca_key, tls._make_ca(ca_key))
    forged._certificate = leaf.public_bytes(Encoding.PEM)
    forged._key = leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return forged


@asynccontextmanager
async def serving(credentials: Credentials, run_as: Credentials | None = None) -> AsyncIterator[str]:
    """A server that replies with the peer id of its caller."""

    async def handler(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            (pem,) = (context.auth_context() or {})["x509_pem_cert"]
            return credentials.authenticate(pem).encode()
        except PeerError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.reason)
            raise

    service, _, name = METHOD[1:].partition("/")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {name: grpc.unary_unary_rpc_method_handler(handler)})]
    )
    port = server.add_secure_port("127.0.0.1:0", (run_as or credentials).server())
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def ask(address: str, credentials: grpc.ChannelCredentials, options: tls.Options) -> str:
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        return (await channel.unary_unary(METHOD)(b"", timeout=5)).decode()


async def refused(address: str, credentials: grpc.ChannelCredentials, options: tls.Options) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ask(address, credentials, options)
    return raised.value.code()


@pytest.mark.parametrize("key", [KEY, None])
async def test_members_know_each_other(key: str | None) -> None:
    callee, server = node(key)
    caller, client = node(key)
    async with serving(server) as address:
        assert await ask(address, *client.to_peer(callee, server.certificate_der)) == caller
        assert await ask(address, *client.to_anyone()) == caller


async def test_a_wrong_pin_is_refused() -> None:
    _, server = node()
    other, elsewhere = node()
    _, client = node()
    async with serving(server) as address:
        assert await refused(address, *client.to_peer(other, elsewhere.certificate_der)) == grpc.StatusCode.UNAVAILABLE


async def test_the_right_name_on_another_leaf_is_refused() -> None:
    """Nobody with the swarm key can pose as a peer whose record is known."""
    victim, real = node()
    _, client = node()
    async with serving(forger(victim)) as address:
        assert await refused(address, *client.to_peer(victim, real.certificate_der)) == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("stranger", [("another key", RUN), (KEY, "other-run"), (None, RUN)])
async def test_a_stranger_fails_the_handshake_both_ways(stranger: tuple[str | None, str]) -> None:
    callee, server = node()
    _, client = node(*stranger)
    async with serving(server) as address:
        # the stranger accepts the server, having its record, and is refused by it
        pinned = client.to_peer(callee, server.certificate_der)
        assert await refused(address, *pinned) == grpc.StatusCode.UNAVAILABLE
        assert await refused(address, *client.to_anyone()) == grpc.StatusCode.UNAVAILABLE
    async with serving(client) as address:
        assert await refused(address, *server.to_anyone()) == grpc.StatusCode.UNAVAILABLE


async def test_no_client_certificate_is_refused() -> None:
    _, server = node()
    async with serving(server) as address:
        anonymous = grpc.ssl_channel_credentials(server._ca)
        options: tls.Options = [("grpc.ssl_target_name_override", "p2ptrain")]
        assert await refused(address, anonymous, options) == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("copies", [False, True])
async def test_a_member_cannot_pose_as_another(copies: bool) -> None:
    victim = Identity.ephemeral()
    extension = tls._vouch(victim, ec.generate_private_key(ec.SECP256R1())) if copies else None
    _, server = node()
    async with serving(server) as address:
        code = await refused(address, *forger(victim.peer, extension).to_anyone())
        assert code == grpc.StatusCode.UNAUTHENTICATED


def test_nonsense_is_a_peer_error() -> None:
    _, credentials = node()
    certificate_without_extension = credentials._ca
    for pem in (b"", b"nonsense", credentials._certificate[:200], certificate_without_extension):
        with pytest.raises(PeerError, match="foreign-key"):
            credentials.authenticate(pem)


@pytest.mark.parametrize("certificate", [b"", b"nonsense", b"\x30" * 2000])
async def test_a_record_with_a_nonsense_certificate_reaches_nobody(certificate: bytes) -> None:
    callee, server = node()
    _, client = node()
    async with serving(server) as address:
        assert await refused(address, *client.to_peer(callee, certificate)) == grpc.StatusCode.UNAVAILABLE
