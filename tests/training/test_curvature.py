"""L and mu from products with the Hessian alone."""

import pytest
import torch

from p2ptrain.training.curvature import extremes


@pytest.mark.parametrize("seed", range(20))
def test_where_all_directions_curve_alike_the_two_are_equal(seed: int) -> None:
    x = torch.randn(20, requires_grad=True)
    largest, smallest = extremes(0.05 * x.square().sum() / 2, [x], seed)
    assert smallest <= largest
    assert largest == pytest.approx(0.05)
    assert smallest == pytest.approx(0.05)


def test_both_ends_of_the_spectrum_are_found_to_a_few_percent() -> None:
    spectrum = torch.linspace(0.1, 2.0, 12)
    x = torch.randn(12, requires_grad=True)
    largest, smallest = extremes((spectrum * x.square()).sum() / 2, [x])
    assert largest == pytest.approx(2.0, rel=0.05)
    assert 0.1 * 0.9 <= smallest <= 0.1 * 1.5
