from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from p2ptrain.errors import ConfigError
from p2ptrain.seeds import numpy_random
from p2ptrain.training.splits import Data, examples

Split = Literal["iid", "dirichlet", "by-label"]
SPLITS: list[Split] = ["iid", "dirichlet", "by-label"]


def parts(labels: np.ndarray, data: Data, shards: int, seed: int = 0) -> list[np.ndarray]:
    return [examples(labels, data, shards, slot, seed) for slot in range(shards)]


@given(
    split=st.sampled_from(SPLITS),
    alpha=st.floats(1e-3, 1e3),
    shards=st.integers(1, 40),
    num_examples=st.integers(40, 400),
    num_classes=st.integers(1, 12),
    seed=st.integers(0, 1 << 40),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_parts_are_disjoint_cover_everything_and_none_is_empty(
    split: Split, alpha: float, shards: int, num_examples: int, num_classes: int, seed: int
) -> None:
    labels = numpy_random(seed, "labels").integers(0, num_classes, num_examples)
    found = parts(labels, Data(split=split, alpha=alpha), shards, seed)
    assert np.array_equal(np.sort(np.concatenate(found)), np.arange(num_examples))
    assert min(len(part) for part in found) >= max(1, num_examples // (10 * shards))


@pytest.mark.parametrize("split", SPLITS)
def test_a_slot_is_a_function_of_the_seed_and_wraps_around(split: Split) -> None:
    labels = np.arange(200) % 10
    data = Data(split=split)
    assert np.array_equal(examples(labels, data, 8, 3, 1), examples(labels, data, 8, 11, 1))
    assert not np.array_equal(examples(labels, data, 8, 3, 1), examples(labels, data, 8, 3, 2))


def test_iid_is_balanced() -> None:
    sizes = [len(part) for part in parts(np.zeros(103), Data(), 10)]
    assert max(sizes) - min(sizes) <= 1


def test_by_label_shows_each_node_few_labels() -> None:
    labels = np.arange(1000) % 10
    for part in parts(labels, Data(split="by-label"), 10):
        assert len(np.unique(labels[part])) == 1


def test_dirichlet_is_more_skewed_for_small_alpha() -> None:
    labels = np.arange(2000) % 10

    def skew(alpha: float) -> float:
        """Mean share of a node's most frequent label."""
        found = parts(labels, Data(split="dirichlet", alpha=alpha), 10)
        return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in found]))

    assert skew(0.05) > skew(0.5) > skew(100.0)
    assert skew(100.0) < 0.2


def test_fewer_examples_than_shards_is_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match="9 parts of 8 examples"):
        examples(np.zeros(8), Data(), 9, 0, 0)


@pytest.mark.parametrize("wrong", [{"alpha": 0}, {"shards": 0}, {"split": "random"}, {"slots": 1}])
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Data.model_validate(wrong)
