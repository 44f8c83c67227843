"""Components by name: codecs, aggregators, strategies, tasks, graphs are each one file that registers one class.

A component is a frozen pydantic model that *is* its own configuration, so `codec: topk` and
`codec: {name: topk, ratio: 0.02}` in a YAML file become the object that does the work.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, ClassVar, Generic, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from p2ptrain.errors import ConfigError, Misplaced

PLAINLY = {"extra_forbidden": "there is no such key", "missing": "is missing"}
"""What pydantic says in words of its own, by its name for the mistake."""


class Component(BaseModel):
    """Base of everything that can be named in a configuration. Serialises with its name, so a dump can be read back."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    selectors: ClassVar[tuple[str, ...]] = ("name",)
    """The keys that may hold the name in a configuration."""

    @model_serializer(mode="wrap")
    def _with_name(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"name": self.name, **handler(self)}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = handler.resolve_ref_schema(handler(schema))
        names = {key: {"const": cls.name} for key in cls.selectors} if hasattr(cls, "name") else {}  # not: a base class
        return {**found, "properties": {**names, **found.get("properties", {})}}


C = TypeVar("C", bound=Component)
D = TypeVar("D", bound=Component)


class Registry(Generic[C]):
    """The classes of one kind; importing them is put off until one is asked for."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._classes: dict[str, type[C]] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[type[D]], type[D]]:
        """Class decorator; a second class under the same name is a bug."""

        def add(cls: type[D]) -> type[D]:
            if name in self._classes:
                raise ValueError(f"two {self.kind} components are named {name!r}")
            cls.name = name
            self._classes[name] = cast(type[C], cls)
            return cls

        return add

    def names(self) -> list[str]:
        self._load()
        return sorted(self._classes)

    def loaded(self) -> list[str]:
        """Names registered so far, without importing anything."""
        return sorted(self._classes)

    def get(self, name: str) -> type[C]:
        """Raises `ConfigError` with the known names, as the name may come from a file or from the network."""
        self._load()
        if name not in self._classes:
            raise ConfigError(f"unknown {self.kind} {name!r}; choose one of {', '.join(self.names())}")
        return self._classes[name]

    def make(self, name: str, /, **options: Any) -> C:
        """`codecs.make("int8", block=256)`; raises `ConfigError` that names the option."""
        cls = self.get(name)
        try:
            return cls(**options)
        except ValidationError as error:
            raise ConfigError(f"{self.kind} {name!r}: {explain(error)}") from None

    def parse(self, value: Any) -> Any:
        """For pydantic fields: a name, `{name: ..., option: ...}` or an instance. Other values are left for pydantic
        to refuse."""
        try:
            if isinstance(value, str):
                return self.make(value)
            if isinstance(value, dict) and isinstance(value.get("name"), str):
                return self.make(value["name"], **{key: option for key, option in value.items() if key != "name"})
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        for entry in entry_points(group=self._package):
            entry.load()


class Like:
    """Tells editors that what may be written there is what one of these models takes."""

    def __init__(self, *models: type[BaseModel]) -> None:
        self._models = models

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [_reference(model, handler) for model in self._models]}


@dataclass(frozen=True)
class Named:
    """Beside a `BeforeValidator` that parses a component: tells editors what may be written there."""

    registry: Registry[Any]
    default: str | None = None
    """Whose options need no name."""
    others: tuple[JsonSchemaValue, ...] = ()
    """What else may be written."""

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        classes = [self.registry.get(name) for name in self.registry.names()]
        plain = [cls.name for cls in classes if not any(field.is_required() for field in cls.model_fields.values())]
        options = []
        for cls in classes:
            named = {"anyOf": [{"required": [key]} for key in cls.selectors]}
            body = _reference(cls, handler)
            options.append(body if cls.name == self.default else {"allOf": [body, named]})
        return {"anyOf": [{"enum": plain}, *options, *self.others] if plain else [*options, *self.others]}


def _reference(model: type[BaseModel], handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    # The handler does not ask the model itself what its JSON schema is; it does for the choices of a union.
    return handler(core_schema.union_schema([model.__pydantic_core_schema__]))


def explain(error: ValidationError) -> str:
    """A pydantic error as one line: `ratio: Input should be less than or equal to 1 (got 3)`."""
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in place_of(item))
        lines.append(f"{place}: {reason_of(item)}" if place else reason_of(item))
    return "; ".join(lines)


def place_of(item: ErrorDetails) -> tuple[str | int, ...]:
    """The path of keys to what is wrong."""
    cause = item.get("ctx", {}).get("error")
    loc = (part for part in item["loc"] if part != "[key]")  # pydantic's word for a key itself that is wrong
    return (*loc, *(cause.place if isinstance(cause, Misplaced) else ()))


def reason_of(item: ErrorDetails) -> str:
    """What is wrong, and the value where it fits on the line."""
    got = "" if isinstance(item["input"], dict | list | BaseModel) else f" (got {item['input']!r})"
    hidden = re.sub(r"(://|['\"])(?!\w+://).*@", r"\1***@", got)  # a password
    return PLAINLY.get(item["type"], item["msg"].removeprefix("Value error, ")) + hidden
