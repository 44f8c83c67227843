"""One self-contained page with the curves of `benchmarks.convex`."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Protocol

from node import report
from node.report import charts
from node.report.charts import Chart, Line

ACROSS = {"gradients": "gradients per node", "exchanges": "exchanges per edge", "time": "units of time"}
FLOOR = 3e-7
"""Curves end below the last target."""


class Look(Protocol):
    """What is drawn of a run at one moment, beside what it is drawn against."""

    @property
    def gap(self) -> float: ...


Curves = Mapping[str, Mapping[str, Sequence[Look]]]
"""By case, by method."""


def write(path: Path, curves: Curves) -> None:
    path.write_text(render(curves), encoding="utf-8")


def render(curves: Curves) -> str:
    methods = list(dict.fromkeys(name for case in curves.values() for name in case))
    figures = "".join(
        f"<h2>{escape(case)}</h2><section class='charts'>{''.join(_figures(runs, methods))}</section>"
        for case, runs in curves.items()
    )
    folder = Path(report.__file__).parent
    css, script = (folder / "page.css").read_text(), (folder / "page.js").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>p2ptrain: ways to the optimum</title><style>{css}</style></head>\n<body><main>"
        "<header><h1>Ways to the optimum</h1></header>"
        '<p class="sub">Mean squared distance to the optimum, as a share of that at the start. One run each.</p>'
        f"{_legend(methods)}{figures}"
        "<footer>Click a method to hide it, double-click to see it alone.</footer></main>"
        f"<script>{script}</script></body></html>\n"
    )


def _figures(runs: Mapping[str, Sequence[Look]], methods: Sequence[str]) -> list[str]:
    found = []
    for what, across in ACROSS.items():
        lines = [
            Line(
                name,
                [(getattr(look, what), max(look.gap, FLOOR)) for look in run if look.gap < 10],
                methods.index(name),
                name,
            )
            for name, run in runs.items()
        ]
        found.append(charts.draw(Chart(f"Gap by {across}", "gap", lines, log=True, across=across)))
    return [figure for figure in found if figure]


def _legend(methods: Sequence[str]) -> str:
    buttons = "".join(
        f'<button aria-pressed="true" data-node="{escape(name)}"><svg viewBox="0 0 26 10" aria-hidden="true">'
        f'<path class="swatch line {charts.classes(index)}" d="M1,5L25,5"/></svg>{escape(name)}</button>'
        for index, name in enumerate(methods)
    )
    return f'<nav class="legend" aria-label="methods">{buttons}</nav>'
