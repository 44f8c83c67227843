"""`p2ptrain list`: what there is to choose from."""

import inspect
import json
import sys
import textwrap
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from pydantic_core import PydanticUndefined

from p2ptrain import aggregators, attacks, codecs, graphs, strategies
from p2ptrain.errors import ConfigError
from p2ptrain.registry import Component
from p2ptrain.training import devices, tasks

KINDS: dict[str, ModuleType] = {
    "codecs": codecs, "aggregators": aggregators, "rules": aggregators, "attacks": attacks, "strategies": strategies,
    "tasks": tasks, "graphs": graphs,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    name: str
    what: str
    options: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    """What is true of it whatever its options."""


def listing(kind: str, as_json: bool) -> str:
    """Names, what they are, and their options with defaults."""
    if kind == "devices":
        entries = [_device(name) for name in devices.PROFILES]
    elif kind in KINDS:
        module = KINDS[kind]
        entries = [_entry(name, module.get(name)) for name in module.names()]
    else:
        raise ConfigError(f"unknown kind {kind!r}; choose one of {', '.join((*KINDS, 'devices'))}")
    if as_json:
        return json.dumps([vars(entry) for entry in entries], indent=1)
    width = max(len(entry.name) for entry in entries) + 2
    lines = []
    for entry in entries:
        lines.append(f"{entry.name:<{width}}{entry.what}")
        for more, separator in ((entry.options, ", "), (entry.facts, "; ")):
            if more:
                text = separator.join(f"{key}: {_yaml(value)}" for key, value in more.items())
                lines.append(textwrap.fill(text, 110, initial_indent=" " * width, subsequent_indent=" " * width))
    return "\n".join(lines)


def _entry(name: str, cls: type[Component]) -> Entry:
    module = sys.modules[cls.__module__]
    own_file = module.__name__.endswith(f".{name}")  # such a file says at its top what it is about
    text = inspect.cleandoc((own_file and module.__doc__) or cls.__doc__ or "").split("\n\n")[0]
    options = {field.alias or key: _default(field) for key, field in cls.model_fields.items()}
    return Entry(name, " ".join(text.split()), options, _facts(cls))


def _facts(cls: type[Component]) -> dict[str, Any]:
    if issubclass(cls, aggregators.Aggregator):
        return {"breakdown": cls.breakdown, "cost": cls.cost, "synchronous rounds": cls.synchronous}
    if issubclass(cls, attacks.Attack):
        return {"kind": cls.kind, "omniscient": cls.omniscient, "differs by recipient": cls.per_recipient}
    return {}


def _default(field: Any) -> Any:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "(required)"
    if isinstance(value, Component):
        return value.name
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, int | float | str | bool | list | dict) or value is None else str(value)


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _device(name: str) -> Entry:
    profile = devices.PROFILES[name]
    speed = f"{profile.speed:g} TFLOP/s" if profile.speed else "as fast as the fastest of the swarm"
    what = f"{speed}, {profile.memory_gib:g} GiB, uplink {profile.uplink_mbit_s:g} Mbit/s"
    return Entry(name, what, {})
