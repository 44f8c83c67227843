"""A swap needs two vectors beside the parameters, the snapshot and the result, and a window of chunks; no more."""

import asyncio
from pathlib import Path

import psutil
import pytest

from benchmarks.pair import Side, Vector
from p2ptrain.training.replica import Replica

SIZE = 16_000_000
VECTOR_BYTES = 4 * SIZE


def resident_bytes() -> int:
    return psutil.Process().memory_info().rss


def test_a_replica_is_three_vectors() -> None:
    module = Vector(SIZE)
    before = resident_bytes()
    replica = Replica(module)
    replica.settle()
    # The parameters move into `flat`, so what is new are the snapshot and the spare.
    assert resident_bytes() - before < 2.2 * VECTOR_BYTES


@pytest.mark.parametrize("codec", ["fp32", "int8"])
async def test_a_swap_allocates_a_window_and_not_a_vector(codec: str, tmp_path: Path) -> None:
    sides = [Side(tmp_path / name, SIZE, codec, tls=True) for name in ("one", "other")]
    contacts = [await side.start() for side in sides]
    for side, other in zip(sides, reversed(contacts), strict=True):
        side.meet(other)
        side.replica._spare.zero_()  # its pages exist once it was written to
    before, peak, done = resident_bytes(), 0, False

    async def watch() -> None:
        nonlocal peak
        while not done:
            peak = max(peak, resident_bytes())
            await asyncio.sleep(0.002)

    watching = asyncio.create_task(watch())
    await sides[0].exchanger.swap(sides[0].other)
    done = True
    await watching
    assert sides[0].num_swaps == 1
    # Both sides are in this process; each may hold eight chunks of a mebibyte on the way out, and gRPC as many again.
    assert peak - before < 1.2 * VECTOR_BYTES, "both sides together"
    for side in sides:
        await side.close()
