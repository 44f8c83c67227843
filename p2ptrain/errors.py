"""Every error p2ptrain raises on purpose.

    P2PTrainError
      ConfigError        the user can fix it: one line, exit code 2
        Misplaced        it is known where in the configuration
      CheckpointError    a file on disk is damaged or of another run
      PeerError          a peer failed or lied: counted, logged, the node goes on
        PeerBusy         the peer is in another exchange: not a failure
      TooFewError        a robust rule got fewer vectors than it needs: the node keeps its own

Anything else that is raised is a bug and stops the node.
"""


class P2PTrainError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(P2PTrainError):
    """The configuration cannot work; the message names the place, the cause and what to write instead."""


class CheckpointError(P2PTrainError):
    """A checkpoint cannot be used; the message names the file and the reason."""


class PeerError(P2PTrainError):
    """A peer failed, misbehaved or is unreachable.

    `reason` is a short slug from a fixed set (`deadline`, `unreachable`, `malformed`, `not-finite`, `wrong-model`,
    ...): it is what gets counted; `detail` is for the log.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class PeerBusy(PeerError):
    """The peer is in another exchange; ask another one."""

    def __init__(self) -> None:
        super().__init__("busy")


class TooFewError(P2PTrainError):
    """A robust rule cannot promise anything with so few vectors; keep your own, say so, and go on."""

    def __init__(self, rule: str, got: int, needed: int) -> None:
        super().__init__(f"{rule} needs {needed} vectors from peers, got {got}; wait for more, or lower f")
        self.rule, self.got, self.needed = rule, got, needed


class Misplaced(ConfigError, ValueError):
    """What a configuration says at `place`, a path of keys, does not go with the rest of it or with where it runs."""

    def __init__(self, place: tuple[str | int, ...], reason: str) -> None:
        super().__init__(reason)
        self.place = place
