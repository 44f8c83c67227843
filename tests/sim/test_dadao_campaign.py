"""Random faults on a swarm that finds an exact optimum: no exchange may count on one side only."""

from pathlib import Path
from typing import Any

import pytest

from p2ptrain.config import load
from p2ptrain.simulation.campaign import Mode, draw, judge
from p2ptrain.strategies.dadao.cell import Cell
from p2ptrain.topology import Topology

FILE = Path(__file__).parents[2] / "topologies" / "dadao-campaign.yaml"


@pytest.mark.parametrize(("seed", "mode"), [(10, "safety"), (17, "safety"), (3, "liveness")])
def test_accounts_cancel_under_random_faults(seed: int, mode: Mode) -> None:
    outcome = judge(draw(load(FILE, Topology), seed, mode))
    assert outcome.failure is None
    assert outcome.num_exchanges > 100


def _take_its_word(self: Cell, lease: Any, account: bytes) -> None:
    self._agreed = self.constants


def _keep_everything(self: Cell, peer: str) -> Any:
    return self.x * 0


@pytest.mark.parametrize(
    ("name", "mutant"), [("agree", _take_its_word), ("_write_off", _keep_everything)], ids=["compare", "write off"]
)
def test_books_that_are_not_kept_are_caught(name: str, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(getattr(Cell, name))
    monkeypatch.setattr(Cell, name, mutant)
    topology = load(FILE, Topology)
    failures = (judge(draw(topology, seed)).failure for seed in (3, 10, 17))
    assert "AccountsCancel" in str(next(failure for failure in failures if failure))
