"""Fine-tuning a causal model of Hugging Face, whole or with adapters: here a Llama of a few thousand numbers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from p2ptrain.errors import ConfigError
from p2ptrain.simulation.loop import run
from p2ptrain.simulation.world import World
from p2ptrain.telemetry.events import Evaluated, Stamped, Stopped
from p2ptrain.topology import Topology
from p2ptrain.training import tasks
from p2ptrain.training.replica import Replica
from p2ptrain.training.starts import frozen_digest
from p2ptrain.training.tasks import Task

TEXT = "Whoever trains a model together with others wants to end with what they have. " * 40
LORA = {"rank": 2, "alpha": 4}
KINDS = pytest.mark.parametrize(
    ("lora", "dtype"), [(lora, dtype) for lora in (None, LORA) for dtype in ("fp32", "bf16")], ids=str
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("model")
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(found)
    (found / "text.txt").write_text(TEXT)
    return found


def settings(folder: Path, lora: dict[str, Any] | None, dtype: str) -> dict[str, Any]:
    body = {"name": "hf-causal", "folder": str(folder), "text": str(folder / "text.txt"), "context": 16, "dtype": dtype}
    return body | ({"lora": lora} if lora else {})


def mean_loss(task: Task, module: torch.nn.Module) -> float:
    with torch.no_grad():
        return task.evaluate(module).loss


@KINDS
def test_steps_lower_the_loss_and_change_only_what_is_trained(
    folder: Path, lora: dict[str, Any] | None, dtype: str
) -> None:
    task = tasks.parse(settings(folder, lora, dtype))
    replica = Replica(task.start(0))
    trained = {name: each for name, each in replica.module.named_parameters() if each.requires_grad}
    assert {each.dtype for each in trained.values()} == {torch.float32}
    assert all("lora_" in name for name in trained) == bool(lora)
    frozen = {each.dtype for each in replica.module.parameters() if not each.requires_grad}
    assert frozen == ({torch.bfloat16 if dtype == "bf16" else torch.float32} if lora else set())

    before, kept, rng = mean_loss(task, replica.module), frozen_digest(replica.module), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        task.loss(replica.module, task.batch(np.arange(len(task.labels())), rng)).backward()
        optimizer.step()
    assert abs(before - math.log(256)) < 0.5
    assert mean_loss(task, replica.module) < before - 0.1
    assert frozen_digest(replica.module) == kept
    assert replica.digest() == Replica(task.start(0)).digest()  # nothing was published yet
    replica.publish()
    assert replica.digest() != Replica(task.start(0)).digest()


@KINDS
def test_nodes_end_with_the_same_bits_at_one_byte_per_evaluation(
    folder: Path, lora: dict[str, Any] | None, dtype: str
) -> None:
    strategy = {"name": "spsa", "lr": 1e-3, "eps": 1e-2, "exponent": -3, "audit_every": 8}
    run_ = {"task": settings(folder, lora, dtype), "strategy": strategy, "steps": 12, "evaluate_every": 1}
    file = Topology.model_validate({"name": "finetune", "run": run_, "nodes": [{"count": 2}], "node": {"step": 0.2}})
    log: list[Stamped] = []

    async def main() -> None:
        await World(file, log.append).run(3600.0)

    run(main())
    ends = {stamped.node: stamped.event.digest for stamped in log if isinstance(stamped.event, Stopped)}
    assert len(ends) == 2
    assert len(set(ends.values())) == 1
    losses = [stamped.event.loss for stamped in log if isinstance(stamped.event, Evaluated)]
    assert len(losses) >= 4
    assert losses[0] != losses[-1]
    assert all(math.isfinite(loss) for loss in losses)


def test_a_folder_without_a_model_and_layers_that_are_not_there_are_refused_in_words(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"folder: {tmp_path}: "):
        tasks.parse(settings(tmp_path, None, "fp32")).start(0)
    with pytest.raises(ConfigError, match=r"lora.on: 'nothing': .*; layers are inner.model.layers.0"):
        tasks.parse(settings(folder, {"on": "nothing"}, "fp32")).start(0)
