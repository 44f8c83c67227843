"""The convex task: its optimum is what training approaches, and shards add up to the whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer

from p2ptrain.errors import ConfigError
from p2ptrain.seeds import numpy_random
from p2ptrain.training import tables, tasks
from p2ptrain.training.replica import Replica, named_slices
from p2ptrain.training.splits import Data, examples
from p2ptrain.training.tasks.convex import Convex
from p2ptrain.training.trainer import Trainer

KINDS = [{}, {"problem": "least-squares"}]
SETS = [{"dataset": "breast-cancer"}, {"dataset": "digits"}, {"dataset": "synthetic"}]
ALL = [{**kind, **dataset} for kind in KINDS for dataset in SETS]


def convex(**options: Any) -> Convex:
    task = tasks.make("convex", **options)
    assert isinstance(task, Convex)
    return task


def trained(task: Convex, steps: int, lr: float) -> Trainer:
    mine = np.arange(len(task.labels()))
    trainer = Trainer(task.model_copy(update={"lr": lr}), Replica(task.model(0)), mine, seed=0, slot=0)
    for _ in range(steps):
        trainer.step()
    return trainer


@pytest.mark.parametrize("options", ALL)
def test_the_gap_is_one_at_the_start_and_falls_as_theory_says(options: dict[str, Any]) -> None:
    """Gradient descent with step 1 / L shrinks the distance by 1 - mu / L each time."""
    task = convex(**options, condition=20, whole=True)
    objective = task.objective()
    assert trained(task, 0, 1.0).evaluate().gap == pytest.approx(1)
    gap = trained(task, 150, 1 / objective.smoothness).evaluate().gap
    assert gap is not None
    assert gap < (1 - objective.convexity / objective.smoothness) ** 300 * 1.01 + 1e-11


@pytest.mark.parametrize("options", ALL)
def test_at_the_optimum_there_is_no_gap_but_for_rounding(options: dict[str, Any]) -> None:
    task = convex(**options)
    model = task.model(3)
    model.load_state_dict({"weights": torch.from_numpy(task.objective().optimum)})
    assert task.gap(model) < 1e-14
    loss = task.loss(model, convex(**options, whole=True).batch(np.arange(len(task.labels())), numpy_random(0)))
    assert loss.item() == pytest.approx(task.objective().value(task.objective().optimum), rel=1e-5)
    loss.backward()
    (weights,) = model.parameters()
    assert weights.grad is not None
    assert float(weights.grad.norm()) < 1e-5


@pytest.mark.parametrize("split", ["iid", "by-label", "dirichlet"])
@pytest.mark.parametrize("options", ALL)
def test_the_mean_of_the_shards_is_the_whole(options: dict[str, Any], split: Any) -> None:
    task = convex(**options)
    parts = [examples(task.labels(), Data(split=split), 7, slot, seed=1) for slot in range(7)]
    shards, whole = [task.objective(part, shards=7) for part in parts], task.objective()
    w = np.random.default_rng(0).normal(size=len(whole.optimum))
    assert np.mean([shard.gradient(w) for shard in shards], axis=0) == pytest.approx(
        whole.gradient(w), rel=1e-9, abs=1e-12
    )
    assert min(shard.convexity for shard in shards) <= whole.convexity * (1 + 1e-9)
    assert max(shard.smoothness for shard in shards) >= whole.smoothness * (1 - 1e-9)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("condition", [3, 100, 1e4])
def test_made_up_problems_are_as_hard_as_asked(options: dict[str, Any], condition: float) -> None:
    objective = convex(dataset="synthetic", condition=condition, **options).objective()
    assert objective.smoothness == pytest.approx(1, rel=1e-5)
    assert objective.smoothness / objective.convexity == pytest.approx(condition, rel=1e-3)


def test_the_penalty_can_be_given() -> None:
    assert convex(l2=0.5).objective().l2 == 0.5
    ridge = convex(dataset="synthetic", problem="least-squares", l2=0).objective()
    assert (ridge.l2, ridge.smoothness / ridge.convexity) == pytest.approx((0, 100), rel=1e-4)


def test_breast_cancer_is_that_of_scikit_learn_and_splits_evenly() -> None:
    theirs: Any = load_breast_cancer()
    features, targets = tables.bundled("breast_cancer.csv", skip_rows=1)
    assert np.array_equal(features, theirs.data)
    assert np.array_equal(targets, theirs.target)
    assert len(convex().labels()) == 480
    assert len(convex(dataset="digits").labels()) == 1440
    accuracy = trained(convex(), 300, 0.2).evaluate().accuracy
    assert accuracy is not None
    assert accuracy > 0.95


def test_labels_split_classes_or_ranges_of_the_target() -> None:
    assert set(convex().labels()) == {0, 1}
    task = convex(problem="least-squares", dataset="synthetic", examples=100, dim=3)
    assert np.bincount(task.labels()).tolist() == [10] * 10
    assert (
        np.diff(task.objective().targets[np.argsort(task.labels(), kind="stable")].reshape(10, 10).max(1)) > 0
    ).all()


def test_only_the_weights_travel() -> None:
    assert [name for name, _ in named_slices(convex().model(0))] == ["weights"]


def test_whole_batches_are_the_shard() -> None:
    mine = np.array([5, 3, 9])
    rows, targets = convex(whole=True).batch(mine, numpy_random(0))
    assert torch.equal(rows, torch.from_numpy(convex().objective().rows[mine]).float())
    assert torch.equal(targets, torch.from_numpy(convex().objective().targets[mine]).float())


def a_csv(folder: Path, rows: np.ndarray) -> str:
    path = folder / "own.csv"
    np.savetxt(path, rows, delimiter=",", header="a,b,label", comments="")
    return str(path)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 2)) * [100, 1] + [1000, 0]
    label = (features[:, 1] + 0.3 * rng.normal(size=200) > 0).astype(float)
    task = convex(dataset=a_csv(tmp_path, np.column_stack([features, label])), target="label", whole=True, condition=20)
    assert len(task.labels()) == 170
    metrics = trained(task, 200, 1 / task.objective().smoothness).evaluate()
    assert metrics.gap is not None
    assert metrics.accuracy is not None
    assert metrics.gap < 1e-6
    assert metrics.accuracy > 0.8


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dataset": "iris"}, r"unknown dataset 'iris'; choose one of breast-cancer, digits, synthetic, or a file"),
        ({"target": "label"}, "target names a column of a file; breast-cancer has none"),
        ({"dim": 5}, "leave them out with breast-cancer"),
        ({"l2": 0}, "l2 must be above zero"),
        ({"l2": -1, "problem": "least-squares"}, "l2: .*greater than or equal to 0"),
        ({"condition": 1}, "condition: .*greater than 1"),
        ({"dataset": "synthetic", "dim": 30, "examples": 20}, "examples must be no fewer than dim"),
        ({"dataset": "synthetic", "l2": 0.5}, "l2 must be no more than 1 / condition"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refusal:
        convex(**options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("rows", "options", "reason"),
    [
        (np.arange(30.0).reshape(10, 3), {}, "takes targets 0 and 1, not "),
        (np.ones((10, 3)), {}, "all targets are 1; is target the right column"),
        (np.ones((10, 3)), {"problem": "least-squares"}, "all targets are 1"),
        (np.arange(30.0).reshape(10, 3), {"problem": "least-squares", "l2": 0}, "singular.*set l2 above zero"),
        (np.array([[1.0, 2.0, 1.0]]), {}, "1 examples are too few"),
    ],
)
def test_data_that_will_not_do(tmp_path: Path, rows: np.ndarray, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refusal:
        convex(dataset=a_csv(tmp_path, rows), **options).labels()
    assert "own.csv" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.csv: No such file or directory"):
        convex(dataset=str(tmp_path / "none.csv")).labels()
