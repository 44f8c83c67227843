"""Checkpoints that survive `kill -9`: written beside the old one and renamed, hashed throughout, read without pickle.

A checkpoint is one safetensors file: the flat vector, the optimizer's state tensor by tensor, and, in its header,
a JSON text with everything else and the SHA-256 of that text and all tensors. `capture` and `restore` belong to the
compute thread; `save` and `latest` may run anywhere.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from p2ptrain.errors import CheckpointError, ConfigError
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
    """`optimizer/<parameter>/<key>`, and `buffer/<name>` for what is not floating-point and so not in the vector."""

    @property
    def step(self) -> int:
        return self.header.step


def capture(trainer: Trainer, run: str, time_unix_s: float) -> Checkpoint:
    """Between two steps; corrections that arrived before are in it."""
    trainer.replica.settle()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Scalar] = {f"scaler/{key}": value for key, value in trainer.scaler.state_dict().items()}
    for index, state in trainer.optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = _copy(value)
            else:
                scalars[f"optimizer/{index}/{key}"] = value
    for name, buffer in _integer_buffers(trainer):
        tensors[f"buffer/{name}"] = _copy(buffer)
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
    for name, buffer in _integer_buffers(trainer):
        buffer.copy_(checkpoint.tensors[f"buffer/{name}"])
    state: dict[int, dict[str, object]] = {}
    for name, value in {**header.scalars, **checkpoint.tensors}.items():
        kind, *where = name.split("/", 2)
        if kind == "optimizer":
            state.setdefault(int(where[0]), {})[where[1]] = _copy(value) if isinstance(value, Tensor) else value
    # The groups' settings come from this run's configuration, which may have changed its learning rate.
    trainer.optimizer.load_state_dict({**trainer.optimizer.state_dict(), "state": state})
    scaler = {
        name.removeprefix("scaler/"): value for name, value in header.scalars.items() if name.startswith("scaler/")
    }
    if scaler and trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(scaler)
    trainer.steps = header.step


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write durably, then drop all but the newest two. Raises `ConfigError` if the folder cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        existing = _files(folder)
        number = _number(existing[0]) + 1 if existing else 1
        path = folder / f"{number:06d}-step-{checkpoint.step}.safetensors"
        temporary = path.with_suffix(".tmp")
        text = checkpoint.header.model_dump_json()
        tensors = {"vector": checkpoint.vector, **checkpoint.tensors}
        save_file(tensors, temporary, {"p2ptrain": text, "sha256": _digest(text, tensors)})
        _sync(temporary)
        temporary.replace(path)
        _sync(folder)
        for old in existing[KEPT - 1 :]:
            old.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"checkpoints cannot be written to {folder}: {error}") from error
    return path


def latest(folder: Path, fingerprint: bytes, run: str) -> tuple[Checkpoint | None, list[CheckpointError]]:
    """The newest checkpoint of this model and run that is whole, and why each newer one was refused."""
    refused: list[CheckpointError] = []
    try:
        _remove_leftovers(folder)
        for path in _files(folder):
            try:
                return _load(path, fingerprint, run), refused
            except CheckpointError as error:
                refused.append(error)
    except OSError as error:
        raise ConfigError(f"checkpoints cannot be read from {folder}: {error}") from error
    return None, refused


def _load(path: Path, fingerprint: bytes, run: str) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        vector, text, digest = tensors["vector"], metadata["p2ptrain"], metadata["sha256"]
        version = json.loads(text)["version"]
        if version != VERSION:
            raise CheckpointError(f"{path}: format version {version}, this program reads {VERSION}")
        header = Header.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointError(f"{path}: damaged header: {explain(error)}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged: {type(error).__name__}: {error}") from None
    if digest != _digest(text, tensors):
        raise CheckpointError(f"{path}: damaged: its content does not match its SHA-256")
    if header.fingerprint != fingerprint.hex():
        raise CheckpointError(f"{path}: of another model")
    if header.run != run:
        raise CheckpointError(f"{path}: of the run {header.run!r}, not {run!r}")
    return Checkpoint(header, vector, {name: tensor for name, tensor in tensors.items() if name != "vector"})


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the header and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _describe_optimizer(trainer: Trainer) -> str:
    return f"{type(trainer.optimizer).__name__} {json.dumps(trainer.recipe.options, sort_keys=True, default=str)}"


def _integer_buffers(trainer: Trainer) -> list[tuple[str, Tensor]]:
    return [(name, buffer) for name, buffer in trainer.module.named_buffers() if not buffer.is_floating_point()]


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _files(folder: Path) -> list[Path]:
    """Newest first."""
    if not folder.exists():
        return []
    found = [path for path in folder.iterdir() if path.suffix == ".safetensors" and path.name.split("-")[0].isdecimal()]
    return sorted(found, key=_number, reverse=True)


def _number(path: Path) -> int:
    return int(path.name.split("-")[0])


def _remove_leftovers(folder: Path) -> None:
    """A temporary file is there only if the process died while writing it."""
    for path in folder.glob("*.tmp"):
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Force a file, or a folder's list of files, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such call
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
