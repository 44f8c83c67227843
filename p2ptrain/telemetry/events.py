"""The events a node emits. The live table, the report, the summary and the tests all read this one stream.

Times are seconds of the runtime's clock since the run began; they and the node's name are in the `Stamped` envelope.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class Started(Event):
    """The daemon serves calls."""

    peer: str
    slot: int
    device: str
    address: str
    num_parameters: int
    open_swarm: bool


@dataclass(frozen=True)
class Joined(Event):
    """A peer entered this node's view."""

    peer: str
    name: str


@dataclass(frozen=True)
class Left(Event):
    """A peer left this node's view: `leaving`, `silent` or `expired`."""

    peer: str
    name: str
    reason: str


@dataclass(frozen=True)
class Stepped(Event):
    """One local training step."""

    step: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Exchanged(Event):
    """A swap was applied. `distance` is |theirs - mine|^2 / |mine|^2, from a sample of the chunks."""

    peer: str
    bytes_sent: int
    bytes_received: int
    seconds: float
    distance: float
    initiated: bool


@dataclass(frozen=True)
class Flooded(Event):
    """Signed bytes went between this node and a neighbour, in so many bytes of messages, since the last time."""

    peer: str
    bytes_sent: int
    bytes_received: int
    seconds: float


@dataclass(frozen=True)
class Mended(Event):
    """What this node had of rounds [first, last), which were closed, was not what most had. Now it has what `peer` has:
    so many evaluations are new here, and so many are gone."""

    peer: str
    first: int
    last: int
    new: int
    gone: int


@dataclass(frozen=True)
class Failed(Event):
    """A swap this node took part in came to nothing; nothing was applied on either side."""

    peer: str
    reason: str
    initiated: bool


@dataclass(frozen=True)
class Rejected(Event):
    """Something from outside was refused: a frame, a record, a connection."""

    peer: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Suspected(Event):
    """What this node thinks of a peer has changed: it is now `suspected`, `quarantined` or `readmitted`. `reason` is
    what it did last."""

    peer: str
    level: str
    reason: str
    blame: float


@dataclass(frozen=True)
class Evaluated(Event):
    """Held-out loss and accuracy of this node's replica, and its distance to the optimum where that is known."""

    step: int
    loss: float
    accuracy: float | None
    gap: float | None = None


@dataclass(frozen=True)
class Fetched(Event):
    """The swarm's state was downloaded before the first step."""

    step: int
    donors: int
    bytes_received: int
    seconds: float


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint was written."""

    step: int
    seconds: float


@dataclass(frozen=True)
class Resumed(Event):
    """Training goes on from a checkpoint on disk."""

    step: int


@dataclass(frozen=True)
class Merged(Event):
    """The replica became the mean of this many replicas at the end of the run."""

    replicas: int


@dataclass(frozen=True)
class Noted(Event):
    """Something a person should know: a dead bootstrap, a rebuilt DHT node, a refused checkpoint."""

    level: str
    message: str


@dataclass(frozen=True)
class Finished(Event):
    """The last training step was taken; the node still answers others."""

    step: int


@dataclass(frozen=True)
class Stopped(Event):
    """The daemon drained and leaves. `digest` is the SHA-256 of its flat vector."""

    step: int
    digest: str


@dataclass(frozen=True)
class Died(Event):
    """Said by whoever started the node, not by the node: its process ended without a `Stopped`. Negative: a signal."""

    code: int
    on_purpose: bool = False
    """Whoever says this has killed it, and was to."""


@dataclass(frozen=True)
class Restarted(Event):
    """Said by whoever started the node: a new process of it begins."""


@dataclass(frozen=True)
class Faulted(Event):
    """Said by whoever runs the topology: a fault of its file began or ended. `fault` is its index there, and `whom`
    the names it befalls, separated by spaces; pairs of nodes are written `from>to`."""

    fault: int
    verb: str
    what: str
    whom: str


@dataclass(frozen=True)
class Offline(Event):
    """Said by a broker, not by the node: it has lost the node, which has not said goodbye."""


@dataclass(frozen=True)
class Stamped:
    """An event with where and when."""

    node: str
    """Empty for what concerns the whole swarm."""
    time: float
    event: Event


_TYPES: dict[str, type[Event]] = {cls.__name__.lower(): cls for cls in Event.__subclasses__()}


def to_json(stamped: Stamped) -> str:
    """One line; floats that are not finite become null."""
    body = {key: _finite(value) for key, value in vars(stamped.event).items()}
    kind = type(stamped.event).__name__.lower()
    return json.dumps({"time": round(stamped.time, 6), "node": stamped.node, "event": kind, **body}, allow_nan=False)


def from_json(line: str) -> Stamped:
    """The inverse of `to_json`; raises `ValueError` on anything else, as lines also come from the network."""
    try:
        body: dict[str, Any] = json.loads(line)
        time, node, cls = body.pop("time"), body.pop("node"), _TYPES[body.pop("event")]
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        values = {key: _typed(value, fields[key]) for key, value in body.items()}
        if not isinstance(node, str) or not math.isfinite(time):
            raise TypeError("no place or no time")
        return Stamped(node, float(time), cls(**values))
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not an event: {line[:200]}") from error


def _typed(value: Any, kind: Any) -> Any:
    """A JSON value as a field's type; integers that a machine's word does not hold would overflow elsewhere."""
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise OverflowError
    if value is None and kind is float:
        return math.nan
    if isinstance(value, int) and kind in (float, float | None):
        return float(value)
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind}")
    return value


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and value - value != 0 else value
