"""What benchmarks share: interleaved timing, tables, JSON.

Times of a shared machine mean little on their own, so cases are run in turns and reported as ratios to a yardstick that
was measured in the same run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def measure(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run of each case: one warm-up each, then `repeats` rounds in which every case runs once."""
    for case in cases.values():
        case()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(times) for name, times in seconds.items()}


def ratio_to(yardstick: list[float], times: list[float]) -> float:
    """How many times as fast as the yardstick: the median over the rounds of the ratio within each round."""
    return statistics.median(base / own for base, own in zip(yardstick, times, strict=True))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; floats get four significant digits, None is a dash."""
    grid = Table(*columns, title=title, title_justify="left")
    for column in grid.columns[1:]:
        column.justify = "right"
    for row in rows:
        grid.add_row(*(_cell(value) for value in row))
    Console(width=None if Console().is_terminal else 140).print(grid)


def write_json(path: Path | None, payload: dict[str, Any]) -> None:
    """Write the results, if a path was given."""
    if path is not None:
        path.write_text(json.dumps(payload, indent=2) + "\n")


def positive(text: str) -> int:
    """For an option that counts something. Raises `ArgumentTypeError`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--repeats", type=positive, default=9, help="timed rounds (default 9)")
    return parser


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
