"""Every file in `topologies/` in containers: a few in `make test-docker`, all in `make test-docker-topologies`."""

from pathlib import Path
from typing import Any

import pytest
from conftest import left_over
from topology_files import FILES, LIMIT_S, bring_up

FEW = ("quickstart", "partition-and-heal", "bootstrap-dies", "wan3", "byzantine")
SETTINGS = {  # what is different here, where a node takes ten seconds to come back when two cores start six
    "quickstart": ["run.seconds=30"],
    "bootstrap-dies": ["run.seconds=45"],
}


@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FEW else pytest.mark.long) for name in FILES])
def test_it_meets_its_expectations(name: str, tmp_path: Path, figures: list[str]) -> None:
    summary = bring_up(name, "docker", tmp_path / "out", *SETTINGS.get(name, ()))
    figures += told(summary)
    assert all(node["bytes_received"] > 1000 and node["digest"] for node in summary["nodes"].values() if node["alive"])
    assert all(fault["detected"] or fault["recovered"] for fault in summary["faults"])
    assert left_over() == ""


def told(summary: dict[str, Any]) -> list[str]:
    """A summary in a few lines."""
    nodes = [node for node in summary["nodes"].values() if node["alive"]]
    steps, swaps = ([node[what] for node in nodes] for what in ("steps", "exchanges"))
    bytes_sent = sum(node["bytes_sent"] for node in nodes)
    expected = ", ".join(f"{item['what']} {item['got']:.4g} ({item['want']})" for item in summary["expect"])
    faults = [
        f"  {fault['what']}: detected {seconds(fault['detected'])}, recovered {seconds(fault['recovered'])}"
        for fault in summary["faults"]
    ]
    work = f"{min(steps)} to {max(steps)} steps, {min(swaps)} to {max(swaps)} swaps, {bytes_sent / 1e6:.1f} MB sent"
    return [f"{summary['name']}: {summary['seconds']:.0f} s, {work}; {expected}", *faults]


def seconds(value: float | None) -> str:
    return "never" if value is None else f"after {value:.1f} s"
