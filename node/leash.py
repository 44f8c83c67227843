"""A daemon on a leash ends when its launcher does, however that ends: its standard input is a silent pipe."""

import os
import signal
import sys
import threading
import time

PATIENCE_S = 20.0
"""From being asked to leave to being killed."""


def hold() -> None:
    """Watch standard input from a thread of its own, which works before there is an event loop and when it hangs."""
    threading.Thread(target=_watch, name="leash", daemon=True).start()


def _watch() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE_S)
    if os.getpgrp() == os.getpid():  # the launcher made us a group of our own: take the helpers along
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
