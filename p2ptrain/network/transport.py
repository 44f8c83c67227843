"""The real `Transport`: grpc.aio with raw bytes in and out, one channel per peer, TLS pinned on both sides.

Whatever goes wrong in gRPC leaves this file as a `PeerError`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

import grpc
import grpc.aio
from grpc._cython import cygrpc  # the only place that names ExecuteBatchError

from p2ptrain.errors import ConfigError, PeerError
from p2ptrain.exchange.frames import MAX_FRAME_BYTES
from p2ptrain.network.allocator import give_back_freed_memory, keep_freed_memory
from p2ptrain.ports import Answer, Bytes, Contact, PeerId, Stream, StreamHandler

_COMMON_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
_SERVER_OPTIONS = [
    *_COMMON_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.max_metadata_size", 8192),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    # gRPC's own bandwidth probes count as pings too, and would get an idle peer disconnected ("too_many_pings").
    ("grpc.http2.max_ping_strikes", 0),
]
_CHANNEL_OPTIONS = [
    *_COMMON_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),  # a peer that comes back has a new certificate: no connection is shared
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # an attempt may take that long: four round trips and more
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
_MAX_CONCURRENT_CALLS = 256
_PEER_HEADER = "p2ptrain-peer"

_REASONS = {
    grpc.StatusCode.UNAVAILABLE: "unreachable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
    grpc.StatusCode.UNAUTHENTICATED: "refused",
    grpc.StatusCode.PERMISSION_DENIED: "refused",
    grpc.StatusCode.FAILED_PRECONDITION: "refused",
    grpc.StatusCode.UNIMPLEMENTED: "refused",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "oversized",
}


class Security(Protocol):
    """How connections are made safe: `network.tls.Credentials`, or `Cleartext` for networks that are trusted."""

    def server(self) -> grpc.ServerCredentials | None: ...

    def to_peer(
        self, peer: PeerId, certificate_der: bytes
    ) -> tuple[grpc.ChannelCredentials | None, list[tuple[str, Any]]]: ...

    def to_anyone(self) -> tuple[grpc.ChannelCredentials | None, list[tuple[str, Any]]]: ...

    def authenticate(self, pem: bytes) -> PeerId: ...


class Cleartext:
    """No TLS: callers are who they say they are."""

    def server(self) -> None:
        return None

    def to_peer(self, peer: PeerId, certificate_der: bytes) -> tuple[None, list[tuple[str, Any]]]:
        return None, []

    def to_anyone(self) -> tuple[None, list[tuple[str, Any]]]:
        return None, []

    def authenticate(self, pem: bytes) -> PeerId:
        raise PeerError("refused", "certificates mean nothing without TLS")


class GrpcTransport:
    """Serves and calls; see `ports.Transport`. `rejected` hears of callers (socket address, why) that were turned
    away."""

    def __init__(
        self,
        me: PeerId,
        security: Security,
        rejected: Callable[[str, PeerError], None],
        proxy: str | None = None,
    ) -> None:
        """`proxy`: host:port of an HTTP proxy to dial out through."""
        self._me = me
        self._options = [*_CHANNEL_OPTIONS, *([("grpc.http_proxy", f"http://{proxy}")] if proxy else [])]
        self._security = security
        self._rejected = rejected
        self._contacts: dict[PeerId, Contact] = {}
        self._channels: dict[PeerId, tuple[str, grpc.aio.Channel]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._methods: dict[str, grpc.RpcMethodHandler] = {}
        self._server: grpc.aio.Server | None = None
        self._encrypted = False

    def bind(self, listen: str) -> str:
        """Take host:port (port 0: a free one); the address bound. Raises `ConfigError` when it cannot be had.

        Nobody is answered before `start`: a caller waits rather than be told that a method does not exist."""
        self._server = grpc.aio.server(options=_SERVER_OPTIONS, maximum_concurrent_rpcs=_MAX_CONCURRENT_CALLS)
        self._server.add_generic_rpc_handlers((_Methods(self._methods),))
        credentials = self._security.server()
        self._encrypted = credentials is not None
        try:
            if credentials is None:
                port = self._server.add_insecure_port(listen)
            else:
                port = self._server.add_secure_port(listen, credentials)
        except RuntimeError:
            raise ConfigError(
                f"node.listen: {listen} cannot be bound: the port is in use or the address is not ours"
            ) from None
        return f"{listen.rpartition(':')[0]}:{port}"

    async def start(self) -> None:
        """Serve: the node is set up."""
        assert self._server is not None, "bind first"
        give_back_freed_memory()
        await self._server.start()

    async def close(self, grace_s: float = 1.0) -> None:
        """Let calls under way end within the grace period, then stop."""
        for peer in list(self._channels):
            self._drop_channel(peer)
        if self._server is not None:
            await self._server.stop(grace_s)
        if self._closing:
            await asyncio.wait(self._closing, timeout=grace_s)

    def learn(self, peer: PeerId, contact: Contact) -> None:
        if self._contacts.get(peer) != contact:
            self._drop_channel(peer)
            self._contacts[peer] = contact

    def forget(self, peer: PeerId) -> None:
        self._contacts.pop(peer, None)
        self._drop_channel(peer)

    def serve(self, method: str, handler: Answer) -> None:
        async def answer(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            try:
                return await handler(await self._caller(context), request)
            except PeerError as error:
                return await self._abort(context, error)

        self._methods[method] = grpc.unary_unary_rpc_method_handler(answer)  # type: ignore[arg-type]

    def serve_stream(self, method: str, handler: StreamHandler) -> None:
        async def answer(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            keep_freed_memory()
            try:
                await handler(_ServerStream(await self._caller(context), context))
            except PeerError as error:
                await self._abort(context, error)

        self._methods[method] = grpc.stream_stream_rpc_method_handler(answer)  # type: ignore[arg-type]

    async def call(self, peer: PeerId, method: str, request: bytes, timeout_s: float) -> bytes:
        with self._translated(peer):
            return await self._channel(peer).unary_unary(method)(request, timeout=timeout_s, metadata=self._metadata())

    async def greet(self, address: str, method: str, request: bytes, timeout_s: float) -> bytes:
        credentials, options = self._security.to_anyone()
        async with self._open(address, credentials, options) as channel:
            with self._translated(None):
                return await channel.unary_unary(method)(request, timeout=timeout_s, metadata=self._metadata())

    @asynccontextmanager
    async def stream(self, peer: PeerId, method: str, timeout_s: float) -> AsyncIterator[Stream]:
        keep_freed_memory()
        with self._translated(peer):
            call = self._channel(peer).stream_stream(method)(timeout=timeout_s, metadata=self._metadata())
            try:
                yield _ClientStream(peer, call)
            finally:
                call.cancel()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return ((_PEER_HEADER, self._me),)

    def _channel(self, peer: PeerId) -> grpc.aio.Channel:
        if peer not in self._channels:
            contact = self._contacts.get(peer)
            if contact is None or not contact.addresses:
                raise PeerError("unknown-peer", peer)
            credentials, options = self._security.to_peer(peer, contact.certificate)
            address = contact.addresses[0]
            self._channels[peer] = (address, self._open(address, credentials, options))
        return self._channels[peer][1]

    def _open(
        self, address: str, credentials: grpc.ChannelCredentials | None, options: list[tuple[str, Any]]
    ) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(address, options=[*self._options, *options])
        return grpc.aio.secure_channel(address, credentials, options=[*self._options, *options])

    def _drop_channel(self, peer: PeerId) -> None:
        _, channel = self._channels.pop(peer, ("", None))
        if channel is not None:
            task = asyncio.get_running_loop().create_task(channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _next_address(self, peer: PeerId) -> None:
        """After a failed connection, try the peer's next address."""
        contact = self._contacts.get(peer)
        if contact is not None and len(contact.addresses) > 1:
            self._contacts[peer] = Contact((*contact.addresses[1:], contact.addresses[0]), contact.certificate)
            self._drop_channel(peer)

    async def _caller(self, context: grpc.aio.ServicerContext[Any, Any]) -> PeerId:
        """Who calls; a caller that cannot prove it is reported and refused."""
        try:
            return self._identify(context)
        except PeerError as error:
            self._rejected(context.peer(), error)
            return await self._abort(context, error)

    def _identify(self, context: grpc.aio.ServicerContext[Any, Any]) -> PeerId:
        """What the caller's certificate proves; without TLS, what the caller says."""
        pem = list((context.auth_context() or {}).get("x509_pem_cert", ()))
        if pem:
            return self._security.authenticate(pem[0])
        if self._encrypted:
            raise PeerError("refused", "no client certificate")
        claimed = str(dict(context.invocation_metadata() or ()).get(_PEER_HEADER, ""))
        if len(claimed) != 32 or not set(claimed) <= set("0123456789abcdef"):
            raise PeerError("refused", "the caller does not say who it is")
        return PeerId(claimed)

    async def _abort(self, context: grpc.aio.ServicerContext[Any, Any], error: PeerError) -> Any:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error)[:200])

    @contextmanager
    def _translated(self, peer: PeerId | None) -> Iterator[None]:
        """gRPC's failures as `PeerError`."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            found = _failure(error.code(), error.details())
            if found.reason == "unreachable" and peer is not None:
                self._next_address(peer)
            raise found from None
        except (grpc.aio.UsageError, grpc.aio.InternalError) as error:
            raise PeerError("closed", str(error)[:200]) from None


def _failure(code: grpc.StatusCode, details: str | None) -> PeerError:
    """gRPC's status as what it means here, without gRPC's preamble."""
    details = (details or "").rpartition("last error: ")[2]
    if "handshake failed" in details:
        return PeerError("foreign-key", "the other side has another swarm key or run name")
    return PeerError(_REASONS.get(code, "closed"), details[:200])


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, methods: dict[str, grpc.RpcMethodHandler]) -> None:
        self._methods = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(handler_call_details.method)  # type: ignore[attr-defined]


class _ClientStream:
    def __init__(self, peer: PeerId, call: Any) -> None:
        self.peer = peer
        self._call = call

    async def send(self, message: Bytes) -> None:
        with _closed():
            await self._call.write(message)

    async def receive(self) -> Bytes:
        with _closed():
            message = await self._call.read()
        if message is _EOF:
            await self._raise_status()
        return message

    async def _raise_status(self) -> None:
        raise _failure(await self._call.code(), await self._call.details() or "the peer ended the call")


class _ServerStream:
    def __init__(self, peer: PeerId, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.peer = peer
        self._context = context

    async def send(self, message: Bytes) -> None:
        with _closed():
            await self._context.write(message)

    async def receive(self) -> Bytes:
        with _closed():
            message = await self._context.read()
        if message is _EOF:
            raise PeerError("closed", "the peer ended the call")
        return message


@contextmanager
def _closed() -> Iterator[None]:
    """What gRPC raises when a call has ended under a read or a write, at either end."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _failure(error.code(), error.details()) from None
    except (asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.InternalError, cygrpc.ExecuteBatchError):
        raise PeerError("closed", "the peer ended the call") from None
