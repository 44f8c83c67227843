"""The simulator tells what real processes then do: one small file in both runtimes."""

from pathlib import Path
from typing import Any

import pytest
from watched import START_S

from benchmarks import agree
from p2ptrain.topology import Topology

STEPS = 400
"""Processes are not up at the same moment: who is first has nobody to swap with for a second, which is 16 steps."""
SMALL = {
    "name": "small",
    "run": {"task": "digits", "strategy": {"rate": 0.25}, "steps": STEPS, "evaluate_every": 2},
    "nodes": [{"count": 3}],
    "node": {"step": 0.06, "heartbeat": 1},
    "expect": {"accuracy": ">= 0.9", "consensus": "<= 0.001", "alive": 3, "views": 1},
}


@pytest.mark.timeout(2 * START_S)
def test_steps_swaps_bytes_and_accuracy_agree(tmp_path: Path) -> None:
    rows = {row["figure"]: row for row in agree.compare(Topology.model_validate(SMALL), tmp_path)}
    assert rows["steps"]["sim"] == rows["steps"]["process"] == STEPS
    assert rows["bytes"]["ok"], rows["bytes"]
    assert rows["accuracy"]["ok"], rows["accuracy"]
    swaps = rows["swaps"]
    assert swaps["process"] == pytest.approx(2 * 0.25 * STEPS, rel=0.2)
    assert rows["bytes"]["process"] == pytest.approx(rows["bytes"]["sim"] / swaps["sim"] * swaps["process"], rel=0.01)


def test_what_differs_by_more_does_not_agree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = {
        "sim": {"steps": 100.0, "swaps": 50.0, "bytes": 1000.0, "accuracy": 0.95},
        "process": {"steps": 80.0, "swaps": 44.0, "bytes": 880.0, "accuracy": 0.92},
    }

    def run(topology: Topology, out: Path, runtime: str) -> dict[str, Any]:
        return figures[runtime]

    monkeypatch.setattr(agree, "run", run)
    rows = agree.compare(Topology.model_validate(SMALL), tmp_path)
    assert [row["ok"] for row in rows] == [None, None, False, False]
    assert [row["ratio"] for row in rows] == pytest.approx([0.8, 0.88, 0.88, 0.92 / 0.95])
