"""Files of `topologies/` in containers, as they are and judged by what they expect: `up FILE --runtime docker`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import left_over

ROOT = Path(__file__).resolve().parents[2]
FILES = {  # and what is different here, where a node takes ten seconds to come back when two cores start six
    "quickstart": ["run.seconds=30"],
    "partition-and-heal": [],
    "bootstrap-dies": ["run.seconds=45"],
    "wan3": [],
    "byzantine": [],
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", FILES)
def test_a_topology_meets_its_expectations(name: str, tmp_path: Path, figures: list[str]) -> None:
    out = tmp_path / "out"
    command = ["up", f"topologies/{name}.yaml", "--runtime", "docker", "--out", str(out)]
    for setting in FILES[name]:
        command += ["--set", setting]
    done = subprocess.run(
        [sys.executable, "-m", "node", *command], cwd=ROOT, capture_output=True, text=True, timeout=380, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "summary.json").read_text())
    figures += told(summary)
    assert (summary["name"], summary["runtime"], summary["ok"]) == (name, "docker", True)
    assert all(node["exchanges"] > 5 and node["digest"] for node in summary["nodes"].values() if node["alive"])
    assert all(fault["detected"] or fault["recovered"] for fault in summary["faults"])
    report = (out / "report.html").read_text()
    assert all(
        words in report for words in ("<svg", *summary["nodes"], *(fault["what"] for fault in summary["faults"]))
    )
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
