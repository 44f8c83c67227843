"""The families drawn by chance: the same options give the same graph on every machine."""

import math
import random

import networkx
from pydantic import Field, model_validator

from p2ptrain.graphs import Point, Sized, layouts, register
from p2ptrain.seeds import python_random

MAX_DRAWS = 100


class Drawn(Sized):
    """Drawn again, with the next seed derived from `seed`, until it is connected."""

    seed: int = Field(0, ge=0)

    def draw(self, rng: random.Random) -> networkx.Graph:
        """One draw, connected or not. Raises `ValueError` if the options allow none."""
        raise NotImplementedError

    def denser(self) -> str:
        """What to change when no draw is connected."""
        raise NotImplementedError

    def build(self) -> networkx.Graph:
        for attempt in range(MAX_DRAWS):
            graph = self.draw(python_random(self.seed, self.name, attempt))
            if networkx.is_connected(graph):
                return graph
        raise ValueError(f"{self.denser()}: none of {MAX_DRAWS} draws was connected")

    @model_validator(mode="after")
    def _exists(self) -> "Drawn":
        _ = self.edges
        return self


@register("geometric")
class Geometric(Drawn):
    """Points anywhere in the unit square; those within `radius` know each other. Left out, `radius` is
    sqrt(3 ln n / (pi n)), at which most draws are connected."""

    radius: float | None = Field(None, gt=0, le=math.sqrt(2))

    def draw(self, rng: random.Random) -> networkx.Graph:
        radius = self.radius or math.sqrt(3 * math.log(self.n) / (math.pi * self.n))
        return networkx.random_geometric_graph(self.n, radius, seed=rng)

    def denser(self) -> str:
        return "raise radius"

    def positions(self) -> list[Point]:
        points = self.build().nodes(data="pos")
        return [(x, y) for _, (x, y) in sorted(points)]


@register("regular")
class Regular(Drawn):
    """Everyone knows `degree` others, picked at random; left out, four, or all where there are fewer."""

    degree: int | None = Field(None, gt=0)

    def draw(self, rng: random.Random) -> networkx.Graph:
        degree = self.degree or min(4, self.n - 1)
        if degree >= self.n or degree * self.n % 2:
            raise ValueError(
                f"degree {degree} does not go with n {self.n}: it must be below n, and one of the two even"
            )
        if 2 * degree < self.n:
            return networkx.random_regular_graph(degree, self.n, seed=rng)
        # Who does not know whom is as random; drawing a dense graph straight away takes many attempts.
        return networkx.complement(networkx.random_regular_graph(self.n - 1 - degree, self.n, seed=rng))

    def denser(self) -> str:
        return "raise degree"


@register("erdos-renyi")
class ErdosRenyi(Drawn):
    """Any two know each other with probability `p`; left out, 2 ln n / n, at which most draws are connected."""

    p: float | None = Field(None, gt=0, le=1)

    def draw(self, rng: random.Random) -> networkx.Graph:
        return networkx.gnp_random_graph(self.n, self.p or 2 * math.log(self.n) / self.n, seed=rng)

    def denser(self) -> str:
        return "raise p"


@register("small-world")
class SmallWorld(Drawn):
    """A ring in which everyone knows the `k` nearest (left out: four), after each edge was bent to a random vertex with
    probability `p` (Watts and Strogatz 1998)."""

    k: int | None = Field(None, gt=0, le=64, multiple_of=2)  # bending the edges of dense graphs takes for ever
    p: float = Field(0.2, ge=0, le=1)

    def draw(self, rng: random.Random) -> networkx.Graph:
        k = self.k or min(4, self.n - self.n % 2)
        if k > self.n:
            raise ValueError(f"k {k} does not go with n {self.n}: it must not be above n")
        return networkx.watts_strogatz_graph(self.n, k, self.p, seed=rng)

    def denser(self) -> str:
        return "raise k or lower p"

    def positions(self) -> list[Point]:
        return layouts.circle(self.n)
