"""Quantities as people write them: `20ms`, `0.5%`, `100mbit`; plain numbers are SI units."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

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


Seconds = Annotated[float, BeforeValidator(lambda value: _parse(value, _TIME, "20ms, 30s or 2min")), Field(ge=0)]
Share = Annotated[float, BeforeValidator(lambda value: _parse(value, _SHARE, "0.5%")), Field(ge=0, le=1)]
BitsPerSecond = Annotated[float, BeforeValidator(lambda value: _parse(value, _RATE, "100mbit")), Field(gt=0)]
