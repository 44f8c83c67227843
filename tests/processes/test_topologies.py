"""Every file in `topologies/` as processes: `make test-topologies`, since each takes as long as the file says."""

from pathlib import Path

import pytest
from topology_files import FILES, LIMIT_S, bring_up


@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize("name", FILES)
def test_it_meets_its_expectations(name: str, tmp_path: Path) -> None:
    bring_up(name, "process", tmp_path / "out")
