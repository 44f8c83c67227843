"""Batches in a message, with the keys to check them by."""

from collections.abc import Mapping

from p2ptrain.strategies.spsa.ledger.log import Log
from p2ptrain.wire.onebyte_pb2 import Said

MESSAGE_BYTES = 1 << 16
"""About so long are messages with records."""


def take_some(waiting: dict[bytes, None], told: set[int], log: Log, keys: Mapping[int, bytes]) -> Said.Records:
    """As many of what waits as make a message. `told`: slots whose keys the other side has."""
    batches, new, size = [], [], 0
    while waiting and size < MESSAGE_BYTES:
        record = next(iter(waiting))
        del waiting[record]
        batch = log.batches.get(record)
        if batch is None or batch.slot not in keys:
            continue  # a larger one has taken its place; or from the disk of an earlier life, and nobody told yet
        if batch.slot not in told:
            told.add(batch.slot)
            new.append(keys[batch.slot])
        batches.append(record)
        size += len(record)
    return Said.Records(keys=new, batches=batches)
