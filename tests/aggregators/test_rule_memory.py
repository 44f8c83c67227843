"""No rule makes a second copy of its vectors."""

import subprocess
import sys
from pathlib import Path

import pytest

CLEAR = Path("/proc/self/clear_refs")
SCRIPT = """
import sys
import torch
from pathlib import Path
from p2ptrain import aggregators

def kib(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0])

torch.set_num_threads(1)
rules = {name: aggregators.make(name) for name in aggregators.names()}
rows = torch.randn(12, 1_000_000)  # of 4 MB each
for rule in rules.values():
    rule.warm()
    rule(rows[0, :1000], rows[1:, :1000])
for name, rule in rules.items():
    Path("/proc/self/clear_refs").write_text("5")
    before = kib("VmRSS")
    out = rule(rows[0], rows[1:])
    print(name, (kib("VmHWM") - before) // 1024)
    del out
"""
RESULT_MIB, CHUNKS_MIB = 4, 12


@pytest.mark.skipif(not CLEAR.exists(), reason="the peak of a process' memory can be reset on Linux only")
def test_extra_memory_is_the_result_and_chunks() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=100, check=True)
    extra = {name: int(mib) for name, mib in (line.split() for line in done.stdout.splitlines())}
    assert len(extra) > 10
    assert all(mib <= RESULT_MIB + CHUNKS_MIB for mib in extra.values()), extra
