"""The noise: the generator is Philox, and its three implementations agree bit for bit."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.strategies.spsa.arithmetic.noise import Evaluation, Key, kernels, signs, signs_on

CONSTANTS = {
    32: ((0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)),
    64: ((0xD2E7470EE14C6C93, 0xCA5A826395121157), (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)),
}
WORD = st.integers(0, 2**32 - 1)


def philox(counter: tuple[int, ...], key: tuple[int, int], bits: int) -> list[int]:
    """Philox4x32-10 or Philox4x64-10 as the paper has it, in Python's integers."""
    (m0, m1), weyl = CONSTANTS[bits]
    mask = (1 << bits) - 1
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * m0, c2 * m1
        c0, c1, c2, c3 = (p1 >> bits) ^ c1 ^ k0, p1 & mask, (p0 >> bits) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + weyl[0]) & mask, (k1 + weyl[1]) & mask
    return [c0, c1, c2, c3]


def expected(key: Key, evaluation: Evaluation, size: int, first: int) -> list[int]:
    out: list[int] = []
    for block in range(first, first + -(-size // 128)):
        for word in philox((block, *evaluation), key, 32):
            out += [1 if word >> bit & 1 else -1 for bit in range(32)]
    return out[:size]


def compiled(key: Key, evaluation: Evaluation, size: int, first: int) -> np.ndarray:
    out = np.empty(size, np.float32)
    words = map(np.uint32, (*key, first, *evaluation))
    kernels().perturbed(np.zeros(size, np.int64), *words, 1, np.float32(1), out)
    return out


def test_the_reference_is_philox() -> None:
    # numpy has the 64-bit variant, and counts before it draws; the paper's authors published these for the 32-bit one.
    key, counter = np.array([7, 2**63 + 1], np.uint64), np.array([1, 2, 3, 4], np.uint64)
    generator = np.random.Philox(key=key, counter=counter)
    assert philox((2, 2, 3, 4), (7, 2**63 + 1), 64) == generator.random_raw(4).tolist()
    assert philox((0, 0, 0, 0), (0, 0), 32) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert philox(*pi, 32) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


@settings(deadline=None, max_examples=60)
@given(WORD, WORD, WORD, WORD, WORD, st.integers(1, 400), st.integers(0, 2**32 - 8))
def test_numpy_torch_and_the_kernel_agree_with_it(
    k0: int, k1: int, number: int, slot: int, sample: int, size: int, first: int
) -> None:
    case = (k0, k1), Evaluation(number, slot, sample), size, first
    want = expected(*case)
    assert signs(*case).tolist() == want
    assert signs_on(torch.device("cpu"), *case).tolist() == want
    assert compiled(*case).tolist() == want


@pytest.mark.parametrize("size", [2047, 2048, 2049, 5000, 4096 + 31])
def test_pieces_of_the_kernel_join(size: int) -> None:
    case = (1, 2), Evaluation(3, 4, 5), size, 6
    assert (compiled(*case) == signs(*case)).all()


def test_noise_is_balanced_and_differs_by_every_coordinate() -> None:
    size = 1 << 16
    base = signs((1, 2), Evaluation(3, 4, 5), size).astype(int)
    others = [
        signs((1, 3), Evaluation(3, 4, 5), size),
        signs((1, 2), Evaluation(4, 4, 5), size),
        signs((1, 2), Evaluation(3, 5, 5), size),
        signs((1, 2), Evaluation(3, 4, 6), size),
    ]
    bound = 5 * size**0.5
    assert abs(base.sum()) < bound
    assert all(abs((base * other).sum()) < bound for other in others)


def test_looking_for_strategies_imports_nothing_of_it() -> None:
    code = (
        "import sys; from p2ptrain.strategies import names; names();"
        "print('p2ptrain.strategies.spsa' in sys.modules, 'p2ptrain.strategies.spsa.arithmetic.noise' in sys.modules);"
        "import p2ptrain.strategies.spsa.ledger.replica; print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.split() == ["True", "False", "False"]
