"""The integers: exact, the same whichever way they are computed."""

import numpy as np
import pytest
import torch

from p2ptrain.errors import ConfigError
from p2ptrain.strategies.spsa.arithmetic import lattice as module
from p2ptrain.strategies.spsa.arithmetic.lattice import UNIT, Lattice, Steps
from p2ptrain.strategies.spsa.arithmetic.noise import Evaluation, signs

KEY = (11, 12)


def start(size: int) -> Lattice:
    return Lattice.of(KEY, torch.randn(size, generator=torch.Generator().manual_seed(size)))


def steps(count: int) -> Steps:
    rng = np.random.default_rng(count)
    names = rng.integers(0, 2**32, (count, 3)).astype(np.uint32)
    return Steps(names, rng.integers(-(2**62), 2**62, count))


def by_definition(values: torch.Tensor, moves: Steps) -> list[int]:
    total = values.tolist()
    for name, size in zip(moves.evaluations.tolist(), moves.sizes.tolist(), strict=True):
        noise = signs(KEY, Evaluation(*name), len(total)).tolist()
        total = [value - size * sign for value, sign in zip(total, noise, strict=True)]
    return [(value + 2**63) % 2**64 - 2**63 for value in total]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
@pytest.mark.parametrize("size", [1, 127, 2100])
def test_the_kernel_and_torch_do_what_is_defined(size: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, in_torch = start(size), start(size)
    want = by_definition(compiled.values, steps(count))
    compiled.subtract(steps(count))
    monkeypatch.setattr(module, "kernels", lambda: None)
    monkeypatch.setattr(module, "_CHUNK", 1024)
    in_torch.subtract(steps(count))
    assert compiled.values.tolist() == want
    assert in_torch.values.tolist() == want
    assert compiled.digest() == in_torch.digest()


def test_steps_commute_and_can_be_taken_back() -> None:
    one, other, moves = start(1000), start(1000), steps(8)
    order = np.random.default_rng(0).permutation(8)
    one.subtract(moves)
    for index in order.tolist():
        other.subtract(Steps(moves.evaluations[[index]], moves.sizes[[index]]))
    assert one.digest() == other.digest()
    one.subtract(Steps(moves.evaluations, -moves.sizes))
    assert one.digest() == start(1000).digest()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_working_weights_are_the_integers_rounded_once(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    lattice, name, step = start(3000), Evaluation(1, 2, 3), 1 << 30
    noise = torch.from_numpy(signs(KEY, name, 3000)).long()
    want = ((lattice.values + step * noise).float() * UNIT).to(dtype)
    out = torch.empty(3000, dtype=dtype)
    lattice.perturbed(name, step, out)
    assert torch.equal(out, want)
    monkeypatch.setattr(module, "kernels", lambda: None)
    lattice.perturbed(name, step, out)
    assert torch.equal(out, want)
    lattice.weights(out)
    assert torch.equal(out, (lattice.values.float() * UNIT).to(dtype))


def test_weights_survive_the_lattice() -> None:
    weights = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    back = torch.empty(5000)
    Lattice.of(KEY, weights).weights(back)
    # Of the smallest floats the last bits are finer than 2^-40.
    torch.testing.assert_close(back, weights, rtol=0, atol=UNIT / 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -5e6])
def test_weights_that_do_not_fit_are_refused(bad: float) -> None:
    with pytest.raises(ConfigError, match="some are larger or not finite"):
        Lattice.of(KEY, torch.tensor([0.0, bad]))


def test_the_digest_is_pinned() -> None:
    # Peers with different versions of this program compare digests: whoever changes this needs another VERSION.
    lattice = Lattice.of(KEY, torch.arange(300) / 8)
    lattice.subtract(Steps(np.array([[1, 2, 3], [4, 5, 6]], np.uint32), np.array([1 << 35, -7])))
    assert lattice.digest().hex() == "6f6da10d970a8c17255c03bef8b0e2440a87f164a8a81af59b821cca3f58d52b"
