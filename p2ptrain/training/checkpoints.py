"""Checkpoints that survive `kill -9`: written beside the old one and renamed, hashed throughout, read without pickle.

A checkpoint is one safetensors file: the flat vector, the optimizer's state tensor by tensor, and, in its header,
a JSON text with everything else and the SHA-256 of that text and all tensors. `capture` and `restore` belong to the
compute thread; `save` and `latest` may run anywhere.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from p2ptrain.errors import CheckpointError
from p2ptrain.ports import Disk
from p2ptrain.registry import explain
from p2ptrain.training.trainer import Trainer

VERSION = 1
KEPT = 2
"""The newest, and one to fall back on should it be damaged."""
Scalar = int | float | bool | None


class Header(BaseModel):
    """What is not a tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: int = VERSION
    run: str
    fingerprint: str
    """Hex; of `Replica.fingerprint`."""
    step: int
    time_unix_s: float
    optimizer: str
    """Class and options: the state of another one would be nonsense."""
    scalars: dict[str, Scalar]
    """Optimizer state that is no tensor, `optimizer/<parameter>/<key>`, and the gradient scaler's, `scaler/<key>`."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trainer's state at a step boundary, on the CPU, sharing no memory with it."""

    header: Header
    vector: Tensor
    """(d,) float32, as in `Replica.flat`."""
    tensors: dict[str, Tensor]
    """`optimizer/<parameter>/<key>`; `buffer/<name>` for what is not floating-point and so not in the vector;
    `estimate` of a gradient estimator that remembers."""

    @property
    def step(self) -> int:
        return self.header.step


def capture(trainer: Trainer, run: str, time_unix_s: float) -> Checkpoint:
    """Between two steps; corrections that arrived before are in it."""
    trainer.replica.settle()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Scalar] = {f"scaler/{key}": value for key, value in trainer.scaler.state_dict().items()}
    states = trainer.optimizer.state_dict()["state"]
    for index, state in states.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = _copy(value)
            else:
                scalars[f"optimizer/{index}/{key}"] = value
    for name, buffer in _integer_buffers(trainer):
        tensors[f"buffer/{name}"] = _copy(buffer)
    if trainer.estimate is not None:
        tensors["estimate"] = _copy(trainer.estimate)
    header = Header(
        run=run,
        fingerprint=trainer.replica.fingerprint.hex(),
        step=trainer.steps,
        time_unix_s=time_unix_s,
        optimizer=_describe_optimizer(trainer),
        scalars=scalars,
    )
    return Checkpoint(header, _copy(trainer.replica.flat), tensors)


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Continue from a checkpoint, bit for bit as if never interrupted. No exchange may be under way.

    Raises `CheckpointError`, and changes nothing, if it is of another model or optimizer."""
    header, optimizer = checkpoint.header, _describe_optimizer(trainer)
    if header.fingerprint != trainer.replica.fingerprint.hex():
        raise CheckpointError("checkpoint of another model")
    if header.optimizer != optimizer:
        raise CheckpointError(f"checkpoint of optimizer {header.optimizer}, but this run uses {optimizer}")
    trainer.replica.load(checkpoint.vector)
    trainer.is_fresh = False
    for name, buffer in _integer_buffers(trainer):
        buffer.copy_(checkpoint.tensors[f"buffer/{name}"])
    estimate = checkpoint.tensors.get("estimate")
    trainer.estimate = None if estimate is None else _copy(estimate).to(trainer.replica.device)
    state: dict[int, dict[str, object]] = {}
    for name, value in {**header.scalars, **checkpoint.tensors}.items():
        kind, *where = name.split("/", 2)
        if kind == "optimizer":
            state.setdefault(int(where[0]), {})[where[1]] = _copy(value) if isinstance(value, Tensor) else value
    if state:  # the groups' settings come from this run's configuration, which may have changed its learning rate
        trainer.optimizer.load_state_dict({**trainer.optimizer.state_dict(), "state": state})
    scaler = {
        name.removeprefix("scaler/"): value for name, value in header.scalars.items() if name.startswith("scaler/")
    }
    if scaler and trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(scaler)
    trainer.steps = header.step


def save(disk: Disk, checkpoint: Checkpoint) -> str:
    """Write durably, then drop all but the newest two; its name. Raises `ConfigError` if the disk does not take it."""
    _remove_leftovers(disk)
    existing = _names(disk)
    number = _number(existing[0]) + 1 if existing else 1
    name = f"{number:06d}-step-{checkpoint.step}"
    text = checkpoint.header.model_dump_json()
    tensors = {"vector": checkpoint.vector, **checkpoint.tensors}
    disk.write(f"{name}.tmp", safetensors.torch.save(tensors, {"p2ptrain": text, "sha256": _digest(text, tensors)}))
    disk.rename(f"{name}.tmp", f"{name}.safetensors")
    for old in existing[KEPT - 1 :]:
        disk.remove(old)
    return f"{name}.safetensors"


def latest(disk: Disk, fingerprint: bytes, run: str) -> tuple[Checkpoint | None, list[CheckpointError]]:
    """The newest checkpoint of this model and run that is whole, and why each newer one was refused."""
    refused: list[CheckpointError] = []
    _remove_leftovers(disk)
    for name in _names(disk):
        try:
            return _load(disk.read(name), fingerprint, run), refused
        except CheckpointError as error:
            refused.append(CheckpointError(f"{disk}{name}: {error}"))
    return None, refused


def _load(content: bytes, fingerprint: bytes, run: str) -> Checkpoint:
    try:
        tensors, metadata = safetensors.torch.load(content), _metadata(content)
        vector, text, digest = tensors["vector"], metadata["p2ptrain"], metadata["sha256"]
        version = json.loads(text)["version"]
        if version != VERSION:
            raise CheckpointError(f"format version {version}, this program reads {VERSION}")
        header = Header.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointError(f"damaged header: {explain(error)}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"damaged: {type(error).__name__}: {error}") from None
    if digest != _digest(text, tensors):
        raise CheckpointError("damaged: its content does not match its SHA-256")
    if header.fingerprint != fingerprint.hex():
        raise CheckpointError("of another model")
    if header.run != run:
        raise CheckpointError(f"of the run {header.run!r}, not {run!r}")
    return Checkpoint(header, vector, {name: tensor for name, tensor in tensors.items() if name != "vector"})


def _metadata(content: bytes) -> dict[str, str]:
    """Of a safetensors file: the library reads it from files only."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the header and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _describe_optimizer(trainer: Trainer) -> str:
    return f"{trainer.optimizer_name} {json.dumps(trainer.recipe.options, sort_keys=True, default=str)}"


def _integer_buffers(trainer: Trainer) -> list[tuple[str, Tensor]]:
    return [(name, buffer) for name, buffer in trainer.module.named_buffers() if not buffer.is_floating_point()]


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _names(disk: Disk) -> list[str]:
    """Newest first."""
    found = [name for name in disk.names() if name.endswith(".safetensors") and name.split("-")[0].isdecimal()]
    return sorted(found, key=_number, reverse=True)


def _number(name: str) -> int:
    return int(name.split("-")[0])


def _remove_leftovers(disk: Disk) -> None:
    """A temporary file is there only if the process died while writing it."""
    for name in disk.names():
        if name.endswith(".tmp"):
            disk.remove(name)
