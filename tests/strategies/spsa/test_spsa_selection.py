"""Which parameters take part."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from p2ptrain.errors import ConfigError
from p2ptrain.strategies.spsa.arithmetic.selection import Selection, of_indices, of_parameters
from p2ptrain.training.replica import Replica


def module() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("pattern", "ranges"),
    [
        ("", (slice(0, 29),)),
        (r"bias$", (slice(12, 15), slice(18, 21), slice(27, 29))),
        (r"^2\.", (slice(21, 29),)),
        (r"^0\.bias|^1\.weight", (slice(12, 18),)),
    ],
)
def test_parameters_by_name(pattern: str, ranges: tuple[slice, ...]) -> None:
    assert of_parameters(module(), pattern).ranges == ranges


def test_what_is_selected_changes_and_nothing_else() -> None:
    replica = Replica(module())
    before = replica.flat.clone()
    selection = of_parameters(replica.module, r"^2\.bias$")
    selection.scatter(torch.tensor([7.0, 8.0]), replica.flat)
    assert replica.module.get_parameter("2.bias").tolist() == [7.0, 8.0]
    replica.flat[27:29] = before[27:29]
    assert torch.equal(replica.flat, before)


@given(st.sets(st.integers(0, 30), min_size=1))
def test_any_elements(indices: set[int]) -> None:
    selection, flat = of_indices(indices), torch.arange(31.0)
    assert selection.size == len(indices)
    assert selection.gather(flat).tolist() == sorted(indices)
    selection.scatter(selection.gather(flat) + 100, flat)
    assert [int(value) for value in flat] == [each + 100 * (each in indices) for each in range(31)]


@pytest.mark.parametrize("pattern", ["nothing", "("])
def test_a_pattern_that_cannot_be_meant_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="parameters:"):
        of_parameters(module(), pattern)


@pytest.mark.parametrize("ranges", [(slice(3, 3),), (slice(4, 6), slice(5, 7)), (slice(0, 4, 2),)])
def test_ranges_that_overlap_or_are_empty_are_refused(ranges: tuple[slice, ...]) -> None:
    with pytest.raises(ValueError, match="not an ascending range"):
        Selection(ranges)
