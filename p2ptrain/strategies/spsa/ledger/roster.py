"""Who may say bytes: a peer's slot is the first four bytes of its key's hash.

So nobody hands slots out, two peers never make the same noise, and who comes back has its slot because it has its key.
Should two keys share a slot after all, the lower one has it, for everyone.
"""

import hashlib
from collections.abc import Iterable

from p2ptrain.errors import PeerError
from p2ptrain.ports import Disk, PeerId, peer_id_of

MEMBERS_MAX = 4096
KEY_BYTES = 32
_FILE, _DRAFT = "onebyte.keys", "onebyte.keys.draft"


def slot_of(public_key: bytes) -> int:
    return int.from_bytes(hashlib.sha256(public_key).digest()[:4], "big")


class Roster(dict[int, bytes]):
    """The public key of each slot that was heard of, kept in one file."""

    def __init__(self, disk: Disk) -> None:
        self._disk, self._kept = disk, 0
        content = disk.read(_FILE) if _FILE in disk.names() else b""
        whole = len(content) // KEY_BYTES * KEY_BYTES
        keys = (content[start : start + KEY_BYTES] for start in range(0, whole, KEY_BYTES))
        super().__init__({slot_of(key): key for key in keys})

    def admit(self, public_key: bytes) -> int | None:
        """Enter a key; its slot if that was another's until now, whose bytes count no more.

        Raises `PeerError`: `malformed`, `crowded`, `slot-taken`."""
        if len(public_key) != KEY_BYTES:
            raise PeerError("malformed", f"key of {len(public_key)} bytes")
        slot = slot_of(public_key)
        holder = self.get(slot)
        if holder == public_key:
            return None
        if holder is None and len(self) >= MEMBERS_MAX:
            raise PeerError("crowded", f"more than {MEMBERS_MAX} keys in this run")
        if holder is not None and holder < public_key:
            raise PeerError("slot-taken", f"another key has slot {slot}")
        self[slot] = public_key
        return None if holder is None else slot

    def peer(self, slot: int) -> PeerId | None:
        return peer_id_of(self[slot]) if slot in self else None

    def slots_of(self, peers: Iterable[PeerId]) -> set[int]:
        """Those of these peers that have one: a peer's id begins with the same hash."""
        return {slot for peer in peers if (slot := int(peer[:8], 16)) in self and self.peer(slot) == peer}

    def save(self) -> None:
        """Make it durable. Raises `ConfigError` if the disk does not take it."""
        keys = list(self.values())
        if len(keys) != self._kept:
            self._disk.write(_DRAFT, b"".join(keys))
            self._disk.rename(_DRAFT, _FILE)
            self._kept = len(keys)
