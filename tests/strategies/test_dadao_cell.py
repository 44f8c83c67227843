"""A DADAO state as swaps see it: what is sent, what comes of it, and the accounts with each peer."""

import pytest
import torch
from torch import Tensor, nn

from p2ptrain.errors import PeerBusy
from p2ptrain.strategies.dadao import constants
from p2ptrain.strategies.dadao.cell import Cell
from p2ptrain.strategies.dadao.clocks import ByExchange
from p2ptrain.training.replica import Replica

DIM = 6
CONSTANTS = constants(2.0, 0.1, chi1=0.8, chi2=0.5)


def cell(index: int) -> Cell:
    found = Cell(Replica(nn.Linear(DIM - 1, 1)))
    x = torch.randn(DIM, generator=torch.Generator().manual_seed(index))
    found.begin(x, CONSTANTS, ByExchange(0.3))
    return found


def exchange(one: Cell, other: Cell, names: str = "ab", both: bool = True, number: int = 1) -> None:
    """What `Exchanger` does, without a network; `both`: whether the second side hears that it counts."""
    to_other, to_one = one.account(names[1]), other.account(names[0])
    leases = one.lease(names[1]), other.lease(names[0])
    one.agree(leases[0], to_one)
    other.agree(leases[1], to_other)
    sent = [lease.own.clone() for lease in leases]
    for lease, mine, theirs in zip(leases, sent, reversed(sent), strict=True):
        lease.out.copy_(lease.base).add_(theirs - mine, alpha=0.5)
    one.commit(leases[0], bytes([number]) * 16)
    if both:
        other.commit(leases[1], bytes([number]) * 16)
    one.release(leases[0])
    other.release(leases[1])


def held(*cells: Cell) -> Tensor:
    """(d,): the sum of z + 2 z~."""
    states = [cell.state for cell in cells]
    return torch.stack([state.z + 2 * state.z_tilde for state in states if state]).sum(0)


def test_an_exchange_moves_both_ends_by_opposite_amounts_and_books_them() -> None:
    one, other, generator = cell(1), cell(2), torch.Generator().manual_seed(0)
    for number in range(1, 50):
        exchange(one, other, number=number)
        one.gradient(one.x, torch.randn(DIM, generator=generator))
    assert float(held(one).norm()) > 0.1
    assert float(held(one, other).norm()) < 1e-11 * float(held(one).norm())
    assert torch.allclose(one.accounts["b"].moved, held(one), rtol=1e-12)
    assert one.accounts["b"].last == other.accounts["a"].last


def test_an_exchange_that_counted_on_one_side_only_is_found_at_the_next_and_undone() -> None:
    one, other = cell(1), cell(2)
    noted: list[str] = []
    other.written_off = noted.append
    exchange(one, other, number=1)
    exchange(one, other, both=False, number=2)
    assert float(held(one, other).norm()) > 1e-3
    exchange(one, other, number=3)
    assert noted == ["a"]
    assert float(held(one, other).norm()) < 1e-12


OTHERS = constants(2.0, 0.1, chi1=0.2, chi2=0.1)


def test_constants_that_change_during_an_exchange_are_for_the_next_one() -> None:
    one, other = cell(1), cell(2)
    leases = one.lease("b"), other.lease("a")
    one.agree(leases[0], other.account("a"))
    other.agree(leases[1], one.account("b"))
    for lease, sign in zip(leases, (1, -1), strict=True):
        lease.out.copy_(lease.base).add_(torch.ones(DIM), alpha=sign)
    one.commit(leases[0], bytes(16))
    other.constants = OTHERS
    other.commit(leases[1], bytes(16))
    assert float(held(one).norm()) > 0.1
    assert float(held(one, other).norm()) < 1e-11
    with pytest.raises(PeerBusy):
        exchange(one, other, number=2)


def test_a_doubt_that_is_settled_with_other_constants_is_found_at_the_next_exchange() -> None:
    one, other = cell(1), cell(2)
    exchange(one, other, both=False)
    one.constants = other.constants = OTHERS
    late = other.lease("a")
    late.out.copy_(late.base).add_(torch.ones(DIM))
    other.commit(late, bytes([1]) * 16)
    assert float(held(one, other).norm()) > 0.1
    exchange(one, other, number=2)
    assert float(held(one, other).norm()) < 1e-11


def test_without_one_of_three_the_rest_sums_to_zero_at_once() -> None:
    one, other, third = cell(1), cell(2), cell(3)
    for number in range(1, 20):
        exchange(one, other, "ab", number=number)
        exchange(other, third, "bc", number=number)
        exchange(one, third, "ac", number=number)
    assert float(held(one, other).norm()) > 1e-3
    for left in (one, other):
        left.keep(["a", "b"])
    assert float(held(one, other).norm()) < 1e-11
    reborn = cell(4)
    exchange(one, reborn, "ac", number=99)
    assert float(held(one, other, reborn).norm()) < 1e-11


def test_one_exchange_at_a_time_and_only_with_the_same_constants() -> None:
    one, other = cell(1), cell(2)
    lease = one.lease("b")
    with pytest.raises(PeerBusy):
        one.lease("c")
    one.release(lease)
    with pytest.raises(PeerBusy):
        Cell(Replica(nn.Linear(DIM - 1, 1))).lease("b")
    other.constants = constants(4.0, 0.1, chi1=0.8, chi2=0.5)
    lease = one.lease("b")
    with pytest.raises(PeerBusy):
        one.agree(lease, other.account("a"))
    with pytest.raises(PeerBusy):
        one.agree(lease, b"")


def test_begun_again_it_owes_nobody_and_an_exchange_under_way_is_void() -> None:
    one, other = cell(1), cell(2)
    exchange(one, other)
    lease = one.lease("b")
    one.restart(torch.ones(DIM))
    lease.out.fill_(1.0)
    one.commit(lease, bytes(16))
    assert float(held(one).norm()) == 0
    exchange(one, other, number=2)
    assert float(held(one, other).norm()) < 1e-12
