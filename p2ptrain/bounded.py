"""Tables that others can fill: of too many entries, those go that were not entered for longest."""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def keep(table: dict[K, V], key: K, value: V, most: int) -> V:
    """Enter it as the newest; afterwards there are `most` entries at most. Returns the value."""
    table.pop(key, None)
    table[key] = value
    while len(table) > most:
        del table[next(iter(table))]
    return value
