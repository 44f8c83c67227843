"""Random faults on a whole swarm, all invariants watched; and proof that the invariants can fail."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from node import campaign
from p2ptrain.config import load
from p2ptrain.daemon import Daemon
from p2ptrain.exchange.decisions import Decisions, Doubt
from p2ptrain.exchange.pairwise import Exchanger
from p2ptrain.pace import Pace
from p2ptrain.ports import PeerId
from p2ptrain.simulation.campaign import Mode, Outcome, Trial, draw, judge, keep, shrink
from p2ptrain.topology import Topology

HERE = Path(__file__).parent
FILE = HERE.parents[1] / "topologies" / "campaign.yaml"
SEEDS = 200
MUTANT_SEEDS = 50


def try_seed(seed: int) -> Outcome:
    return judge(draw(load(FILE, Topology), seed, "liveness" if seed % 4 == 3 else "safety"))


@pytest.mark.timeout(900)
def test_no_invariant_is_violated_under_many_schedules_of_faults() -> None:
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        outcomes = list(pool.map(try_seed, range(SEEDS), chunksize=5))
    assert {outcome.seed: outcome.failure for outcome in outcomes if outcome.failure} == {}
    assert min(outcome.num_exchanges for outcome in outcomes) > 20
    kinds = {kind.split(":")[0] for outcome in outcomes for kind in outcome.faults}
    assert kinds >= {"kill", "partition", "pause", "tear", "cut", "degrade", "flap", "reset", "crash", "break", "wait"}


def _forget_what_was_sent(self: Exchanger, lease: Any, where: slice, sent: Any, received: Any, tally: Any) -> None:
    torch.lerp(lease.own[where], self.codec.decode(received), 0.5, out=lease.out[where])


async def _look_at_nobody(self: Daemon) -> list[Any]:
    return []


async def _apply_in_doubt(self: Decisions, doubt: Doubt) -> None:
    await self._apply(doubt)


def _for_ever(self: Pace, peer: PeerId, nbytes: int = 0) -> float:
    return 1e6


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("owner", "name", "mutant", "mode", "caught"),
    [
        (Exchanger, "_mix", _forget_what_was_sent, "safety", "ExactlyOnce"),
        (Decisions, "_settle", _apply_in_doubt, "safety", "ExactlyOnce"),
        (Daemon, "_look_around", _look_at_nobody, "safety", "NobodyStartsFromNothing"),
        (Pace, "patience", _for_ever, "liveness", "TheSwarmHeals"),
    ],
    ids=["sum", "exactly once", "join", "deadline"],
)
def test_a_broken_rule_is_caught(
    owner: type, name: str, mutant: Any, mode: Mode, caught: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(getattr(owner, name))
    monkeypatch.setattr(owner, name, mutant)
    topology = load(FILE, Topology)
    outcomes = (judge(draw(topology, seed, mode)) for seed in range(MUTANT_SEEDS))
    found = next((outcome for outcome in outcomes if outcome.failure), None)
    assert found is not None
    assert caught in (found.failure or "")


def test_a_seed_is_the_same_trial_every_time() -> None:
    topology = load(FILE, Topology)
    one, other = judge(draw(topology, 3)), judge(draw(topology, 3))
    assert one == other
    assert one.trace != judge(draw(topology, 4)).trace


@pytest.mark.parametrize("mode", ["safety", "liveness"])
def test_the_command_that_replays_runs_the_same_trial(
    mode: Mode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    topology, judged = load(FILE, Topology), list[Trial]()
    monkeypatch.setattr(campaign, "judge", lambda trial: judged.append(trial) or judge(trial))
    assert campaign.replay(topology, 3, mode, None, False, Console()) == campaign.OK
    assert judged == [draw(topology, 3, mode)]
    assert "every invariant held" in capsys.readouterr().out


def test_faults_that_do_not_matter_are_left_out() -> None:
    kill = {"at": 3, "kill": "node-2", "for": 2}
    noise: list[dict[str, Any]] = [{"at": at, "reset": {"from": "node-0", "to": "all"}} for at in range(5)]
    body = yaml.safe_load(FILE.read_text())
    trial = Trial(Topology.model_validate({**body, "faults": [*noise[:3], kill, *noise[3:]]}))
    smallest = shrink(trial, lambda found: any(fault.verb() == "kill" for fault in found.topology.faults))
    assert [fault.verb() for fault in smallest.topology.faults] == ["kill"]
    assert not smallest.interference
    assert keep(trial, [3]).topology.faults == smallest.topology.faults


REGRESSIONS: list[dict[str, Any]] = yaml.safe_load((HERE / "regressions.yaml").read_text())


@pytest.mark.parametrize("entry", REGRESSIONS, ids=lambda entry: entry["what"])
def test_what_was_found_once_stays_mended(entry: dict[str, Any]) -> None:
    source = FILE.with_name(f"{entry.get('topology', FILE.stem)}.yaml")
    topology = Topology.model_validate({**yaml.safe_load(source.read_text()), **entry.get("file", {})})
    assert judge(draw(topology, entry["seed"], entry.get("mode", "safety"))).failure is None
