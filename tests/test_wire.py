"""The generated code is what the .proto files say."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_what_is_generated_from_the_protos_is_what_is_committed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(["sh", ROOT / "protos" / "generate.sh", tmp_path], check=True, env=environment, timeout=60)
    fresh, committed = tmp_path / "p2ptrain" / "wire", ROOT / "p2ptrain" / "wire"
    names = {path.name for path in fresh.iterdir()}
    assert names == {path.name for path in committed.glob("*_pb2*")}
    assert len(names) == 3 * len(list((ROOT / "protos").rglob("*.proto")))
    for name in names:
        assert (fresh / name).read_text() == (committed / name).read_text(), f"{name}: run protos/generate.sh"
