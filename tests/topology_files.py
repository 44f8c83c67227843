"""Files of `topologies/` as a person brings them up: real daemons, real faults, judged by what the files expect."""

import html
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from node import resolve
from p2ptrain.config import load
from p2ptrain.errors import ConfigError
from p2ptrain.topology import Topology

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 600.0


def _is_real(path: Path) -> bool:
    """It expects something, and no link of it does what only simulated ones do."""
    topology = load(path, Topology)
    try:
        resolve.check_real(topology)
    except ConfigError:
        return False
    return bool(topology.expect)


FILES = {path.stem: load(path, Topology) for path in sorted((ROOT / "topologies").glob("*.yaml")) if _is_real(path)}


def bring_up(name: str, runtime: str, out: Path, *settings: str) -> dict[str, Any]:
    """The summary of a run that met its expectations, and in which all faults of the file came."""
    command = [sys.executable, "-m", "node", "up", f"topologies/{name}.yaml", "--runtime", runtime, "--out", str(out)]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["name"], summary["runtime"], summary["ok"]) == (name, runtime, True)
    assert summary["expect"]
    assert "dropped are the faults" not in done.stdout, "the training was over before all faults had come"
    planned = {deed.fault for deed in FILES[name].plan()}
    assert len(summary["faults"]) >= len(planned)
    report = (out / "report.html").read_text()
    shown = ["<svg", *summary["nodes"], *(fault["what"] for fault in summary["faults"])]
    assert [words for words in shown if words not in report and html.escape(words) not in report] == []
    return summary
