"""Quantities as people write them: `20ms`, `0.5%`, `100mbit`; plain numbers are SI units."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

_TIME = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_RATE = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_SHARE = {"%": 0.01}


def _parse(value: Any, units: dict[str, float], example: str) -> Any:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*([a-z%]*)\s*", value.lower())
    try:
        assert found
        return float(found[1]) * (units[found[2]] if found[2] else 1.0)
    except (AssertionError, KeyError, ValueError):
        raise ValueError(f"write it as {example}, not {value!r}") from None


def _read(units: dict[str, float], example: str) -> BeforeValidator:
    return BeforeValidator(lambda value: _parse(value, units, example))


def _schema(units: dict[str, float], example: str) -> WithJsonSchema:
    """For editors: a number, or a text with a unit, in large or small letters."""
    either_case = ("".join(f"[{letter}{letter.upper()}]" for letter in unit) for unit in units)
    pattern = rf"^\s*[-+]?[0-9.]+([eE][-+]?[0-9]+)?\s*({'|'.join(either_case)})?\s*$"
    return WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": pattern}], "examples": [example]}
    )


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False), _read(_TIME, "20ms, 30s or 2min"), _schema(_TIME, "20ms")]
Offset = Annotated[float, Field(allow_inf_nan=False), _read(_TIME, "-20ms, 30s or 2min"), _schema(_TIME, "-20ms")]
"""Seconds in either direction."""
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _read(_SHARE, "0.5%"), _schema(_SHARE, "0.5%")]
BitsPerSecond = Annotated[float, Field(gt=0, allow_inf_nan=False), _read(_RATE, "100mbit"), _schema(_RATE, "100mbit")]
