"""Which of its lives a node is in: numbers that must grow from start to start begin with it, as clocks go wrong."""

from p2ptrain.ports import Disk

_FILE, _DRAFT = "onebyte.life", "onebyte.life.draft"
SHIFT = 40
"""So many bits are left for what is counted within one life."""


def begin(disk: Disk) -> int:
    """A number above all of the earlier lives. Raises `ConfigError` if the disk does not take it."""
    content = disk.read(_FILE) if _FILE in disk.names() else b""
    life = int.from_bytes(content, "big") % (1 << 24) + 1
    disk.write(_DRAFT, life.to_bytes(3, "big"))
    disk.rename(_DRAFT, _FILE)
    return life << SHIFT
