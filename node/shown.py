"""What a person sees of one daemon in the foreground."""

import time

from node import live, resolve
from p2ptrain.config import NodeFile
from p2ptrain.telemetry.events import Stamped, Started
from p2ptrain.telemetry.state import apply, expecting


class Shown:
    """An output that folds one node's events for the live view."""

    def __init__(self, file: NodeFile) -> None:
        self._file = file
        self.state = expecting([file.node.name])
        self._view = live.view(live.Run(file.name, file.run.steps, file.run.seconds))
        self._start = time.monotonic()

    def write(self, stamped: Stamped) -> None:
        self.state = apply(self.state, stamped)
        self._view.event(stamped, self.state)
        if isinstance(stamped.event, Started):
            home = self._file.node.home
            resolve.save(home / "node.yaml", resolve.with_node(self._file, listen=stamped.event.address))
            self._view.say(f"Others join with what `p2ptrain invite {home}` prints.")

    def refresh(self) -> None:
        self._view.refresh(self.state, time.monotonic() - self._start)

    def close(self) -> None:
        self._view.close()
