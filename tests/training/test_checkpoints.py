import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from p2ptrain.errors import CheckpointError, ConfigError
from p2ptrain.training import checkpoints, folder
from p2ptrain.training.checkpoints import Checkpoint, capture, latest, restore, save
from p2ptrain.training.folder import Folder
from p2ptrain.training.replica import Replica
from p2ptrain.training.tasks.digits import Digits
from p2ptrain.training.trainer import Recipe, Trainer


def trainer(network: Any = "mlp", hidden: int = 4, **recipe: Any) -> Trainer:
    task = Digits(network=network, hidden=hidden)
    return Trainer(task, Replica(task.model(0)), np.arange(100), Recipe(**recipe), seed=0, slot=0)


def trained(steps: int, **recipe: Any) -> Trainer:
    found = trainer(**recipe)
    for _ in range(steps):
        found.step()
    return found


def equal(one: Checkpoint, two: Checkpoint) -> bool:
    return (
        one.header == two.header
        and one.tensors.keys() == two.tensors.keys()
        and torch.equal(one.vector, two.vector)
        and all(torch.equal(tensor, two.tensors[name]) for name, tensor in one.tensors.items())
    )


@pytest.fixture(scope="module")
def sample() -> Checkpoint:
    return capture(trained(3, optimizer="AdamW"), "demo", 12.5)


FINGERPRINT = trainer().replica.fingerprint


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"options": {"momentum": 0.9, "nesterov": True}},
        {"optimizer": "AdamW", "lr": 0.01},
        {"optimizer": "Adafactor", "lr": 0.01},
        {"optimizer": "NAdam", "lr": 0.01},
        {"optimizer": "ASGD", "lr": 0.01},
        {"network": "cnn"},
        {"precision": "fp16"},
        {"estimator": {"name": "clip", "tau": 0.1}},
    ],
    ids=str,
)
def test_training_goes_on_bit_for_bit(tmp_path: Path, recipe: dict[str, Any]) -> None:
    uninterrupted = trained(6, **recipe)
    before = trained(3, **recipe)
    save(Folder(tmp_path), capture(before, "demo", 0.0))
    after = trainer(**recipe)
    found, refused = latest(Folder(tmp_path), after.replica.fingerprint, "demo")
    assert found is not None
    assert refused == []
    restore(after, found)
    assert after.steps == 3
    for _ in range(3):
        after.step()
    assert after.replica.digest() == uninterrupted.replica.digest()
    assert equal(capture(after, "demo", 0.0), capture(uninterrupted, "demo", 0.0))


def test_a_capture_is_a_copy_and_so_is_what_is_restored(sample: Checkpoint) -> None:
    kept = dataclasses.replace(
        sample, vector=sample.vector.clone(), tensors={name: tensor.clone() for name, tensor in sample.tensors.items()}
    )
    resumed = trainer(optimizer="AdamW")
    restore(resumed, sample)
    resumed.step()
    assert equal(sample, kept)
    own = trained(1, optimizer="AdamW")
    captured = capture(own, "demo", 0.0)
    vector = captured.vector.clone()
    own.step()
    assert torch.equal(captured.vector, vector)


def test_a_capture_holds_corrections_that_wait(tmp_path: Path) -> None:
    one = trainer()
    lease = one.replica.lease()
    torch.add(lease.own, 1.0, out=lease.out)
    expected = lease.out.clone()
    one.replica.commit(lease)
    assert torch.equal(capture(one, "demo", 0.0).vector, expected)


def test_what_was_saved_is_what_is_loaded(tmp_path: Path, sample: Checkpoint) -> None:
    save(Folder(tmp_path / "new" / "folder"), sample)
    found, refused = latest(Folder(tmp_path / "new" / "folder"), FINGERPRINT, "demo")
    assert found is not None
    assert equal(found, sample)
    assert refused == []


def test_the_newest_two_are_kept_and_the_newest_is_not_the_one_with_most_steps(
    tmp_path: Path, sample: Checkpoint
) -> None:
    # A node whose disk was restored, or that starts over, may save a smaller step after a larger one.
    for step in (9, 5, 1, 7, 2):
        save(Folder(tmp_path), dataclasses.replace(sample, header=sample.header.model_copy(update={"step": step})))
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "000004-step-7.safetensors",
        "000005-step-2.safetensors",
    ]
    found, _ = latest(Folder(tmp_path), FINGERPRINT, "demo")
    assert found is not None
    assert found.step == 2


def test_nothing_there(tmp_path: Path) -> None:
    assert latest(Folder(tmp_path / "none"), FINGERPRINT, "demo") == (None, [])


def test_a_crash_between_write_and_rename(tmp_path: Path, sample: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    save(Folder(tmp_path), sample)

    class Killed(BaseException):
        pass

    def die(self: Path, target: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(Killed):
            save(Folder(tmp_path), sample)
    (tmp_path / "000009-step-1.tmp").write_bytes(b"half")
    assert len(list(tmp_path.glob("*.tmp"))) == 2
    found, refused = latest(Folder(tmp_path), FINGERPRINT, "demo")
    assert found is not None
    assert refused == []
    assert list(tmp_path.glob("*.tmp")) == []
    save(Folder(tmp_path), sample)
    assert len(list(tmp_path.iterdir())) == 2


def test_file_and_folder_are_on_the_disk_before_the_old_one_goes(
    tmp_path: Path, sample: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for owner, name in ((folder.os, "fsync"), (Path, "replace"), (Path, "unlink")):
        original: Callable[..., Any] = getattr(owner, name)

        def spy(first: Any, *rest: Any, _name: str = name, _call: Callable[..., Any] = original, **more: Any) -> Any:
            calls.append(_name)
            return _call(first, *rest, **more)

        monkeypatch.setattr(owner, name, spy)
    for _ in range(3):
        calls.clear()
        save(Folder(tmp_path), sample)
    assert calls == ["fsync", "replace", "fsync", "unlink"]


def test_a_damaged_one_is_refused_and_the_one_before_is_used(tmp_path: Path, sample: Checkpoint) -> None:
    save(Folder(tmp_path), sample)
    newest = tmp_path / save(Folder(tmp_path), sample)
    newest.write_bytes(newest.read_bytes()[:-100])
    found, refused = latest(Folder(tmp_path), FINGERPRINT, "demo")
    assert found is not None
    assert equal(found, sample)
    (error,) = refused
    assert str(newest) in str(error)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, sample: Checkpoint) -> tuple[Path, bytes]:
    home = tmp_path_factory.mktemp("checkpoints")
    path = home / save(Folder(home), sample)
    return path, path.read_bytes()


@given(data=st.data())
@settings(max_examples=400, deadline=None, derandomize=True)
def test_flipped_bits_never_load_as_something_else(
    data: st.DataObject, written: tuple[Path, bytes], sample: Checkpoint
) -> None:
    path, content = written
    header = 8 + int.from_bytes(content[:8], "little")
    places = st.one_of(st.integers(0, header - 1), st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    for place in data.draw(st.lists(places, min_size=1, max_size=3)):
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    found, refused = latest(Folder(path.parent), FINGERPRINT, "demo")
    assert (found is None) == (len(refused) == 1)
    assert found is None or equal(found, sample)


@given(st.integers(0, 1 << 20))
@example(0)
@example(7)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_truncated_files_are_refused(written: tuple[Path, bytes], length: int) -> None:
    path, content = written
    path.write_bytes(content[: length % len(content)])
    found, (error,) = latest(Folder(path.parent), FINGERPRINT, "demo")
    assert found is None
    assert "damaged" in str(error)


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_bytes_are_refused(written: tuple[Path, bytes], content: bytes) -> None:
    path, _ = written
    path.write_bytes(content)
    found, refused = latest(Folder(path.parent), FINGERPRINT, "demo")
    assert found is None
    assert len(refused) == 1


def test_other_versions_models_and_runs_are_refused(tmp_path: Path, sample: Checkpoint) -> None:
    save(Folder(tmp_path), sample)
    for fingerprint, run, message in (
        (b"\0" * 32, "demo", "of another model"),
        (FINGERPRINT, "other", "of the run 'demo', not 'other'"),
    ):
        found, (error,) = latest(Folder(tmp_path), fingerprint, run)
        assert found is None
        assert message in str(error)
    future = dataclasses.replace(sample, header=sample.header.model_copy(update={"version": 2}))
    save(Folder(tmp_path), future)
    found, (error,) = latest(Folder(tmp_path), FINGERPRINT, "demo")
    assert found is not None
    assert "format version 2, this program reads 1" in str(error)


def test_safetensors_of_others_are_refused(tmp_path: Path) -> None:
    save_file({"vector": torch.zeros(3)}, tmp_path / "000001-step-1.safetensors")
    save_file({"vector": torch.zeros(3)}, tmp_path / "weights.safetensors")
    found, refused = latest(Folder(tmp_path), FINGERPRINT, "demo")
    assert found is None
    assert len(refused) == 1
    assert (tmp_path / "weights.safetensors").exists()


def test_a_file_with_a_true_hash_but_no_sense_is_refused(tmp_path: Path, sample: Checkpoint) -> None:
    path = tmp_path / save(Folder(tmp_path), sample)
    tensors = load_file(path)
    text = json.dumps({**sample.header.model_dump(), "step": "three"})
    save_file(tensors, path, {"p2ptrain": text, "sha256": checkpoints._digest(text, tensors)})
    found, (error,) = latest(Folder(tmp_path), FINGERPRINT, "demo")
    assert found is None
    assert "step" in str(error)


def test_restoring_into_another_trainer_changes_nothing(sample: Checkpoint) -> None:
    for other, message in (
        (trainer(hidden=5, optimizer="AdamW"), "another model"),
        (trainer(), "optimizer AdamW .* this run uses SGD"),
        (trainer(optimizer="AdamW", options={"amsgrad": True}), "amsgrad"),
    ):
        before = other.replica.digest()
        with pytest.raises(CheckpointError, match=message):
            restore(other, sample)
        assert (other.replica.digest(), other.steps) == (before, 0)


def test_a_changed_learning_rate_is_kept_on_resuming(sample: Checkpoint) -> None:
    resumed = trainer(optimizer="AdamW", lr=0.5)
    restore(resumed, sample)
    resumed.step()
    assert resumed.optimizer.param_groups[0]["lr"] == 0.5


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, sample: Checkpoint) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=str(tmp_path / "file")):
        save(Folder(tmp_path / "file" / "folder"), sample)
    with pytest.raises(ConfigError, match=str(tmp_path / "file")):
        save(Folder(tmp_path / "file"), sample)
