"""The outcome of a run: `summary.json`, and the same as a table."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open

from node.live import PHASE_STYLE
from node.units import MISSING, clean, duration, number, size
from p2ptrain.telemetry.outages import Outage
from p2ptrain.telemetry.state import NodeState, SwarmState

if TYPE_CHECKING:
    from p2ptrain.topology import Topology

CHUNK = 1 << 18

Summary = dict[str, Any]


def build(
    topology: "Topology",
    state: SwarmState,
    seconds: float,
    consensus: float | None,
    runtime: str = "process",
    trace: str | None = None,
) -> Summary:
    """The summary of a run. A value that does not apply is null."""
    devices = {name: group.device for name, group in topology.members()}
    liars = set(topology.attackers)
    nodes = {
        name: _node(node, devices.get(name, node.device), name in liars) | _suspects(state, node)
        for name, node in state.nodes.items()
    }
    expect = _expectations(topology, state, consensus)
    return {
        "name": topology.name,
        "runtime": runtime,
        "seed": topology.run.seed,
        "seconds": round(seconds, 3),
        "ok": state.num_alive > 0 and all(item["ok"] for item in expect),
        "expect": expect,
        "nodes": nodes,
        "consensus": consensus,
        "trace": trace,
        "faults": [_fault(outage) for outage in state.outages],
    }


def _node(node: NodeState, device: str, byzantine: bool) -> Summary:
    return {
        "device": device,
        "steps": node.step,
        "loss": _finite(node.eval_loss),
        "accuracy": _finite(node.accuracy),
        "bytes_sent": node.bytes_sent,
        "bytes_received": node.bytes_received,
        "exchanges": node.exchanges,
        "failed_exchanges": node.num_failed,
        "byzantine": byzantine,
        "alive": node.alive,
        "digest": node.digest,
        "started": node.started,
        "first_contribution": node.first_contribution,
        **({"gap": _finite(node.gap)} if node.gap is not None else {}),  # only where the optimum is known
    }


def _suspects(state: SwarmState, node: NodeState) -> Summary:
    """Whom it suspects or shuns at the end, by name; nothing for a node that trusts everybody."""
    suspects = {state.name_of(peer): level for peer, level in node.suspects.items()}
    return {"suspects": suspects} if suspects else {}


def _fault(outage: Outage) -> Summary:
    times = {"at": outage.at, "detected": outage.detected, "recovered": outage.recovered}
    rounded = {key: None if value is None else round(value, 3) for key, value in times.items()}
    return {"at": rounded.pop("at"), "what": outage.what, **rounded}


def _expectations(topology: "Topology", state: SwarmState, consensus: float | None) -> list[Summary]:
    alive = [node for node in state.nodes.values() if node.alive]
    honest = [node for name, node in state.nodes.items() if node.alive and name not in topology.attackers]
    got: dict[str, float | None] = {
        "accuracy": _worst((node.accuracy for node in honest), min),
        "loss": _worst((node.eval_loss for node in honest), max),
        "gap": _worst((node.gap for node in honest), max),
        "consensus": consensus,
        "alive": len(alive),
        "views": state.num_views,
    }
    return [
        {"what": what, "want": str(want), "got": got[what], "ok": want.holds(got[what])}
        for what, want in topology.expect.items()
    ]


def _worst(values: Iterable[float | None], worst: Any) -> float | None:
    """None unless every node has one: a node that never evaluated must not make the swarm look better."""
    known = [_finite(value) for value in values]
    return None if not known or None in known else worst(known)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def consensus(paths: Iterable[Path]) -> float | None:
    """Mean squared distance of the replicas to their mean over the mean's squared norm, in float64, a chunk at a time.

    None where it says nothing: fewer than two replicas that can be read, of unequal size, or a mean of zero."""
    files = [file for path in paths if (file := _open(path)) is not None]
    sizes = {file.get_shape()[0] for file in files}
    if len(files) < 2 or len(sizes) != 1:
        return None
    spread = norm = 0.0
    num_elements = sizes.pop()
    for start in range(0, num_elements, CHUNK):
        replicas = np.stack([file[start : min(start + CHUNK, num_elements)] for file in files]).astype(np.float64)
        mean = replicas.mean(axis=0)
        spread += float(((replicas - mean) ** 2).sum()) / len(files)
        norm += float((mean**2).sum())
    return _finite(spread / norm) if norm > 0 else None


def _open(path: Path) -> Any:
    """A slice of the tensor `flat`, read only where it is looked at; None when the node left nothing usable."""
    try:
        flat = safe_open(path, framework="np").get_slice("flat")
        return flat if len(flat.get_shape()) == 1 else None
    except (OSError, SafetensorError):
        return None


def save(path: Path, summary: Summary) -> None:
    """All or nothing, so that whoever finds the file can read it."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    os.replace(part, path)


def show(console: Console, summary: Summary, state: SwarmState) -> None:
    """The final tables."""
    console.print(_nodes_table(summary, state))
    done = (
        f"{clean(summary['name'])}: {duration(summary['seconds'])}, consensus distance {number(summary['consensus'])}"
    )
    console.print(Text(done, style="bold"))
    if summary["expect"]:
        console.print(_expect_table(summary["expect"]))


def _nodes_table(summary: Summary, state: SwarmState) -> Table:
    titles = ("node", "state", "steps", "held-out", "accuracy", "sent", "received", "swaps", "failed", "digest")
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in titles:
        table.add_column(title, justify="left" if title in ("node", "state", "digest") else "right", no_wrap=True)
    for name, node in summary["nodes"].items():
        phase = state.nodes[name].phase
        row = (
            str(node["steps"]), number(node["loss"]), number(node["accuracy"]), size(node["bytes_sent"]),
            size(node["bytes_received"]), str(node["exchanges"]), str(node["failed_exchanges"] or MISSING),
            (node["digest"] or MISSING)[:8],
        )  # fmt: skip
        table.add_row(Text(clean(name), style="bold"), Text(phase, style=PHASE_STYLE[phase]), *row)
    return table


def _expect_table(expect: list[Summary]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("expected", "", "got", ""):
        table.add_column(title, no_wrap=True)
    for item in expect:
        verdict = Text("ok", style="green") if item["ok"] else Text("FAILED", style="bold red")
        table.add_row(item["what"], item["want"], _value(item["got"]), verdict)
    return table


def _value(got: float | None) -> str:
    return str(got) if isinstance(got, int) else number(got, 4)
