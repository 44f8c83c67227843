import math
from pathlib import Path

import numpy as np
import pytest
import torch

from p2ptrain.errors import ConfigError
from p2ptrain.seeds import numpy_random
from p2ptrain.training import tasks
from p2ptrain.training.gpt import GPT
from p2ptrain.training.replica import Replica
from p2ptrain.training.splits import Data, examples
from p2ptrain.training.tasks.charlm import BLOCK, PRESETS, CharLM
from p2ptrain.training.text import read
from p2ptrain.training.trainer import Trainer


@pytest.mark.parametrize("size", list(PRESETS))
def test_presets_have_the_size_they_are_named_for(size: str) -> None:
    preset = PRESETS[size]
    with torch.device("meta"):
        model = GPT(preset.width, preset.layers, preset.heads)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == pytest.approx(float(size.removesuffix("M")) * 1e6, rel=0.15)


def test_defaults_follow_the_size_and_can_be_overridden() -> None:
    task = tasks.make("charlm", size="10M", lr=0.5)
    assert isinstance(task, CharLM)
    assert (task.context, task.lr) == (PRESETS["10M"].context, 0.5)
    assert CharLM().lr == PRESETS["0.2M"].lr
    with pytest.raises(ConfigError, match="size"):
        tasks.make("charlm", size="7B")


@pytest.mark.parametrize("size", ["0.2M", "1M"])
def test_an_untrained_model_knows_nothing(size: str) -> None:
    task = tasks.make("charlm", size=size)
    with torch.no_grad():
        assert task.evaluate(task.model(0).eval()).loss == pytest.approx(math.log(256), abs=0.15)


def test_no_byte_sees_the_future() -> None:
    model = CharLM().model(0)
    for block in model.get_submodule("blocks").children():
        torch.nn.init.normal_(block.get_parameter("attention_out.weight"), std=0.1)
    text = torch.randint(0, 256, (2, 32), generator=torch.Generator().manual_seed(0))
    changed = text.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 256
    with torch.no_grad():
        before, after = model(text), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20], after[:, 20])


def test_it_learns_within_a_hundred_steps() -> None:
    task = CharLM()
    mine = examples(task.labels(), Data(), shards=4, slot=1, seed=0)
    trainer = Trainer(task, Replica(task.model(0)), mine, seed=0, slot=1)
    for _ in range(100):
        trainer.step()
    metrics = trainer.evaluate()
    assert metrics.loss < 2.6
    assert metrics.accuracy is not None
    assert metrics.accuracy > 0.3


def test_windows_lie_inside_the_nodes_own_training_blocks(tmp_path: Path) -> None:
    path = tmp_path / "numbers.bin"
    # Byte i says which block it is in, so a window that strays shows at once.
    path.write_bytes(b"".join(bytes([block]) * BLOCK for block in range(40)))
    task = CharLM(text=path, batch_size=200)
    assert len(task.labels()) == 36
    blocks = np.setdiff1d(np.arange(40), np.arange(40)[np.arange(40) // 4 % 10 == 9])
    inputs, targets = task.batch(np.array([3, 35]), numpy_random(0))
    assert inputs.shape == targets.shape == (200, 64)
    assert torch.equal(inputs, targets)
    assert set(inputs.unique().tolist()) == {blocks[3], blocks[35]}


def test_targets_are_the_next_bytes(tmp_path: Path) -> None:
    path = tmp_path / "count.bin"
    path.write_bytes(bytes(range(256)) * 100)
    inputs, targets = CharLM(text=path).batch(np.arange(5), numpy_random(0))
    assert torch.equal((inputs + 1) % 256, targets)


def test_labels_are_regions_of_the_text() -> None:
    labels = CharLM().labels()
    assert np.array_equal(np.unique(labels), np.arange(16))
    assert np.all(np.diff(labels) >= 0)


def test_no_more_is_read_than_asked() -> None:
    text = read(None, 1 << 20)
    assert text.dtype == np.uint8
    assert len(text) == 1 << 20
    assert not text.flags.writeable


def test_the_text_is_kept_from_the_first_batch_on(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(bytes(range(256)) * 200)
    task = CharLM(text=path)
    examples = np.arange(len(task.labels()))
    before = task.batch(examples, numpy_random(0))
    path.unlink()
    assert torch.equal(task.batch(examples, numpy_random(0))[0], before[0])


def test_folders_are_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name, content in {"z.txt": "1", "b/a.txt": "2", ".secret": "3", ".git/x": "4"}.items():
        (tmp_path / name).write_text(content)
    assert read(tmp_path, 100).tobytes() == b"12"


def test_missing_empty_and_short_texts_are_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.txt: No such file"):
        CharLM(text=tmp_path / "none.txt").labels()
    with pytest.raises(ConfigError, match="nothing to read"):
        CharLM(text=tmp_path).labels()
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(ConfigError, match="9 bytes are too few; give at least 20480"):
        CharLM(text=tmp_path / "short.txt").labels()
