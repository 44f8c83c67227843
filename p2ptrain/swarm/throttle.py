"""Keeps what strangers can cause out of the log, but for a sample of it."""

from collections.abc import Hashable


class Throttle:
    """Lets each key through once per period, and no more than `keys_max` keys in one."""

    def __init__(self, period_s: float, keys_max: int) -> None:
        self._period_s = period_s
        self._keys_max = keys_max
        self._keys: set[Hashable] = set()
        self._since = float("-inf")

    def lets(self, key: Hashable, now: float) -> bool:
        if now - self._since >= self._period_s:
            self._keys.clear()
            self._since = now
        if key in self._keys or len(self._keys) >= self._keys_max:
            return False
        self._keys.add(key)
        return True
