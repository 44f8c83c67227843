from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from p2ptrain.topology.quantities import BitsPerSecond, Offset, Seconds, Share


@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        (Seconds, "20ms", 0.02),
        (Seconds, "3us", 3e-6),
        (Seconds, "2min", 120),
        (Seconds, "1.5 h", 5400),
        (Seconds, "30", 30),
        (Seconds, 0.25, 0.25),
        (Seconds, "1e2s", 100),
        (Offset, "-500ms", -0.5),
        (Offset, "+5s", 5),
        (Share, "0.5%", 0.005),
        (Share, "100%", 1),
        (Share, 0.3, 0.3),
        (BitsPerSecond, "100mbit", 1e8),
        (BitsPerSecond, "1.5 Gbit", 1.5e9),
        (BitsPerSecond, "56kbit", 56_000),
        (BitsPerSecond, "8bit", 8),
    ],
)
def test_a_quantity_is_a_number_of_si_units(kind: Any, written: Any, value: float) -> None:
    assert TypeAdapter(kind).validate_python(written) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "written", "reason"),
    [
        (Seconds, "5 parsecs", "20ms, 30s or 2min"),
        (Seconds, "100mbit", "20ms, 30s or 2min"),
        (Seconds, "", "20ms, 30s or 2min"),
        (Seconds, "1.2.3s", "20ms, 30s or 2min"),
        (Seconds, "-1ms", "greater than or equal to 0"),
        (Seconds, float("inf"), "finite"),
        (Seconds, float("nan"), "finite"),
        (Offset, float("-inf"), "finite"),
        (Share, "101%", "less than or equal to 1"),
        (Share, -0.1, "greater than or equal to 0"),
        (BitsPerSecond, 0, "greater than 0"),
        (BitsPerSecond, "100mb", "100mbit"),
    ],
)
def test_what_is_none_says_how_to_write_it(kind: Any, written: Any, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TypeAdapter(kind).validate_python(written)
