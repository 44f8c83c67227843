"""Whatever a peer sends or leaves out: it is refused and counted, nothing of it stays, and others can swap at once."""

import asyncio
import contextlib
import gc
import math
import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
import torch
from bad_peers import CHUNK, NUM_CHUNKS, Call, Honest, Liar, Served

from p2ptrain import pace
from p2ptrain.errors import PeerError
from p2ptrain.exchange import decisions
from p2ptrain.exchange.decisions import MAX_DOUBTS, RESOLVE
from p2ptrain.exchange.frames import MAX_FRAME_BYTES
from p2ptrain.exchange.talk import MAX_CHUNK_SIZE
from p2ptrain.wire.exchange_pb2 import Chunk, Commit, Done, Open, Ready, Refuse, ResolveReply, SwapMessage

Attack = Callable[[Call], Awaitable[None]]
Ambush = Callable[[Served], Awaitable[None]]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience of well under a second."""
    monkeypatch.setattr(pace, "FIRST_S", 0.5)
    monkeypatch.setattr(pace, "FLOOR_S", 0.5)
    monkeypatch.setattr(decisions, "GONE_S", 0.2)


@pytest.fixture
async def victim() -> AsyncIterator[Honest]:
    node = Honest(0)
    await node.start()
    yield node
    await node.close()


@pytest.fixture
async def friend(victim: Honest) -> AsyncIterator[Honest]:
    node = Honest(1)
    await node.start()
    node.meet(victim)
    victim.meet(node)
    yield node
    await node.close()


@pytest.fixture
async def liar() -> AsyncIterator[Liar]:
    peer = Liar()
    yield peer
    await peer.close()


async def still_well(victim: Honest, friend: Honest) -> None:
    """Nobody holds the replica, and swaps work both ways."""
    assert victim.is_free()
    for one, other in ((friend, victim), (victim, friend)):
        before = one.swaps(other.me), other.swaps(one.me)
        middle = (one.replica.snapshot() + other.replica.snapshot()) / 2
        await one.exchanger.swap(other.me)
        await other.until(lambda other=other, one=one, before=before: other.swaps(one.me) > before[1])
        for node in (one, other):
            node.replica.settle()
            assert torch.allclose(node.replica.flat, middle, atol=1e-6)


def floats(*values: float) -> bytes:
    """A chunk that begins with these."""
    return struct.pack("<4f", *values) + bytes(4 * CHUNK - 16)


def after_open(*messages: SwapMessage | bytes) -> Attack:
    async def attack(call: Call) -> None:
        await call.open()
        await call.hear("open")
        for message in messages:
            await call.say(message)

    return attack


def opening(**changes: Any) -> Attack:
    async def attack(call: Call) -> None:
        await call.open(**changes)

    return attack


def saying(*messages: SwapMessage | bytes) -> Attack:
    async def attack(call: Call) -> None:
        for message in messages:
            await call.say(message)

    return attack


def chunk(index: int, payload: bytes) -> SwapMessage:
    return SwapMessage(chunk=Chunk(index=index, payload=payload))


async def garbage_for_commit(call: Call) -> None:
    await call.until_ready()
    await call.say(b"\xff" * 40)


async def chunk_for_commit(call: Call) -> None:
    await call.until_ready()
    await call.chunk(NUM_CHUNKS)


WHOLE = chunk(0, bytes(4 * CHUNK))
LIES: dict[str, tuple[str, Attack]] = {
    "nothing but noise": ("malformed", saying(b"\xff" * 100)),
    "an empty message": ("malformed", saying(b"")),
    "half an Open": ("malformed", saying(SwapMessage(open=Open(exchange=bytes(16))).SerializeToString()[:-3])),
    "a chunk first": ("malformed", saying(WHOLE)),
    "Commit first": ("malformed", saying(SwapMessage(commit=Commit()))),
    "another run": ("wrong-run", opening(run="another")),
    "another model": ("wrong-model", opening(model=bytes(32))),
    "another size": ("wrong-model", opening(size=5)),
    "a huge size": ("wrong-model", opening(size=(1 << 64) - 1)),
    "no size": ("wrong-model", opening(size=0)),
    "another codec": ("wrong-codec", opening(codec='{"name":"int4"}')),
    "a long codec": ("wrong-codec", opening(codec="x" * 4_000_000)),
    "a short id": ("malformed", opening(exchange=bytes(15))),
    "a long id": ("malformed", opening(exchange=bytes(1000))),
    "no chunk size": ("malformed", opening(chunk_size=0)),
    "a huge chunk size": ("malformed", opening(chunk_size=(1 << 32) - 1)),
    "chunks beyond the limit": ("malformed", opening(chunk_size=2 * MAX_CHUNK_SIZE)),
    "a huge seed": ("malformed", opening(seed=(1 << 64) - 1)),
    "noise for a chunk": ("malformed", after_open(b"\xff" * 100)),
    "half a chunk message": ("malformed", after_open(WHOLE.SerializeToString()[: 2 * CHUNK])),
    "a chunk that claims to be long": ("malformed", after_open(b"\x12\xff\xff\xff\xff\x0f\x12\x04abcd")),
    "a chunk too short": ("malformed", after_open(chunk(0, bytes(4 * CHUNK - 4)))),
    "a chunk of odd length": ("malformed", after_open(chunk(0, bytes(4 * CHUNK - 1)))),
    "an empty chunk": ("malformed", after_open(chunk(0, b""))),
    "a chunk too long": ("oversized", after_open(chunk(0, bytes(4 * CHUNK + 4)))),
    "the second chunk first": ("malformed", after_open(chunk(1, bytes(4 * CHUNK)))),
    "a chunk twice": ("malformed", after_open(WHOLE, WHOLE)),
    "a chunk with a huge index": ("malformed", after_open(chunk((1 << 32) - 1, bytes(4 * CHUNK)))),
    "Open twice": ("malformed", after_open(SwapMessage(open=Open(exchange=bytes(16))))),
    "Commit before the chunks": ("malformed", after_open(SwapMessage(commit=Commit()))),
    "Commit among the chunks": ("malformed", after_open(WHOLE, SwapMessage(commit=Commit()))),
    "Ready from the initiator": ("malformed", after_open(SwapMessage(ready=Ready()))),
    "Done from the initiator": ("malformed", after_open(SwapMessage(done=Done()))),
    "NaN": ("not-finite", after_open(chunk(0, floats(0, math.nan, 0, 0)))),
    "Inf": ("not-finite", after_open(chunk(0, floats(0, 0, math.inf, 0)))),
    "-Inf in a later chunk": ("not-finite", after_open(WHOLE, chunk(1, floats(-math.inf, 0, 0, 0)))),
    "values beyond all measure": ("too-far", after_open(*(chunk(i, floats(1e30, 1e30, 0, 0)) for i in range(4)))),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_lie_is_refused_and_counted(name: str, victim: Honest, friend: Honest, liar: Liar) -> None:
    reason, attack = LIES[name]
    before = victim.replica.digest()
    async with liar.calling(victim) as call:
        await attack(call)
        await call.is_over()
        await victim.until(lambda: victim.reasons(liar.me))
    assert victim.reasons(liar.me) == [reason]
    assert victim.lies(liar.me) == [reason]
    assert victim.swaps(liar.me) == 0
    victim.replica.settle()
    assert victim.replica.digest() == before
    await still_well(victim, friend)


async def test_a_message_beyond_the_limit_is_not_even_buffered(victim: Honest, friend: Honest, liar: Liar) -> None:
    before = victim.replica.digest()
    async with liar.calling(victim) as call:
        await call.open()
        await call.hear("open")
        await call.chunk(0, bytes(MAX_FRAME_BYTES + 1))
        await call.is_over()
        assert await call.call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await victim.until(lambda: victim.reasons(liar.me))
    assert victim.replica.digest() == before
    await still_well(victim, friend)


@pytest.mark.parametrize("answer", [garbage_for_commit, chunk_for_commit])
async def test_nonsense_instead_of_the_decision_leaves_a_doubt_that_ends(
    answer: Attack, victim: Honest, friend: Honest, liar: Liar
) -> None:
    before = victim.replica.digest()
    async with liar.calling(victim) as call:
        await answer(call)
        await call.is_over()
        await victim.until(lambda: victim.reasons(liar.me))
    assert victim.reasons(liar.me) == ["in-doubt"]
    victim.gone.add(liar.me)
    async with asyncio.timeout(5):
        await victim.exchanger.settled()
    assert victim.replica.digest() == before
    await still_well(victim, friend)


HANG_UPS: dict[str, Attack] = {
    "after Open": opening(),
    "after both Opens": after_open(),
    "after one chunk": after_open(WHOLE),
    "after a part of the chunks": after_open(WHOLE, chunk(1, bytes(4 * CHUNK))),
}


@pytest.mark.parametrize("half", [False, True], ids=["cancels", "says that it has no more to say"])
@pytest.mark.parametrize("step", HANG_UPS)
async def test_a_caller_that_hangs_up(step: str, half: bool, victim: Honest, friend: Honest, liar: Liar) -> None:
    before = victim.replica.digest()
    async with liar.calling(victim) as call:
        await HANG_UPS[step](call)
        if step == "after Open":
            await call.hear("open")  # else the server may never have seen it
        if half:
            await call.call.done_writing()
            await call.is_over()
    await victim.until(lambda: victim.reasons(liar.me))
    assert victim.reasons(liar.me) == ["closed"]
    assert victim.replica.digest() == before
    await still_well(victim, friend)


@pytest.mark.parametrize("outcome", ["gone", "ABORTED", "COMMITTED"])
async def test_a_caller_that_hangs_up_before_its_decision(
    outcome: str, victim: Honest, friend: Honest, liar: Liar
) -> None:
    """The victim is in doubt, goes on, and asks."""
    snapshot = victim.replica.snapshot()
    async with liar.calling(victim) as call:
        await call.until_ready()
    await victim.until(lambda: victim.reasons(liar.me))
    assert victim.reasons(liar.me) == ["in-doubt"]
    assert torch.equal(victim.replica.snapshot(), snapshot)
    assert victim.is_free(), "a doubt holds no lease"
    if outcome == "gone":
        victim.gone.add(liar.me)
        async with asyncio.timeout(5):
            await victim.exchanger.settled()
    else:
        asked = await _answering(liar, ResolveReply.Outcome.Value(f"OUTCOME_{outcome}"))
        victim.meet(liar)
        async with asyncio.timeout(5):
            await victim.exchanger.settled()
        assert asked == [call.victim.me]
    victim.replica.settle()
    halved = outcome == "COMMITTED"  # the liar's vector is zero
    assert torch.allclose(victim.replica.snapshot(), snapshot / 2 if halved else snapshot, atol=1e-7)
    assert victim.swaps(liar.me) == halved
    await still_well(victim, friend)


async def _answering(liar: Liar, outcome: Any) -> list[str]:
    """The liar's server answers Resolve; who asked."""
    asked: list[str] = []

    async def resolve(_: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        (pem,) = context.auth_context()["x509_pem_cert"]
        asked.append(liar.credentials.authenticate(pem))
        return ResolveReply(outcome=outcome).SerializeToString()

    async def silent(_: Served) -> None:
        pass

    service, _, name = RESOLVE[1:].partition("/")
    await liar.serve(silent, {name: grpc.unary_unary_rpc_method_handler(resolve)})
    assert service == "p2ptrain.v1.Exchange"
    return asked


async def test_a_caller_that_hangs_up_after_its_decision_has_swapped(
    victim: Honest, friend: Honest, liar: Liar
) -> None:
    snapshot = victim.replica.snapshot()
    async with liar.calling(victim) as call:
        await call.until_ready()
        await call.commit()
        await call.call.done_writing()
        await victim.until(lambda: victim.swaps(liar.me))
    assert victim.reasons(liar.me) == []
    victim.replica.settle()
    assert torch.allclose(victim.replica.snapshot(), snapshot / 2, atol=1e-7)
    await still_well(victim, friend)


@pytest.mark.parametrize("step", ["at once", *HANG_UPS, "before Commit"])
async def test_silence_costs_a_deadline(step: str, victim: Honest, friend: Honest, liar: Liar) -> None:
    before = victim.replica.digest()
    loop = asyncio.get_running_loop()
    async with liar.calling(victim) as call:
        if step == "before Commit":
            await call.until_ready()
        elif step != "at once":
            await HANG_UPS[step](call)
        else:
            await call.call.wait_for_connection()
        since = loop.time()
        await victim.until(lambda: victim.reasons(liar.me))
        assert loop.time() - since < 3
        await call.is_over()
    assert victim.reasons(liar.me) == ["in-doubt" if step == "before Commit" else "deadline"]
    victim.gone.add(liar.me)
    async with asyncio.timeout(5):
        await victim.exchanger.settled()
    assert victim.replica.digest() == before
    await still_well(victim, friend)


async def test_a_swap_is_not_done_twice(victim: Honest, friend: Honest, liar: Liar) -> None:
    """An old conversation, said again word for word; and a new one under an old number."""
    async with liar.calling(victim) as call:
        await call.until_ready(exchange=bytes(range(16)))
        await call.commit()
        await call.hear("done")
        recorded = call.said
    victim.replica.settle()
    before = victim.replica.digest()
    for words in (recorded, recorded[:1]):
        failures = len(victim.reasons(liar.me))
        async with liar.calling(victim) as call:
            for message in words:
                await call.say(message)
            await call.is_over()
            await victim.until(lambda failures=failures: len(victim.reasons(liar.me)) > failures)
    victim.replica.settle()
    assert victim.replica.digest() == before
    assert victim.swaps(liar.me) == 1
    await still_well(victim, friend)


async def test_peers_that_never_answer_for_their_swaps_do_not_keep_others_out(
    victim: Honest, friend: Honest, liar: Liar
) -> None:
    """Alive, but silent when asked whether they committed: after a while their swaps are forgotten."""
    for _ in range(MAX_DOUBTS):
        failures = len(victim.reasons(liar.me))
        async with liar.calling(victim) as call:
            await call.until_ready()
        await victim.until(lambda failures=failures: len(victim.reasons(liar.me)) > failures)
    async with asyncio.timeout(10):
        await victim.exchanger.settled()
    await still_well(victim, friend)


async def test_one_swap_at_a_time(victim: Honest, friend: Honest, liar: Liar) -> None:
    async with liar.calling(victim) as call:
        await call.open()
        await call.hear("open")
        async with liar.calling(victim) as second:
            await second.open()
            refusal = (await second.hear("refuse")).refuse
            assert refusal.reason == "busy"
            await second.is_over()
    await victim.until(lambda: victim.reasons(liar.me))
    assert victim.reasons(liar.me) == ["closed"]
    await still_well(victim, friend)


async def test_noise_on_the_port(victim: Honest, friend: Honest) -> None:
    host, _, port = victim.address.rpartition(":")
    hello = bytes.fromhex("16030100c8010000c40303") + bytes(40)  # the beginning of a TLS handshake
    http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
    for noise in (b"", b"\x00" * 4096, b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 16, hello, http2):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(noise)
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                await reader.read()
        writer.close()
    await still_well(victim, friend)


async def hang_up(_: Served) -> None:
    return


def serving(*messages: SwapMessage | bytes, stay: bool = True, **changes: Any) -> Ambush:
    """Open and these messages; then the line stays open, or not."""

    async def ambush(served: Served) -> None:
        await served.open(**changes)
        for message in messages:
            await served.say(message)
        if stay:
            await asyncio.Event().wait()

    return ambush


async def mute(_: Served) -> None:
    await asyncio.Event().wait()


async def noise(served: Served) -> None:
    await served.context.read()  # else it depends on who is first whether the victim fails to write or to read
    await served.say(b"\xff" * 100)


async def oversized(served: Served) -> None:
    await served.open()
    await served.context.read()
    await served.chunk(0, bytes(MAX_FRAME_BYTES + 1))


async def refuse(served: Served) -> None:
    await served.context.read()
    await served.say(SwapMessage(refuse=Refuse(reason="<script>" * 1000, detail="\x1b[2J" * 100_000)))


SIZE = 1640
ZEROS = chunk(0, bytes(4 * SIZE))
AMBUSHES: dict[str, tuple[str, Ambush]] = {
    "hangs up at once": ("closed", hang_up),
    "says nothing": ("deadline", mute),
    "sends noise": ("malformed", noise),
    "refuses for a reason of its own": ("refused", refuse),
    "sends a message beyond the limit": ("oversized", oversized),
    "has another run": ("wrong-run", serving(run="another")),
    "has another model": ("wrong-model", serving(model=bytes(32))),
    "has other chunks": ("malformed", serving(chunk_size=7)),
    "hangs up after Open": ("closed", serving(stay=False)),
    "is silent after Open": ("deadline", serving()),
    "sends too much": ("oversized", serving(chunk(0, bytes(4 * SIZE + 4)))),
    "sends too little": ("malformed", serving(chunk(0, bytes(4 * SIZE - 4)))),
    "sends NaN": ("not-finite", serving(chunk(0, struct.pack("<f", math.nan) * SIZE))),
    "sends Inf": ("not-finite", serving(chunk(0, struct.pack("<f", math.inf) * SIZE))),
    "sends another chunk": ("malformed", serving(chunk(1, bytes(4 * SIZE)))),
    "is ready too soon": ("malformed", serving(SwapMessage(ready=Ready()))),
    "is done too soon": ("malformed", serving(ZEROS, SwapMessage(done=Done()))),
    "hangs up before Ready": ("closed", serving(ZEROS, stay=False)),
    "is silent before Ready": ("deadline", serving(ZEROS)),
    "commits itself": ("malformed", serving(ZEROS, SwapMessage(commit=Commit()))),
}


@pytest.mark.parametrize("name", AMBUSHES)
async def test_one_who_is_asked_to_swap_and(name: str, victim: Honest, friend: Honest, liar: Liar) -> None:
    reason, ambush = AMBUSHES[name]
    await liar.serve(ambush)
    victim.meet(liar)
    before = victim.replica.digest()
    with pytest.raises(PeerError) as caught:
        await victim.exchanger.swap(liar.me)
    assert caught.value.reason == reason
    assert len(str(caught.value)) < 1000
    assert victim.reasons(liar.me) == [reason]
    async with asyncio.timeout(10):
        await liar.served.wait()  # the stream is closed
    victim.replica.settle()
    assert victim.replica.digest() == before
    await still_well(victim, friend)


@pytest.mark.parametrize("stay", [False, True], ids=["hang up", "silence"])
async def test_a_decision_stands_whatever_happens_to_the_stream_afterwards(
    stay: bool, victim: Honest, friend: Honest, liar: Liar
) -> None:
    async def ambush(served: Served) -> None:
        await served.open()
        await served.say(ZEROS)
        await served.context.read()
        await served.say(SwapMessage(ready=Ready()))
        if stay:
            await asyncio.Event().wait()

    await liar.serve(ambush)
    victim.meet(liar)
    snapshot = victim.replica.snapshot()
    await victim.exchanger.swap(liar.me)
    victim.replica.settle()
    assert torch.allclose(victim.replica.snapshot(), snapshot / 2, atol=1e-7)
    assert victim.reasons(liar.me) == []
    assert victim.swaps(liar.me) == 1
    await still_well(victim, friend)


async def test_memory_stays_flat_over_hundreds_of_failing_swaps(
    victim: Honest, friend: Honest, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = [LIES[name][1] for name in ("a chunk too long", "NaN", "another model", "nothing but noise")]
    attacks += [HANG_UPS["after both Opens"], HANG_UPS["after one chunk"]]
    await liar.serve(AMBUSHES["hangs up before Ready"][1])
    victim.meet(liar)
    count = 0

    async def fail(times: int) -> None:
        nonlocal count
        for _ in range(times):
            count += 1
            if count % 3 == 0:
                with pytest.raises(PeerError):
                    await victim.exchanger.swap(liar.me)
            else:
                async with liar.calling(victim) as call:
                    attack = attacks[count % len(attacks)]
                    await attack(call)
                    if attack in attacks[:4]:
                        await call.is_over()
            await victim.until(lambda: victim.reasons(liar.me))
            victim.events.clear()

    await fail(60)
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        await fail(300)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 100_000, f"{grown / 300:.0f} bytes are kept for each failed swap"
    await still_well(victim, friend)
