"""Every file in topologies/ as a person runs it: real daemons, real faults, judged by its own expectations.

`make test-topologies` runs them as processes, `make test-docker-topologies` in containers, `make test` does not: each
takes as long as the file says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from node import resolve
from p2ptrain.config import load
from p2ptrain.errors import ConfigError
from p2ptrain.topology import Topology

LIMIT_S = 600
FILES = sorted((Path(__file__).parents[2] / "topologies").glob("*.yaml"))
RUNTIMES = ("process", "docker")


def _is_real(path: Path) -> bool:
    """It expects something, and no link of it does what only simulated ones do."""
    topology = load(path, Topology)
    try:
        resolve.check_real(topology)
    except ConfigError:
        return False
    return bool(topology.expect)


@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize("path", [path for path in FILES if _is_real(path)], ids=lambda path: path.stem)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_it_meets_its_expectations(path: Path, runtime: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "node", "up", str(path), "--runtime", runtime, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["runtime"] == runtime
    assert summary["expect"]
    assert "dropped are the faults" not in done.stdout, "the training was over before all faults had come"
    planned = {deed.fault for deed in load(path, Topology).plan()}
    assert len(summary["faults"]) >= len(planned)
