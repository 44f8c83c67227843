"""Numbers as a person reads them."""

import math

MISSING = "-"


def size(num_bytes: float | None) -> str:
    """`1.2 MB`: decimal, as network people count."""
    if num_bytes is None:
        return MISSING
    return f"{scaled(num_bytes)}B"


def rate(bytes_per_s: float | None) -> str:
    return MISSING if bytes_per_s is None else f"{size(bytes_per_s)}/s"


def scaled(value: float) -> str:
    """`0 `, `532 `, `1.2 k`, `35 M`: three digits at most and a unit's prefix, for a unit to follow."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5 or prefix == "T":
            break
        value /= 1000
    digits = 0 if not prefix or abs(value) >= 99.95 else 1
    return f"{value:.{digits}f} {prefix}"


def number(value: float | None, digits: int = 3) -> str:
    """A loss, an accuracy, a speed: this many significant digits, at most four decimals."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf"
    if value == 0:
        return "0"
    if not 0.01 <= abs(value) < 1e6:
        return f"{value:.{digits}g}"
    before_point = math.floor(math.log10(abs(value))) + 1
    return f"{value:.{min(4, max(0, digits - before_point))}f}"


def duration(seconds: float | None) -> str:
    """`8 s`, `2:05`, `1:02:05`."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def clean(text: str) -> str:
    """Text from elsewhere on one line, with nothing in it that a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text)
