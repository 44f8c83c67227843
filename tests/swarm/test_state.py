"""A newcomer gets a vector of the swarm from whoever serves one, whole and hashed, or none at all."""

import asyncio
import hashlib
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from p2ptrain.errors import PeerError
from p2ptrain.pace import FIRST_S, Pace
from p2ptrain.ports import Bytes, Contact, PeerId
from p2ptrain.simulation.links import LAN, Links, SimulatedTransport
from p2ptrain.simulation.loop import run
from p2ptrain.swarm import state
from p2ptrain.swarm.state import FETCH, FREEZE, MAX_DONORS, MAX_NEWCOMERS, StateServer, download
from p2ptrain.training.replica import Replica, as_bytes
from p2ptrain.wire.state_pb2 import FetchReply, FetchRequest, FreezeRequest, Manifest

CHUNK, NUM_CHUNKS = 64, 26
"""of a Linear(40, 40), whose last chunk is not full"""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "CHUNK_SIZE", CHUNK)


class Donor:
    """A node with weights."""

    def __init__(self, links: Links, index: int, step: int | None = None) -> None:
        self.me = PeerId(f"{index:032x}")
        self.transport = links.transport(self.me, f"donor-{index}:1")
        torch.manual_seed(index)
        self.replica = Replica(nn.Linear(40, 40))
        self.ready = True
        self.step = index if step is None else step
        self.server = StateServer(
            self.transport, self.replica, "run", random.Random(index), lambda: self.step, lambda: self.ready
        )
        self.asked: list[int] = []
        self.honest = self.transport._answers[FETCH]
        self.answer(self.honest)

    def answer(self, serve: Callable[[PeerId, Bytes], object]) -> None:
        """From now on this is how chunks are served."""

        async def answer(peer: PeerId, request: Bytes) -> bytes:
            self.asked.append(FetchRequest.FromString(bytes(request)).index)
            return await serve(peer, request)  # type: ignore[misc]

        self.transport.serve(FETCH, answer)

    def spoil(self, change: Callable[[bytes], bytes]) -> None:
        """Chunks come changed."""

        async def answer(peer: PeerId, request: Bytes) -> bytes:
            reply = FetchReply.FromString(await self.honest(peer, request))
            return FetchReply(payload=change(reply.payload)).SerializeToString()

        self.answer(answer)

    def claim(self, change: Callable[[Manifest], object]) -> None:
        """The manifest comes changed."""
        freeze = self.transport._answers[FREEZE]

        async def answer(peer: PeerId, request: Bytes) -> bytes:
            manifest = Manifest.FromString(await freeze(peer, request))
            change(manifest)
            return manifest.SerializeToString()

        self.transport.serve(FREEZE, answer)

    def train(self) -> None:
        self.replica.absorb()
        self.replica.flat.add_(1.0)
        self.replica.publish()


class World:
    def __init__(self, num_donors: int, **faults: object) -> None:
        self.links = Links(random.Random(0), LAN.model_copy(update=faults))
        self.donors = [Donor(self.links, index) for index in range(1, num_donors + 1)]

    def newcomer(self, index: int = 99) -> SimulatedTransport:
        transport = self.links.transport(PeerId(f"{1000 + index:032x}"), f"newcomer-{index}:1")
        for donor in self.donors:
            transport.learn(donor.me, Contact(("",), b""))
        return transport

    async def download(self, index: int = 99, final: bool = False) -> state.Download:
        own = Replica(nn.Linear(40, 40))
        donors = [donor.me for donor in self.donors]
        return await download(self.newcomer(index), donors, "run", own, Pace(), final)

    async def refused(self) -> str:
        """Why there is nothing to be had."""
        with pytest.raises(PeerError) as caught:
            await self.download()
        assert caught.value.reason == "no-donor"
        return str(caught.value)


def chunks(vector: Tensor) -> list[Tensor]:
    return list(vector.split(CHUNK))


def sources(vector: Tensor, donors: list[Donor]) -> list[PeerId]:
    """Whose each chunk is, to the bit."""
    theirs = {donor.me: chunks(donor.replica.snapshot()) for donor in donors}
    found = []
    for index, chunk in enumerate(chunks(vector)):
        (peer,) = [peer for peer, own in theirs.items() if torch.equal(own[index], chunk)]
        found.append(peer)
    return found


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_one_donor() -> None:
    world = World(1)
    found = await world.download()
    assert torch.equal(found.vector, world.donors[0].replica.snapshot())
    assert found.step == 1
    assert found.donors == {world.donors[0].me}
    assert found.bytes_received > 4 * found.vector.numel()
    assert sorted(world.donors[0].asked) == list(range(NUM_CHUNKS))


async def test_several_donors_share_the_work() -> None:
    world = World(5)
    found = await world.download()
    asked = [donor.asked for donor in world.donors]
    assert sorted(index for indices in asked for index in indices) == list(range(NUM_CHUNKS))
    assert sum(bool(indices) for indices in asked) == MAX_DONORS
    assert min(len(indices) for indices in asked[:MAX_DONORS]) > 2
    assert set(sources(found.vector, world.donors)) == found.donors
    assert found.step == max(donor.step for donor in world.donors[:MAX_DONORS])


@pytest.mark.parametrize("after", [0, 1, 5])
async def test_when_a_donor_dies_the_others_take_over_and_what_it_gave_stays(after: int) -> None:
    world = World(2)
    mortal, survivor = world.donors

    async def answer(peer: PeerId, request: Bytes) -> bytes:
        if len(mortal.asked) > after:
            world.links._nodes.pop(mortal.me, None)
            raise PeerError("unreachable", "connection reset")
        return await mortal.honest(peer, request)

    mortal.answer(answer)
    found = await world.download()
    given = sources(found.vector, world.donors)
    assert given.count(mortal.me) == after
    assert given.count(survivor.me) == NUM_CHUNKS - after
    assert len(survivor.asked) == NUM_CHUNKS - after, "nothing was fetched twice"


async def test_a_donor_that_dies_with_the_last_chunk_does_not_end_the_download() -> None:
    """All others had nothing left to do by then, and are alive."""
    world = World(3)
    slow = world.donors[0]

    async def answer(peer: PeerId, request: Bytes) -> bytes:
        await asyncio.sleep(10)
        raise PeerError("expired", "too late")

    slow.answer(answer)
    found = await world.download()
    assert slow.me not in found.donors
    assert 10 < now() < 11


async def test_a_silent_donor_costs_its_deadline_at_most() -> None:
    world = World(2)

    async def answer(peer: PeerId, request: Bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    world.donors[0].answer(answer)
    found = await world.download()
    assert found.donors == {world.donors[1].me}
    assert now() < FIRST_S + 1


async def test_nobody_waits_for_a_donor_that_is_not_needed() -> None:
    """One that never answers at all, while another one gives everything."""
    world = World(2)

    async def answer(peer: PeerId, request: Bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    world.donors[0].transport.serve(FREEZE, answer)
    found = await world.download()
    assert found.donors == {world.donors[1].me}
    assert now() < 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda payload: payload[:-1] + bytes([payload[-1] ^ 1]), "wrong-hash"),
        (lambda payload: payload[:-4], "malformed"),
        (lambda payload: payload + bytes(4), "malformed"),
        (lambda payload: b"", "malformed"),
        (lambda payload: bytes(4 * CHUNK), "wrong-hash"),
    ],
)
async def test_a_spoilt_chunk_is_fetched_from_another_donor(change: Callable[[bytes], bytes], reason: str) -> None:
    world = World(2)
    world.donors[0].spoil(change)
    found = await world.download()
    assert found.donors == {world.donors[1].me}
    assert len(world.donors[0].asked) == 1, "who lies once is not asked again"
    world.donors.pop()
    assert reason in await world.refused()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
async def test_not_a_number_is_refused_though_its_hash_is_right(value: float) -> None:
    world = World(2)
    liar = world.donors[0]
    liar.replica.absorb()
    liar.replica.flat[100] = value
    liar.replica.publish()
    found = await world.download()
    assert torch.isfinite(found.vector).all()
    world.donors.pop()
    assert "not-finite" in await world.refused()


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: setattr(manifest, "size", manifest.size + 1),
        lambda manifest: setattr(manifest, "size", (1 << 64) - 1),
        lambda manifest: setattr(manifest, "size", 0),
        lambda manifest: setattr(manifest, "chunk_size", 1),
        lambda manifest: setattr(manifest, "chunk_size", 0),
        lambda manifest: setattr(manifest, "snapshot", b"short"),
        lambda manifest: manifest.hashes.append(bytes(32)),
        lambda manifest: manifest.hashes.pop(),
        lambda manifest: manifest.hashes.__setitem__(0, b"short"),
    ],
)
async def test_a_manifest_that_cannot_be_right_is_refused(change: Callable[[Manifest], object]) -> None:
    world = World(2)
    world.donors[0].claim(change)
    found = await world.download()
    assert found.donors == {world.donors[1].me}
    assert world.donors[0].asked == []
    world.donors.pop()
    assert "malformed" in await world.refused()


async def test_all_donors_dead() -> None:
    world = World(4)
    for donor in world.donors:
        await world.links.kill(donor.me)
    assert (await world.refused()).count("unreachable") == 4
    world.donors.clear()
    assert "nobody to ask" in await world.refused()


@pytest.mark.parametrize("seed", range(5))
async def test_lost_messages_only_cost_time(seed: int) -> None:
    world = World(6, drop=0.01)
    world.links.rng.seed(seed)
    found = await world.download()
    assert len(sources(found.vector, world.donors)) == NUM_CHUNKS


async def test_a_donor_without_weights_is_passed_over() -> None:
    world = World(2)
    world.donors[0].ready = False
    found = await world.download()
    assert found.donors == {world.donors[1].me}
    world.donors.pop()
    assert "not-ready" in await world.refused()


async def test_a_donor_serves_a_few_newcomers_and_sends_the_rest_elsewhere() -> None:
    world = World(1)
    for index in range(MAX_NEWCOMERS):
        await world.download(index)
    assert "busy" in await world.refused()
    await asyncio.sleep(state.FROZEN_FOR_S + 3)
    await world.download()


async def test_newcomers_that_are_through_leave_their_places_while_another_one_still_fetches() -> None:
    world = World(1)
    transport, donor = world.newcomer(0), world.donors[0]
    freeze = FreezeRequest(run="run", model=donor.replica.fingerprint).SerializeToString()
    manifest = Manifest.FromString(await transport.call(donor.me, FREEZE, freeze, 5.0))
    for index in range(1, MAX_NEWCOMERS):
        await world.download(index)
    fetch = FetchRequest(snapshot=manifest.snapshot, index=0).SerializeToString()
    for _ in range(8):  # slowly, but it would have to start again
        await asyncio.sleep(0.5 * state.SERVED_S)
        await transport.call(donor.me, FETCH, fetch, 5.0)
    await world.download()


async def test_another_run_or_model_is_refused() -> None:
    world = World(1)
    transport, donor = world.newcomer(), world.donors[0]
    for replica, run_name, reason in (
        (Replica(nn.Linear(40, 41)), "run", "wrong-model"),
        (Replica(nn.Linear(40, 40)), "x" * 1000, "wrong-run"),
    ):
        with pytest.raises(PeerError, match=reason):
            await download(transport, [donor.me], run_name, replica, Pace())


async def test_training_goes_on_meanwhile_and_the_snapshot_does_not_move() -> None:
    world = World(1)
    donor = world.donors[0]
    before = donor.replica.snapshot()

    async def answer(peer: PeerId, request: Bytes) -> bytes:
        donor.train()
        return await donor.honest(peer, request)

    donor.answer(answer)
    assert torch.equal((await world.download()).vector, before)
    await asyncio.sleep(state.FROZEN_FOR_S + 3)
    newer = (await world.download()).vector
    assert torch.allclose(newer, before + NUM_CHUNKS, atol=1e-4), "and the next one gets a newer one"


async def test_a_snapshot_that_nobody_wants_is_let_go() -> None:
    world = World(1)
    donor = world.donors[0]
    expiring = asyncio.create_task(donor.server.expire())
    await world.download()
    assert donor.server._frozen is not None
    await asyncio.sleep(2 * state.KEPT_FOR_S)
    assert donor.server._frozen is None
    snapshot = bytes(16)
    with pytest.raises(PeerError, match="expired"):
        await donor.honest(PeerId("00" * 16), FetchRequest(snapshot=snapshot).SerializeToString())
    vector = await donor.server.finish()
    await asyncio.sleep(2 * state.KEPT_FOR_S)
    assert torch.equal((await world.download()).vector, vector), "the last one stays"
    expiring.cancel()


async def test_what_is_merged_is_what_the_donor_ends_with() -> None:
    """Whoever begins to merge first gets no snapshot from before the donor's last swap."""
    world = World(1)
    donor = world.donors[0]
    earlier = await world.download()
    merging = asyncio.create_task(world.download(final=True))
    await asyncio.sleep(1)
    assert not merging.done()
    donor.train()
    vector = await donor.server.finish()
    assert torch.equal((await merging).vector, vector)
    assert not torch.equal(earlier.vector, vector)
    for index in range(2 * MAX_NEWCOMERS):
        assert torch.equal((await world.download(index)).vector, vector), "everyone gets it"


async def test_a_donor_that_does_not_merge_says_so() -> None:
    world = World(1)
    with pytest.raises(PeerError, match="not-ready"):
        await world.download(final=True)
    assert now() < state.FREEZE_TIMEOUT_S


@given(manifest=st.binary(max_size=300), reply=st.binary(max_size=400), honest_manifest=st.booleans())
def test_nonsense_from_a_donor_is_a_peer_error(manifest: bytes, reply: bytes, honest_manifest: bool) -> None:
    async def attempt() -> None:
        world = World(1)
        donor = world.donors[0]

        async def freeze(peer: PeerId, request: Bytes) -> bytes:
            return manifest

        async def fetch(peer: PeerId, request: Bytes) -> bytes:
            return reply

        if not honest_manifest:
            donor.transport.serve(FREEZE, freeze)
        donor.answer(fetch)
        await world.refused()

    run(attempt())


@given(request=st.binary(max_size=300))
def test_nonsense_from_a_newcomer_is_a_peer_error(request: bytes) -> None:
    async def attempt() -> None:
        donor = World(1).donors[0]
        for serve in (donor.transport._answers[FREEZE], donor.honest):
            with pytest.raises(PeerError):
                await serve(PeerId("00" * 16), request)

    run(attempt())


@given(snapshot=st.binary(max_size=20), index=st.integers(0, (1 << 32) - 1))
def test_a_chunk_is_only_served_of_the_snapshot_that_there_is(snapshot: bytes, index: int) -> None:
    async def attempt() -> None:
        donor = World(1).donors[0]
        freeze = FreezeRequest(run="run", model=donor.replica.fingerprint).SerializeToString()
        manifest = Manifest.FromString(await donor.transport._answers[FREEZE](PeerId("00" * 16), freeze))
        assert manifest.hashes[0] == hashlib.sha256(as_bytes(donor.replica.snapshot()[:CHUNK])).digest()
        for name, where in ((snapshot, 0), (manifest.snapshot, NUM_CHUNKS + index % 1000)):
            request = FetchRequest(snapshot=name, index=where).SerializeToString()
            with pytest.raises(PeerError):
                await donor.honest(PeerId("00" * 16), request)

    run(attempt())
