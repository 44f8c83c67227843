"""What is done to a swarm and when: the alphabet that faults are spelled in, all that a runtime must be able to do."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from p2ptrain.seeds import python_random
from p2ptrain.topology.links import Pair

if TYPE_CHECKING:
    from p2ptrain.topology.faults import Fault

Verb = Literal["kill", "stop", "start", "pause", "resume", "tear", "reset", "skew", "shape", "unshape"]
"""tear: the next write to the disk kills the node half-way. reset: connections break, and may be made anew."""


@dataclass(frozen=True)
class Deed:
    """Done at one moment to some nodes, or to some directions between nodes."""

    at: float
    """Seconds of the run's clock."""
    verb: Verb
    nodes: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()
    change: tuple[tuple[str, Any], ...] = ()
    """For `shape`: the fields of `Link` that differ until the `unshape` of the same fault."""
    seconds: float = 0.0
    """For `skew`: how far the clock is off from now on."""
    fault: int = 0
    """Which fault of the file it belongs to."""
    what: str = ""
    """In a few words."""


class Cast:
    """Who there is: turns what a person wrote into names."""

    def __init__(self, sites: dict[str, str]) -> None:
        """`sites`: each node's site, in order of slots."""
        self._sites = sites
        self._order = list(sites)

    def site(self, name: str) -> str:
        return self._sites[name]

    def nodes(self, written: Sequence[str]) -> tuple[str, ...]:
        """Names, each once, in order of slots. Raises `ValueError` for what names nobody."""
        found = {name for word in written for name in self._expand(word)}
        return tuple(name for name in self._order if name in found)

    def _expand(self, word: str) -> list[str]:
        if word == "all":
            return self._order
        if word in self._sites:
            return [word]
        if word in self._sites.values():
            return [name for name, site in self._sites.items() if site == word]
        if found := re.fullmatch(r"(.+)\.\.(.+)", word):
            first, last = (self._position(name) for name in found.groups())
            if first <= last:
                return self._order[first : last + 1]
            raise ValueError(f"{word}: {found[1]} comes after {found[2]}")
        self._position(word)
        return []

    def _position(self, name: str) -> int:
        if name not in self._sites:
            known = ", ".join(self._order[:3]) + (", ..." if len(self._order) > 3 else "")
            raise ValueError(f"there is no node {name!r}; the nodes are {known}")
        return self._order.index(name)


def plan(faults: Sequence["Fault"], cast: Cast, seed: int) -> list[Deed]:
    """Everything that will be done, in order of time; the same for the same seed."""
    deeds = [
        replace(deed, fault=index)
        for index, fault in enumerate(faults)
        for deed in fault.deeds(cast, python_random(seed, "fault", index))
    ]
    return sorted(deeds, key=lambda deed: (deed.at, deed.fault))
