"""Files of `topologies/` as processes: those with faults in `make test-faults`, all in `make test-topologies`.

Each takes as long as it says."""

from pathlib import Path

import pytest
from topology_files import FILES, LIMIT_S, bring_up


@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.faults if file.faults else ()) for name, file in FILES.items()]
)
def test_it_meets_its_expectations(name: str, tmp_path: Path) -> None:
    bring_up(name, "process", tmp_path / "out")
