"""Whole swarms in virtual time: the real daemons, under each kind of fault."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from p2ptrain.simulation.loop import run
from p2ptrain.simulation.world import Hang, World
from p2ptrain.telemetry.events import (
    Died,
    Evaluated,
    Event,
    Exchanged,
    Fetched,
    Joined,
    Left,
    Noted,
    Resumed,
    Saved,
    Stamped,
    Started,
    Stepped,
    Stopped,
)  # fmt: skip
from p2ptrain.topology import Topology

E = TypeVar("E", bound=Event)
RUN = {"task": {"name": "quadratic", "dim": 20}, "strategy": {"rate": 0.5}, "seconds": 40, "evaluate_every": 5}


def topology(*faults: dict[str, Any], count: int = 4, **more: Any) -> Topology:
    node = {"heartbeat": 1, "checkpoint_every": 3}
    body = {"name": "test", "run": RUN, "nodes": [{"count": count}], "node": node, "simulation": {"step": 0.2}, **more}
    return Topology.model_validate({**body, "faults": faults})


class Seen:
    """Runs a topology and remembers every event."""

    def __init__(self, topology: Topology, limit_s: float = 3600.0) -> None:
        self.log: list[Stamped] = []
        self.world: World
        self._topology, self._limit_s = topology, limit_s
        run(self._run())

    async def _run(self) -> None:
        self.world = World(self._topology, self.log.append)
        await self.world.run(self._limit_s)

    def of(self, node: str, kind: type[E], since: float = 0.0) -> list[tuple[float, E]]:
        return [
            (stamped.time, stamped.event)
            for stamped in self.log
            if stamped.node == node and isinstance(stamped.event, kind) and stamped.time >= since
        ]

    def losses(self, node: str) -> list[float]:
        return [event.loss for _, event in self.of(node, Evaluated)]


NAMES = [f"node-{index}" for index in range(4)]


def test_a_swarm_trains_and_ends_in_agreement() -> None:
    seen = Seen(topology())
    assert len({event.digest for name in NAMES for _, event in seen.of(name, Stopped)}) == 1
    for name in NAMES:
        assert len(seen.of(name, Joined)) == 3
        assert len(seen.of(name, Exchanged)) > 20
        assert seen.losses(name)[-1] < 0.3 * seen.losses(name)[0]


def test_a_convex_task_reports_how_far_from_its_optimum_each_node_is() -> None:
    """Two nodes that hold all classes and average often end near it."""
    task = {"name": "convex", "whole": True, "lr": 0.25, "condition": 20}
    seen = Seen(topology(count=2, run={**RUN, "task": task}))
    for name in NAMES[:2]:
        gaps = [event.gap for _, event in seen.of(name, Evaluated)]
        assert None not in gaps
        assert 0.5 < gaps[0] <= 1
        assert gaps[-1] < 0.01


def test_slower_devices_take_fewer_steps_and_slow_uplinks_longer_swaps() -> None:
    nodes = [{"count": 1, "device": "rtx3060"}, {"count": 1, "device": "macbook-m2"}]
    seen = Seen(topology(nodes=nodes))
    fast, slow = (seen.of(name, Stepped)[-1][1].step for name in NAMES[:2])
    assert slow == pytest.approx(fast / 4, rel=0.1)

    def swap_s(uplink_named: str) -> float:
        big = {**RUN, "task": {"name": "quadratic", "dim": 20_000}, "codec": "fp32", "seconds": 4}
        pair = Seen(topology(nodes=[{"count": 2, "device": uplink_named}], links={"default": {}}, run=big))
        return max(event.seconds for _, event in pair.of("node-0", Exchanged))

    assert swap_s("laptop-cpu") == pytest.approx(80_000 * 8 / 20e6, rel=0.3)
    assert swap_s("laptop-cpu") > 50 * swap_s("h100")


def test_the_killed_are_missed_and_go_on_from_their_checkpoint_and_the_swarms_weights() -> None:
    seen = Seen(topology({"at": 10, "kill": "node-2", "for": 8}))
    assert seen.of("node-2", Died)[0][0] == 10
    for name in ("node-0", "node-1", "node-3"):
        (when, left), *_ = seen.of(name, Left)
        assert left.reason == "silent"
        assert when - 10 <= 5.0
    saved = [event.step for time, event in seen.of("node-2", Saved) if time < 10]
    ((_, resumed),) = seen.of("node-2", Resumed)
    assert resumed.step == saved[-1]
    (fetched, _), *_ = seen.of("node-2", Fetched, since=18)
    assert seen.of("node-2", Stepped, since=18)[0][0] >= fetched
    assert seen.of("node-2", Stepped, since=18)[0][1].step > resumed.step


def test_a_torn_checkpoint_is_thrown_away_and_the_one_before_used() -> None:
    seen = Seen(topology({"at": 10, "tear": "node-2", "for": 8}))
    (died, _), *_ = seen.of("node-2", Died)
    assert 10 < died < 14
    saved = [event.step for time, event in seen.of("node-2", Saved) if time < died]
    ((_, resumed),) = seen.of("node-2", Resumed)
    assert resumed.step == saved[-1]
    assert not [name for name in seen.world.nodes["node-2"].checkpoints.files if name.endswith(".tmp")]


def test_a_node_that_writes_nothing_before_it_is_to_be_started_again_is_started_once_its_power_has_gone() -> None:
    seen = Seen(topology({"at": 10, "tear": "node-2", "for": 0.1}))
    ((died, _),) = seen.of("node-2", Died)
    assert 10.1 < died < 14
    ((again, resumed),) = seen.of("node-2", Resumed)
    assert again == pytest.approx(died, abs=0.1)
    assert seen.of("node-2", Stepped, since=died)[-1][1].step > resumed.step


def test_a_paused_node_is_missed_wakes_up_and_is_back() -> None:
    seen = Seen(topology({"at": 10, "pause": "node-1", "for": 10}))
    assert not seen.of("node-1", Stepped, since=10.001)[0][0] < 20
    (left, _), *_ = seen.of("node-0", Left)
    assert 11 < left < 16
    assert seen.of("node-1", Exchanged, since=20)
    assert len(seen.of("node-1", Started)) == 1


def test_a_split_swarm_trains_on_both_sides_and_becomes_one_again() -> None:
    seen = Seen(topology({"at": 10, "partition": [["node-0", "node-1"], ["node-2", "node-3"]], "for": 10}))
    lost = {event.name for _, event in seen.of("node-0", Left) if event.reason == "silent"}
    assert lost == {"node-2", "node-3"}
    for name in NAMES:
        inside = [event for time, event in seen.of(name, Exchanged, since=15) if time < 20]
        assert inside
    assert {event.name for _, event in seen.of("node-0", Joined, since=20)} == lost
    assert len({event.digest for name in NAMES for _, event in seen.of(name, Stopped)}) == 1


def test_a_clock_that_is_off_is_named() -> None:
    seen = Seen(topology({"at": 5, "skew": "node-1", "by": -12}))
    (_, note), *_ = [pair for pair in seen.of("node-0", Noted) if "clock" in pair[1].message]
    assert "12 s behind" in note.message
    assert seen.of("node-1", Exchanged, since=10)


def test_everybody_dies_and_comes_back_with_what_was_saved() -> None:
    seen = Seen(topology({"at": 20, "kill": "all", "for": 5}))
    for name in NAMES:
        assert len(seen.of(name, Resumed)) == 1
        assert max(seen.losses(name)[-3:]) < 0.3 * seen.losses(name)[0]


def test_a_late_joiner_begins_with_the_swarms_weights() -> None:
    seen = Seen(topology(nodes=[{"count": 3}, {"count": 1, "starts": "15s"}]))
    assert seen.of("node-3", Started)[0][0] == 15
    assert seen.losses("node-3")[0] < 0.5 * seen.losses("node-0")[0]


def test_a_swarm_that_does_not_end_is_reported_with_who_waits_where() -> None:
    with pytest.raises(Hang, match=r"node-0#1: .* at .*daemon.py:\d+"):
        Seen(topology(), limit_s=10.0)


def test_what_a_node_raises_that_it_should_not_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from p2ptrain.exchange.pairwise import Exchanger

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Exchanger, "_mix", broken)
    with pytest.raises(BaseExceptionGroup, match="unhandled"):
        Seen(topology())


def test_the_trace_is_the_same_in_every_process(tmp_path: Path) -> None:
    path = tmp_path / "swarm.yaml"
    churn = {"at": 2, "churn": "node-2..node-3", "for": 8, "session": 3, "away": 1}
    body = {
        "name": "test", "run": {**RUN, "seconds": 12, "codec": {"name": "int8"}}, "nodes": [{"count": 4}],
        "node": {"heartbeat": 1, "checkpoint_every": 3}, "simulation": {"step": 0.2}, "faults": [churn],
        "links": {"default": {"latency": "20ms", "jitter": "30ms", "loss": "1%"}},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(body))
    traces = []
    for hash_seed in ("0", "4711"):
        out = tmp_path / hash_seed
        command = [sys.executable, "-m", "node", "up", str(path), "--runtime", "sim", "--out", str(out)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True)
        summary = json.loads((out / "summary.json").read_text())
        assert summary["runtime"] == "sim"
        traces.append(summary["trace"])
    assert len(set(traces)) == 1
    assert Seen(Topology.model_validate({**body, "run": {**body["run"], "seed": 1}})).world.trace != traces[0]  # type: ignore[dict-item]
