"""A daemon on a leash ends when its launcher does, however that ends: its standard input is a pipe from there.

Faults that a process can only do to itself come down the same pipe, a line of text each: `skew SECONDS`, `tear`.
"""

import math
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass

PATIENCE_S = 20.0
"""From being asked to leave to being killed."""
LINE_BYTES_MAX = 100


@dataclass
class Orders:
    """What the launcher wants to go wrong. Written by the leash's thread alone."""

    skew_s: float = 0.0
    """The clock is off by so much."""
    tear: bool = False
    """The power fails in the middle of the next checkpoint."""

    def now_unix(self) -> float:
        return time.time() + self.skew_s

    def take(self, line: bytes) -> None:
        """What is not understood is left alone."""
        match line.split():
            case [b"tear"]:
                self.tear = True
            case [b"skew", number]:
                try:
                    seconds = float(number)
                except ValueError:
                    return
                if math.isfinite(seconds):
                    self.skew_s = seconds


def hold() -> Orders:
    """Watch standard input from a thread of its own, which works before there is an event loop and when it hangs."""
    orders = Orders()
    threading.Thread(target=_watch, args=(orders,), name="leash", daemon=True).start()
    return orders


def _watch(orders: Orders) -> None:
    line = b""
    while received := os.read(sys.stdin.fileno(), 4096):
        *lines, line = (line + received).split(b"\n")
        line = line[:LINE_BYTES_MAX]
        for whole in lines:
            orders.take(whole[:LINE_BYTES_MAX])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE_S)
    die()


def die() -> None:
    """At once, as in a power cut."""
    if os.getpgrp() == os.getpid():  # the launcher made us a group of our own: take the helpers along
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
