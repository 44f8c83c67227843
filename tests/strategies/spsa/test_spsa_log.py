"""The log and the snapshot on a disk that loses power, and in how much room."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onebyte_swarm import Peers, gaussian, identity_of, quadratic

from p2ptrain.errors import CheckpointError
from p2ptrain.simulation.machine import Crashed, SimulatedDisk
from p2ptrain.strategies.spsa.arithmetic.rule import Rule
from p2ptrain.strategies.spsa.ledger import snapshot
from p2ptrain.strategies.spsa.ledger.batch import Batch, Run, encode
from p2ptrain.strategies.spsa.ledger.log import Log, needed, read_segment
from p2ptrain.training.folder import Folder

RUN = b"r" * 32
RULE = Rule(lr=0.01, span=4, samples_max=4)


def signed(slot: int, *rounds: int) -> Batch:
    content = bytes([7 + slot])
    return Batch(slot, tuple(Run(number, 0, content, -6) for number in rounds)).sign(RUN, identity_of(slot).sign)


def new_disk() -> SimulatedDisk:
    return SimulatedDisk(random.Random(0))


def loaded(disk: SimulatedDisk) -> Log:
    log = Log(disk, RUN)
    log.load()
    return log


def test_what_was_flushed_is_there_again(tmp_path: Path) -> None:
    for disk in (new_disk(), Folder(tmp_path)):
        log = Log(disk, RUN)
        for number in range(5):
            log.add(signed(number % 2, number))
        log.close(3)
        log.flush()
        log.add(signed(0, 99))
        again = Log(disk, RUN)
        assert again.load() == []
        assert list(again.batches) == list(log.batches)[:5]
        assert again.closed == 3
        assert again.bytes_on_disk == log.bytes_on_disk == sum(len(disk.read(name)) for name in disk.names())


@pytest.mark.parametrize("kind", ["segment", "draft"])
def test_a_file_torn_at_any_byte_costs_what_is_behind_it(kind: str) -> None:
    disk = new_disk()
    log = Log(disk, RUN)
    for number in range(4):
        log.add(signed(0, number))
    log.flush()
    (name,) = disk.names()
    whole = disk.read(name)
    ends = [len(whole) - sum(8 + len(record) for record in list(log.batches)[kept:]) for kept in range(5)]
    for cut in range(len(whole)):
        torn = new_disk()
        if kind == "draft":
            torn.files = {name: whole, name + ".draft": whole[:cut]}
        else:
            torn.files = {name: whole[:cut]}
        found = Log(torn, RUN)
        notes = found.load()
        kept = 4 if kind == "draft" else max(sum(end <= cut for end in ends) - 1, 0)
        assert list(found.batches) == list(log.batches)[:kept]
        assert len(notes) == (kind == "segment" and cut not in ends)
        assert loaded(torn).batches == found.batches
        found.add(signed(1, 5))
        found.flush()
        assert len(loaded(torn).batches) == kept + 1


@settings(max_examples=200)
@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255))
def test_garbage_in_a_segment_is_nothing_or_what_was_there(tail: bytes, place: int, value: int) -> None:
    log = Log(new_disk(), RUN)
    for number in range(3):
        log.add(signed(0, number))
    log.flush()
    disk = log._disk
    content = disk.read(disk.names()[0])
    head = content[: len(content) - sum(8 + len(record) for record in log.batches)]
    good = list(log.batches)
    found, _ = read_segment(content + tail, head, "here")
    assert list(found)[:3] == good
    damaged = bytearray(content)
    damaged[len(head) + place % (len(content) - len(head))] = value
    found, _ = read_segment(bytes(damaged), head, "here")
    assert list(found) == good[: len(found)]


def test_another_runs_log_is_refused() -> None:
    disk = new_disk()
    log = Log(disk, b"o" * 32)
    log.add(signed(0, 1))
    log.flush()
    with pytest.raises(CheckpointError, match="another run or model"):
        Log(disk, RUN).load()


def test_only_batches_that_add_something_are_needed() -> None:
    small, large = [signed(0, number) for number in range(6)], signed(0, 0, 1, 2, 3)
    other, conflict = signed(1, 2), Batch(0, (Run(2, 0, b"\x01", -6),), bytes(64))
    kept = list(needed([*small, large, other, conflict, large]))
    assert set(kept) == {large, small[4], small[5], other, conflict}


@pytest.mark.parametrize("crash_at", range(8))
def test_folding_loses_nothing_wherever_it_is_cut(crash_at: int) -> None:
    class Failing(SimulatedDisk):
        left = 1 << 30

        def _count(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise Crashed

        def write(self, name: str, content: bytes) -> None:
            self._count()
            super().write(name, content)

        def rename(self, name: str, to: str) -> None:
            self._count()
            super().rename(name, to)

        def remove(self, name: str) -> None:
            self._count()
            super().remove(name)

    disk = Failing(random.Random(0))
    log = Log(disk, RUN)
    for number in range(3):
        log = loaded(disk)  # a start each time, so that there are several segments
        log.add(signed(0, number))
        log.flush()
    log = loaded(disk)
    log.add(signed(0, 0, 1, 2))
    log.add(signed(1, 5))
    log.flush()
    disk.left = crash_at
    try:
        log.fold()
    except Crashed:
        assert crash_at < 7
    disk.left = 1 << 30
    entries = {entry for batch in loaded(disk).batches.values() for entry in batch.entries()}
    assert entries == {entry for batch in log.batches.values() for entry in batch.entries()}


def test_sixteen_peers_and_twenty_thousand_rounds_take_less_than_two_megabytes() -> None:
    disk, rng = new_disk(), random.Random(0)
    log = Log(disk, RUN)
    for start in range(0, 20_000, 32):
        for slot in range(16):
            runs = tuple(Run(number, 0, bytes([rng.randrange(128)]), -6) for number in range(start, start + 32))
            log.add(Batch(slot, runs[: 20_000 - start], rng.randbytes(64)))
        log.flush()
    size = sum(map(len, disk.files.values()))
    assert log.bytes_on_disk == size
    assert 320_000 < size < 2_000_000
    assert loaded(disk).batches.keys() == log.batches.keys()


def test_small_batches_are_covered_by_a_large_one() -> None:
    peers = Peers(RULE, gaussian(64, 0), 2)
    one, other = peers.replicas
    out, loss = torch.empty(64), quadratic(gaussian(64, 1))
    sent = []
    for _ in range(600):
        one.advance()
        one.evaluate(loss, out)
        one.settle()
        sent += one.publish()
    assert sum(len(record) for record in sent) > 600 * 70
    for record in sent:
        other.receive(record)
    assert peers.digests()[0] == peers.digests()[1]
    for replica in peers.replicas:
        assert {batch.count for batch in replica.log.batches.values()} == {1, 256}
        assert len(replica.log.batches) == 2 + 600 - 512
        replica.snapshot()
        assert replica.log.bytes_on_disk < 600 + 100 * 90
    assert peers.restart(1) == []
    assert len(set(peers.digests())) == 1


@pytest.fixture(scope="module")
def saved() -> tuple[Peers, bytes]:
    peers = Peers(RULE, gaussian(64, 0), 1)
    replica, out, loss = peers.replicas[0], torch.empty(64), quadratic(gaussian(64, 1))
    for _ in range(20):
        replica.advance()
        replica.evaluate(loss, out)
        replica.settle()
    replica.publish()
    replica.snapshot()
    return peers, snapshot.pack(replica.master)


def test_a_snapshot_comes_back_bit_for_bit(saved: tuple[Peers, bytes]) -> None:
    peers, content = saved
    found = snapshot.unpack(content, RULE, peers.identity, 64)
    master = peers.make(0).master
    master.load(found.lattice(master.lattice.key, torch.device("cpu")), found.pages)
    assert master.lattice.digest() == peers.replicas[0].master.lattice.digest()
    assert snapshot.pack(master) == content


def test_a_snapshot_torn_at_any_byte_is_refused(saved: tuple[Peers, bytes]) -> None:
    peers, content = saved
    for cut in range(len(content)):
        with pytest.raises(CheckpointError, match="damaged"):
            snapshot.unpack(content[:cut], RULE, peers.identity, 64)
    with pytest.raises(CheckpointError, match="another run"):
        snapshot.unpack(content, RULE, b"o" * 32, 64)
    with pytest.raises(CheckpointError, match="64 parameters"):
        snapshot.unpack(content, RULE, peers.identity, 65)


def test_a_torn_snapshot_falls_back_to_the_one_before(saved: tuple[Peers, bytes]) -> None:
    peers, content = saved
    want = peers.replicas[0].master.lattice.digest()
    files = dict(peers.disks[0].files)
    peers.disks[0].files["onebyte-000009.master"] = content[:-5]
    peers.disks[0].files["onebyte-000010.master.draft"] = content[:-5]
    notes = peers.restart(0)
    assert len(notes) == 1
    assert "onebyte-000009.master: damaged" in notes[0]
    assert peers.replicas[0].master.lattice.digest() == want
    peers.disks[0].files = {name: text for name, text in files.items() if name.endswith(".log")}
    assert peers.restart(0) == []
    assert peers.replicas[0].master.lattice.digest() == want


def test_frames_are_as_documented() -> None:
    disk = new_disk()
    log = Log(disk, RUN)
    log.add(signed(0, 1))
    log.flush()
    content = disk.read("onebyte-000001.log")
    record = encode(signed(0, 1))
    assert content.startswith(b"p2ptrain onebyte log 1\n" + RUN + len(record).to_bytes(4, "little"))
    assert content.endswith(record)
