import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from node import summary
from p2ptrain.telemetry import events
from p2ptrain.telemetry.events import Stamped
from p2ptrain.telemetry.state import SwarmState, apply, expecting, fold
from p2ptrain.topology import Topology

KEYS = ["name", "runtime", "seed", "seconds", "ok", "expect", "nodes", "consensus", "trace", "faults"]
NODE_KEYS = [
    "device", "steps", "loss", "accuracy", "bytes_sent", "bytes_received", "exchanges", "failed_exchanges", "byzantine",
    "alive", "digest", "started", "first_contribution",
]  # fmt: skip


def topology(**expect: Any) -> Topology:
    nodes = [{"count": 2, "device": "h100"}, {"count": 2, "device": "rtx3060"}]
    run = {"task": "digits", "seconds": 60, "seed": 7}
    return Topology.model_validate({"name": "quick", "run": run, "nodes": nodes, "expect": expect})


def test_the_keys_are_those_of_the_house(state: SwarmState, tmp_path: Path) -> None:
    made = summary.build(topology(accuracy=">= 0.8", alive=4), state, 61.5, 0.001)
    summary.save(tmp_path / "summary.json", made)
    read = json.loads((tmp_path / "summary.json").read_text())
    assert read == made
    assert list(read) == KEYS
    assert all(list(node) == NODE_KEYS for node in read["nodes"].values())
    assert (read["name"], read["runtime"], read["seed"], read["seconds"], read["trace"]) == (
        "quick",
        "process",
        7,
        61.5,
        None,
    )
    assert read["nodes"]["node-2"] | {"digest": ""} == {
        "device": "rtx3060", "steps": 280, "loss": state.nodes["node-2"].eval_loss, "digest": "",
        "accuracy": state.nodes["node-2"].accuracy, "bytes_sent": 16_112_000, "bytes_received": 16_112_000,
        "exchanges": 76, "failed_exchanges": 0, "byzantine": False, "alive": True, "started": 1.2,
        "first_contribution": state.nodes["node-2"].first_contribution,
    }  # fmt: skip
    assert read["ok"]
    assert read["expect"][1] == {"what": "alive", "want": "== 4", "got": 4, "ok": True}


def evaluated(*values: tuple[float, float | None]) -> SwarmState:
    log = [Stamped(f"node-{i}", 1.0, events.Evaluated(1, loss, accuracy)) for i, (loss, accuracy) in enumerate(values)]
    return fold(log, expecting(f"node-{index}" for index in range(4)))


def test_the_worst_living_node_counts() -> None:
    state = evaluated((1.0, 0.9), (2.0, 0.8), (3.0, 0.95), (9.0, 0.1))
    state = apply(state, Stamped("node-3", 2.0, events.Died(-9)))
    made = summary.build(topology(accuracy=">= 0.8", loss="<= 3", alive=3), state, 1, None)
    assert [item["got"] for item in made["expect"]] == [0.8, 3.0, 3]
    assert made["ok"]


def test_a_node_that_was_never_evaluated_meets_nothing() -> None:
    made = summary.build(topology(accuracy=">= 0", loss="<= 99"), evaluated((1.0, 0.9)), 1, None)
    assert [(item["got"], item["ok"]) for item in made["expect"]] == [(None, False), (None, False)]


def test_suspects_are_named_where_there_are_some() -> None:
    log = [
        Stamped("node-0", 0.0, events.Started("ab" * 16, 0, "cpu", "", 1, False)),
        Stamped("node-1", 1.0, events.Suspected("ab" * 16, "quarantined", "equivocation", 24.0)),
    ]
    nodes = summary.build(topology(), fold(log, expecting(["node-0", "node-1"])), 1, None)["nodes"]
    assert nodes["node-1"]["suspects"] == {"node-0": "quarantined"}
    assert "suspects" not in nodes["node-0"]


def test_the_distance_to_the_optimum_is_there_where_it_is_known() -> None:
    log = [
        Stamped(f"node-{i}", 1.0, events.Evaluated(1, 1.0, None, gap)) for i, gap in enumerate((1e-6, 1e-5, 0.0, 2e-6))
    ]
    made = summary.build(topology(gap="<= 1e-5"), fold(log, expecting(f"node-{i}" for i in range(4))), 1, None)
    assert [node["gap"] for node in made["nodes"].values()] == [1e-6, 1e-5, 0.0, 2e-6]
    assert made["expect"] == [{"what": "gap", "want": "<= 1e-05", "got": 1e-5, "ok": True}]
    without = summary.build(topology(gap="<= 1"), evaluated(*[(1.0, 0.9)] * 4), 1, None)
    assert (without["expect"][0]["got"], without["ok"]) == (None, False)


def test_values_that_are_not_finite_are_null() -> None:
    made = summary.build(topology(loss="<= 9"), evaluated(*[(float("nan"), None)] * 4), 1, None)
    json.dumps(made, allow_nan=False)
    assert made["expect"][0] == {"what": "loss", "want": "<= 9", "got": None, "ok": False}


def test_a_swarm_of_which_nobody_lives_is_not_ok() -> None:
    state = evaluated()
    for name in state.nodes:
        state = apply(state, Stamped(name, 1, events.Died(1)))
    assert not summary.build(topology(), state, 1, None)["ok"]


def replicas(folder: Path, vectors: list[np.ndarray]) -> list[Path]:
    for index, vector in enumerate(vectors):
        save_file({"flat": vector.astype(np.float32)}, folder / f"{index}.safetensors")
    return [folder / f"{index}.safetensors" for index in range(len(vectors))]


def test_consensus_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "CHUNK", 1000)
    rng = np.random.default_rng(0)
    vectors = [(rng.standard_normal(12_345) + 0.1).astype(np.float32).astype(np.float64) for _ in range(5)]
    mean = np.mean(vectors, axis=0)
    exact = np.mean([((vector - mean) ** 2).sum() for vector in vectors]) / (mean**2).sum()
    assert summary.consensus(replicas(tmp_path, vectors)) == pytest.approx(exact, rel=1e-12)


def test_consensus_where_it_says_nothing(tmp_path: Path) -> None:
    one, two, three = replicas(tmp_path, [np.ones(5), np.ones(6), np.zeros(5)])
    (tmp_path / "broken").write_bytes(b"no safetensors")
    assert summary.consensus([]) is None
    assert summary.consensus([one]) is None
    assert summary.consensus([one, two]) is None
    assert summary.consensus([three, three]) is None
    assert summary.consensus([one, tmp_path / "none", tmp_path / "broken"]) is None
    assert summary.consensus([one, one]) == 0.0
    assert summary.consensus(replicas(tmp_path, [np.ones(5), np.full(5, np.nan)])) is None


def test_the_table_says_what_failed(state: SwarmState) -> None:
    file = io.StringIO()
    made = summary.build(topology(accuracy=">= 0.99", alive=4), state, 61, 0.0012)
    summary.show(Console(file=file, width=120), made, state)
    shown = file.getvalue()
    assert "\x1b" not in shown
    assert shown.count("FAILED") == 1
    assert "node-3" in shown
    assert "0.0012" in shown


def test_the_summary_needs_no_torch() -> None:
    code = "import sys, node.summary, node.report, node.live; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_faults_and_views_are_those_of_the_fold() -> None:
    log = [
        *(Stamped(f"node-{i}", 0, events.Started(f"id-{i}", i, "cpu", "127.0.0.1:1", 10, False)) for i in range(2)),
        Stamped("node-0", 1, events.Joined("id-1", "node-1")),
        Stamped("node-1", 1, events.Joined("id-0", "node-0")),
        Stamped("", 2.00004, events.Faulted(0, "pause", "pause node-1", "node-1")),
        Stamped("node-0", 5.0, events.Left("id-1", "node-1", "silent")),
    ]
    made = summary.build(topology(views=3), fold(log, expecting(f"node-{i}" for i in range(4))), 1, None)
    assert made["faults"] == [{"at": 2.0, "what": "pause node-1", "detected": 3.0, "recovered": None}]
    assert made["expect"] == [{"what": "views", "want": "== 3", "got": 4, "ok": False}]
