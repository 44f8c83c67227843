"""Every file in topologies/ in virtual time: it meets its own expectations, and each of them can fail."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from node import simulated
from p2ptrain.config import load
from p2ptrain.topology import Topology

FILES = sorted((Path(__file__).parents[2] / "topologies").glob("*.yaml"))
JUDGED = [path for path in FILES if load(path, Topology).expect]


def ids(path: Path) -> str:
    return path.stem


def simulate(topology: Topology, out: Path) -> tuple[int, dict[str, Any]]:
    """The exit code, and what was expected and got."""
    code = simulated.up(topology, out, Console(file=io.StringIO()))
    expect = json.loads((out / "summary.json").read_text())["expect"]
    return code, {item["what"]: item for item in expect}


def test_only_those_for_campaigns_have_no_expectation() -> None:
    assert [path.stem for path in FILES if path not in JUDGED] == ["campaign", "dadao-campaign"]


@pytest.mark.parametrize("path", JUDGED, ids=ids)
def test_it_meets_its_expectations(path: Path, tmp_path: Path) -> None:
    code, expect = simulate(load(path, Topology), tmp_path)
    assert code == 0, expect


@pytest.mark.parametrize("path", JUDGED, ids=ids)
def test_each_expectation_fails_for_a_swarm_that_is_none(path: Path, tmp_path: Path) -> None:
    """Nobody hears anybody, training is over in no time, and one more is lost than may be."""
    topology = load(path, Topology)
    early = [name for name, group in topology.members() if group.starts == 0]
    lost = topology.num_nodes - int(topology.expect["alive"].bound) + 1
    faults = [
        {"at": 0, "partition": [[name] for name, _ in topology.members()]},
        {"at": "100ms", "kill": early[:lost]},
    ]
    broken = {"run.strategy": {"name": "local", "lr": 0.2}, "run.seconds": 1, "faults": faults}
    code, expect = simulate(load(path, Topology, broken), tmp_path)
    assert code == 1
    assert {what: item["ok"] for what, item in expect.items()} == dict.fromkeys(topology.expect, False), expect
