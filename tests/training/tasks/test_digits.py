from typing import Any, Literal

import numpy as np
import pytest
from sklearn.datasets import load_digits

from p2ptrain.training.replica import Replica, named_slices
from p2ptrain.training.splits import Data, examples
from p2ptrain.training.tables import bundled
from p2ptrain.training.tasks import digits
from p2ptrain.training.tasks.digits import Digits
from p2ptrain.training.trainer import Trainer


@pytest.mark.parametrize(("network", "steps"), [("mlp", 400), ("cnn", 150)])
def test_one_node_with_all_the_data_learns_it(network: Literal["mlp", "cnn"], steps: int) -> None:
    task = Digits(network=network)
    mine = examples(task.labels(), Data(), shards=1, slot=0, seed=0)
    trainer = Trainer(task, Replica(task.model(0)), mine, seed=0, slot=0)
    for _ in range(steps):
        trainer.step()
    accuracy = trainer.evaluate().accuracy
    assert accuracy is not None
    assert accuracy > 0.96


def test_data_is_that_of_scikit_learn_and_the_test_set_is_apart() -> None:
    theirs: Any = load_digits()
    pixels, labels = bundled("digits.csv.gz")
    assert np.array_equal(pixels, theirs.data)
    assert np.array_equal(labels, theirs.target)
    train, train_labels, test, test_labels = digits._load()
    assert (len(train), len(test)) == (len(train_labels), len(test_labels)) == (1397, 400)
    assert np.bincount(test_labels).min() > 25
    assert abs(float(train.mean())) < 1e-5
    assert abs(float(train.std()) - 1) < 1e-3


def test_running_statistics_are_exchanged() -> None:
    assert any("running_mean" in name for name, _ in named_slices(Digits(network="cnn").model(0)))
