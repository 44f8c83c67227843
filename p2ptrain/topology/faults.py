"""The faults that a person can write: one verb per fault, and whom it befalls.

`{at: 30s, kill: node-3}`, `{at: 60s, partition: [[node-0..node-3], us], for: 20s}`
"""

import math
import random
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    WithJsonSchema,
    field_validator,
)

from p2ptrain.errors import Misplaced
from p2ptrain.registry import Like, place_of, reason_of
from p2ptrain.topology.links import Link, Pair
from p2ptrain.topology.plan import Cast, Deed
from p2ptrain.topology.quantities import Offset, Seconds

Place = tuple[str | int, ...]
Nodes = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
"""`node-3`, `node-0..node-3`, `all`, a site's name, or a list of these."""


class Way(BaseModel):
    """From some nodes to others."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    from_: Nodes = Field(alias="from")
    to: Nodes

    def __str__(self) -> str:
        return f"{listed(self.from_)} -> {listed(self.to)}"

    def pairs(self, cast: Cast) -> tuple[Pair, ...]:
        return tuple((a, b) for a in cast.nodes(self.from_) for b in cast.nodes(self.to) if a != b)

    def both_ways(self, cast: Cast) -> tuple[Pair, ...]:
        return tuple(pair for a, b in self.pairs(cast) for pair in ((a, b), (b, a)))


class Fault(BaseModel):
    """Base of all kinds. The first field of each is its verb, and holds whom it befalls."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    at: Seconds

    @classmethod
    def verb(cls) -> str:
        return next(name for name in cls.model_fields if name not in Fault.model_fields)

    def __str__(self) -> str:
        """`kill node-3`"""
        match getattr(self, self.verb()):
            case Way() as way:
                whom = str(way)
            case (tuple(), *_) as groups:
                whom = " | ".join(map(listed, groups))
            case nodes:
                whom = listed(nodes)
        return f"{self.verb()} {whom}"

    def named(self) -> Iterator[tuple[Place, Nodes]]:
        """Whom the fault names, as written, and where in it."""
        verb = self.verb()
        match getattr(self, verb):
            case Way() as way:
                yield (verb, "from"), way.from_
                yield (verb, "to"), way.to
            case (tuple(), *_) as groups:
                yield from (((verb, index), group) for index, group in enumerate(groups))
            case nodes:
                yield (verb,), nodes

    def check(self, cast: Cast) -> None:
        """Raises `Misplaced` when it cannot befall these nodes."""
        for place, written in self.named():
            try:
                cast.nodes(written)
            except ValueError as error:
                raise Misplaced(place, str(error)) from None
        match getattr(self, self.verb()):
            case Way() as way if not way.pairs(cast):
                raise Misplaced((self.verb(),), "from and to are the same node: there is no link between them")

    def deeds(self, cast: Cast, rng: random.Random) -> Iterator[Deed]:
        """In any order; without `fault`."""
        raise NotImplementedError


class Kill(Fault):
    """As a power cut; with `for`, it is started again after that time."""

    kill: Nodes
    for_: Seconds | None = Field(None, alias="for")

    def deeds(self, cast: Cast, rng: random.Random) -> Iterator[Deed]:
        nodes = cast.nodes(self.kill)
        yield Deed(self.at, "kill", nodes, what=str(self))
        if self.for_ is not None:
            yield Deed(self.at + self.for_, "start", nodes, what=f"start {listed(self.kill)}")


class Stop(Fault):
    """Asked to leave in order."""

    stop: Nodes

    def deeds(self, cast: Cast, rng: random.Random) -> Iterator[Deed]:
        yield Deed(self.at, "stop", cast.nodes(self.stop), what=str(self))


class Start(Fault):
    """Started (again), with what its disk has kept."""

    start: Nodes

    def deeds(self, cast: Cast, rng: random.Random) -> Iterator[Deed]:
        yield Deed(self.at, "start", cast.nodes(self.start), what=str(self))


class Pause(Fault):
    """Stands still, as a suspended laptop does, and goes on as if nothing had happened."""

    pause: Nodes
    for_: Seconds = Field(alias="for")

    def deeds(self, cast: Cast, rng: random.Random) -> Iterator[Deed]:
        nodes = cast.nodes(self.pause)
        yield Deed(self.at, "pause", nodes, what=str(self))
        yield Deed(self.at + self.for_, "resume", nodes, what=f"resume {listed(self.pause)}")


class Tear(Fault):
    """The power goes while the node next writes to its disk; it is started again after `for`."""

    tear: Nodes
    for_: Seconds = Field(1.0, alias="for")

    def deeds(self, cast: Cast, rng: random.Random) -> Iterator[Deed]:
        nodes = cast.nodes(self.tear)
        yield Deed(self.at, "tear", nodes, what=str(self))
        yield Deed(self.at + self.for_, "start", nodes, what=f"start {listed(self.tear)}")


class Partition(Fault):
    """Nothing passes between the groups, and nobody is told. Nodes in no group reach everyone."""

    partition: tuple[Nodes, ...] = Field(min_length=2)
    for_: Seconds | None = Field(None, alias="for")

    def check(self, cast: Cast) -> None:
        super().check(cast)
        group_of: dict[str, int] = {}
        for index, group in enumerate(self.partition):
            for node in cast.nodes(group):
                if group_of.setdefault(node, index) != index:
                    raise Misplaced(("partition", index), f"{node} is in another group already")

    def deeds(self, cast: Cast, rng: random.Random) -> Iterator[Deed]:
        groups = [cast.nodes(group) for group in self.partition]
        pairs = tuple((a, b) for one in groups for other in groups if one is not other for a in one for b in other)
        yield from _shaped(self.at, self.for_, pairs, {"down": True}, str(self))


class Cut(Fault):
    """Nothing passes one way: what is sent from `from` never reaches `to`. A half-open link."""

    cut: Way
    for_: Seconds | None = Field(None, alias="for")

    def deeds(self, cast: Cast, rng: random.Random) -> Iterator[Deed]:
        yield from _shaped(self.at, self.for_, self.cut.pairs(cast), {"down": True}, str(self))


class Degrade(Fault):
    """Another link for a while: `{at: 10s, degrade: {from: eu, to: us}, link: {latency: 500ms}, for: 5s}`."""

    degrade: Way
    link: Link
    for_: Seconds | None = Field(None, alias="for")

    def __str__(self) -> str:
        return (
            f"{super().__str__()}: {', '.join(f'{field} {value}' for field, value in self.link.model_dump().items())}"
        )

    def deeds(self, cast: Cast, rng: random.Random) -> Iterator[Deed]:
        pairs = self.degrade.both_ways(cast)
        yield from _shaped(self.at, self.for_, pairs, self.link.model_dump(), str(self))

    @field_validator("link")
    @classmethod
    def _says_something(cls, link: Link) -> Link:
        if not link.model_fields_set:
            raise ValueError("says not what changes, such as latency: 500ms")
        return link


class Flap(Fault):
    """A link that goes down and comes back, `every` so often for `down` seconds, both ways."""

    flap: Way
    every: Seconds = Field(gt=0.001)
    down: Seconds = Field(gt=0)
    for_: Seconds = Field(alias="for")

    def check(self, cast: Cast) -> None:
        super().check(cast)
        if self.down >= self.every:
            raise Misplaced(("down",), f"down for {self.down:g} s of every {self.every:g} s, it would never be up")

    def deeds(self, cast: Cast, rng: random.Random) -> Iterator[Deed]:
        pairs = self.flap.both_ways(cast)
        begins = self.at
        while begins < self.at + self.for_:
            yield from _shaped(begins, self.down, pairs, {"down": True}, str(self))
            begins += self.every


class Reset(Fault):
    """All connections between them break at once; new ones can be made."""

    reset: Way

    def deeds(self, cast: Cast, rng: random.Random) -> Iterator[Deed]:
        yield Deed(self.at, "reset", pairs=self.reset.both_ways(cast), what=str(self))


class Skew(Fault):
    """The clock is off by so much, ahead if positive."""

    skew: Nodes
    by: Offset
    for_: Seconds | None = Field(None, alias="for")

    def __str__(self) -> str:
        return f"{super().__str__()} by {self.by:g} s"

    def deeds(self, cast: Cast, rng: random.Random) -> Iterator[Deed]:
        nodes = cast.nodes(self.skew)
        yield Deed(self.at, "skew", nodes, seconds=self.by, what=str(self))
        if self.for_ is not None:
            yield Deed(self.at + self.for_, "skew", nodes, what=f"end of {self}")


class Churn(Fault):
    """Nodes come and go: sessions last Weibull(`shape`) with mean `session`, absences are exponential. All are back
    at the end. Shapes below 1, as measured in peer-to-peer networks (Stutzbach and Rejaie 2006): most sessions are
    short, some very long."""

    churn: Nodes
    for_: Seconds = Field(alias="for")
    session: Seconds = Field(gt=0)
    away: Seconds = Field(gt=0)
    shape: float = Field(0.6, gt=0.1, le=10)

    def deeds(self, cast: Cast, rng: random.Random) -> Iterator[Deed]:
        scale = self.session / math.gamma(1 + 1 / self.shape)
        for node in cast.nodes(self.churn):
            now, end = self.at, self.at + self.for_
            while (now := now + rng.weibullvariate(scale, self.shape)) < end:
                yield Deed(now, "kill", (node,), what=f"churn: kill {node}")
                now = min(now + rng.expovariate(1 / self.away), end)
                yield Deed(now, "start", (node,), what=f"churn: start {node}")


KINDS: dict[str, type[Fault]] = {kind.verb(): kind for kind in Fault.__subclasses__()}
"""By verb."""


def _parse(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    verbs = [verb for verb in KINDS if verb in value]
    if not verbs:
        raise ValueError(f"says not what happens: one of {', '.join(KINDS)}")
    if len(verbs) > 1:
        raise Misplaced((verbs[1],), f"{' and '.join(verbs)} are {len(verbs)} faults: write each on its own")
    try:
        return KINDS[verbs[0]].model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise Misplaced(place_of(first), reason_of(first)) from None


AnyFault = Annotated[SerializeAsAny[Fault], BeforeValidator(_parse), Like(*KINDS.values())]


def listed(written: Sequence[str]) -> str:
    return ", ".join(written)


def _shaped(
    at: float, for_s: float | None, pairs: tuple[Pair, ...], change: dict[str, Any], what: str
) -> Iterator[Deed]:
    yield Deed(at, "shape", pairs=pairs, change=tuple(change.items()), what=what)
    if for_s is not None:
        yield Deed(at + for_s, "unshape", pairs=pairs, change=tuple(change.items()), what=f"end of {what}")
