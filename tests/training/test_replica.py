import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor, nn

from p2ptrain.errors import PeerBusy
from p2ptrain.training.replica import Lease, Replica, as_bytes, named_slices

SIZE = 4


class Vector(nn.Module):
    """Two parameters and two buffer elements, set by hand."""

    running: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("running", torch.zeros(2))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


# Small multiples of 1/8: their sums are exact in float32, so that a lost or doubled change shows.
deltas = st.lists(st.integers(-64, 64), min_size=SIZE, max_size=SIZE).map(lambda xs: torch.tensor(xs).float() / 8)


class Interleavings(RuleBasedStateMachine):
    """Any order of the calls of both threads; buffers change where a forward pass changes them."""

    @initialize(start=deltas)
    def begin(self, start: Tensor) -> None:
        self.replica = Replica(Vector())
        self.replica.load(start)
        self.expected = start.clone()
        self.committed = torch.zeros(SIZE)
        self.local = torch.zeros(SIZE)
        self.lease: Lease | None = None
        self.lent: Tensor | None = None
        self.inside_step = False
        self.memory = self.pointers()

    def pointers(self) -> set[int]:
        replica = self.replica
        return {tensor.data_ptr() for tensor in (replica.flat, replica._published, replica._spare)}

    @precondition(lambda self: not self.inside_step)
    @rule(delta=deltas)
    def forward(self, delta: Tensor) -> None:
        self.replica.flat[2:] += delta[2:]
        self.expected[2:] += delta[2:]

    @precondition(lambda self: not self.inside_step)
    @rule()
    def absorb(self) -> None:
        self.replica.absorb()
        self.inside_step = True

    @precondition(lambda self: self.inside_step)
    @rule(delta=deltas)
    def update_and_publish(self, delta: Tensor) -> None:
        self.replica.flat[:2] += delta[:2]
        self.expected[:2] += delta[:2]
        self.replica.publish()
        self.inside_step = False

    @precondition(lambda self: self.inside_step)
    @rule()
    def publish_without_update(self) -> None:
        self.replica.publish()
        self.inside_step = False

    @rule()
    def take_lease(self) -> None:
        try:
            lease = self.replica.lease()
        except PeerBusy:
            return
        assert self.lease is None
        self.lease, self.lent = lease, lease.own.clone()

    @precondition(lambda self: self.lease is not None)
    @rule(correction=deltas)
    def commit(self, correction: Tensor) -> None:
        assert self.lease is not None
        lease, self.lease = self.lease, None
        torch.add(lease.own, correction, out=lease.out)
        self.replica.commit(lease)
        self.expected += correction

    @precondition(lambda self: self.lease is not None)
    @rule()
    def release(self) -> None:
        assert self.lease is not None
        lease, self.lease = self.lease, None
        lease.out.fill_(float("nan"))  # an exchange that broke off leaves rubbish
        self.replica.release(lease)

    @precondition(lambda self: self.lease is None and not self.inside_step)
    @rule()
    def settled_is_exact(self) -> None:
        self.replica.settle()
        assert torch.equal(self.replica.flat, self.expected)
        assert torch.equal(self.replica.snapshot(), self.expected)

    @invariant()
    def lent_vector_does_not_change(self) -> None:
        if self.lease is not None:
            assert self.lent is not None
            assert torch.equal(self.lease.own, self.lent)

    @invariant()
    def no_new_memory(self) -> None:
        if hasattr(self, "memory"):
            assert self.pointers() == self.memory

    def teardown(self) -> None:
        if not hasattr(self, "replica"):
            return
        if self.lease is not None:
            self.replica.release(self.lease)
        if self.inside_step:
            self.replica.publish()
        self.replica.settle()
        assert torch.equal(self.replica.flat, self.expected)
        assert torch.equal(self.replica.snapshot(), self.expected)


Interleavings.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
TestInterleavings = Interleavings.TestCase


@given(st.lists(st.tuples(st.sampled_from(["swap", "step", "half step"]), st.integers(-9, 9)), max_size=30))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_leased_vector_holds_every_correction_committed_before(events: list[tuple[str, int]]) -> None:
    # Else a peer that keeps swapping with an old snapshot would pull the same difference out of it again and again.
    replica = Replica(Vector())
    total = 0.0
    inside = False
    for kind, amount in events:
        if kind == "swap":
            try:
                lease = replica.lease()
            except PeerBusy:
                continue
            assert lease.own[0].item() == total
            torch.add(lease.own, float(amount), out=lease.out)
            replica.commit(lease)
            total += amount
        elif inside or kind == "step":
            if not inside:
                replica.absorb()
            replica.publish()
            inside = False
        else:
            replica.absorb()
            inside = True


def test_exchange_longer_than_a_step_keeps_local_progress() -> None:
    replica = Replica(Vector())
    lease = replica.lease()
    replica.absorb()
    replica.flat[:2] += 1
    replica.publish()
    assert torch.equal(lease.own, torch.zeros(SIZE))
    torch.add(lease.own, 10.0, out=lease.out)
    replica.commit(lease)
    with pytest.raises(PeerBusy):
        replica.lease()
    replica.settle()
    assert replica.flat.tolist() == [11, 11, 10, 10]
    assert replica.lease().own.tolist() == [11, 11, 10, 10]


def test_one_lease_at_a_time_and_no_load_under_it() -> None:
    replica = Replica(Vector())
    lease = replica.lease()
    with pytest.raises(PeerBusy):
        replica.lease()
    with pytest.raises(PeerBusy):
        replica.load(torch.ones(SIZE))
    replica.release(lease)
    replica.load(torch.ones(SIZE))
    assert replica.snapshot().tolist() == [1, 1, 1, 1]


def test_exchanged_result_reaches_the_module_and_not_before_the_step_boundary() -> None:
    module = Vector()
    replica = Replica(module)
    lease = replica.lease()
    lease.out.fill_(3)
    replica.commit(lease)
    assert module.weight.tolist() == [0, 0]
    replica.absorb()
    assert module.weight.tolist() == [3, 3]
    assert module.running.tolist() == [3, 3]


def test_batch_norm_statistics_of_a_forward_pass_survive_a_correction() -> None:
    module = nn.BatchNorm1d(2)
    replica = Replica(module)
    lease = replica.lease()
    torch.add(lease.own, 1.0, out=lease.out)
    module(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert module.running_mean is not None
    moved = module.running_mean.clone()
    replica.commit(lease)
    replica.absorb()
    torch.testing.assert_close(module.running_mean, moved + 1)


def test_tied_weights_are_exchanged_once_and_stay_tied() -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    replica = Replica(module)
    assert replica.size == 9
    replica.load(torch.arange(9.0))
    first, second = (layer.get_parameter("weight") for layer in module)
    assert first is second
    assert first.flatten().tolist() == list(range(9))


def test_frozen_parameters_and_integer_buffers_stay_at_home() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[0].get_parameter("bias").requires_grad_(False)
    replica = Replica(module)
    names = [name for name, _ in named_slices(module)]
    assert names == ["0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"]
    assert (replica.num_parameters, replica.size) == (8, 12)


def test_module_and_optimizer_work_on_the_flat_vector() -> None:
    module = nn.Linear(3, 2)
    replica = Replica(module)
    before = replica.flat.clone()
    module(torch.ones(1, 3)).sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.5).step()
    assert torch.equal(replica.flat, before - 0.5)


def test_fingerprint_tells_layouts_apart() -> None:
    assert Replica(nn.Linear(2, 3)).fingerprint == Replica(nn.Linear(2, 3)).fingerprint
    assert Replica(nn.Linear(2, 3)).fingerprint != Replica(nn.Linear(3, 2)).fingerprint
    assert Replica(nn.Linear(2, 3)).fingerprint != Replica(nn.Sequential(nn.Linear(2, 3))).fingerprint


def test_digest_is_of_the_published_bits() -> None:
    replica, other = Replica(Vector()), Replica(Vector())
    assert replica.digest() == other.digest()
    replica.load(torch.tensor([0.0, 0, 0, 1e-30]))
    assert replica.digest() != other.digest()


def test_as_bytes_shares_memory() -> None:
    vector = torch.zeros(2)
    view = as_bytes(vector)
    vector[1] = 1
    assert bytes(view) == np.array([0, 1], dtype=np.float32).tobytes()


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads take turns every few microseconds: otherwise both spin for 5 ms on what the other one holds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_threads")
def test_two_real_threads_lose_nothing() -> None:
    num_swaps = 3000
    replica = Replica(nn.Linear(500, 8, bias=False))
    replica.load(torch.zeros(replica.size))
    stop = threading.Event()
    steps = 0

    def train() -> None:
        nonlocal steps
        while not stop.is_set():
            replica.absorb()
            replica.flat.add_(1)
            replica.publish()
            steps += 1

    thread = threading.Thread(target=train)
    thread.start()
    try:
        committed = 0
        while committed < num_swaps:
            try:
                lease = replica.lease()
            except PeerBusy:
                continue
            before = lease.own[::499].clone()
            torch.add(lease.own, 2.0, out=lease.out)
            assert torch.equal(lease.own[::499], before)
            if committed % 5 == 4:
                replica.release(lease)
            else:
                replica.commit(lease)
            committed += 1
    finally:
        stop.set()
        thread.join()
    replica.settle()
    assert steps > 0
    expected = steps + 2.0 * (num_swaps - num_swaps // 5)
    assert torch.equal(replica.flat, torch.full_like(replica.flat, expected))
    assert torch.equal(replica.snapshot(), replica.flat)
