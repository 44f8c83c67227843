"""Say different things to different peers."""

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, SerializeAsAny
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from torch import Tensor

from p2ptrain.attacks import Attack, Scene, make, names, parse, register
from p2ptrain.attacks._honest import mean_and_deviation, recipient_row


class _AnyAttack:
    """For editors, by name only: a description of every attack in that of an attack would have no end."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        name = {"enum": names()}
        return {"anyOf": [name, {"type": "object", "properties": {"name": name}, "required": ["name"]}]}


@register("equivocation")
class Equivocation(Attack):
    """Another attack, made for each recipient out of what it and its neighbours say; to every other slot its mirror
    image in their mean. So the honest are drawn apart, each half with good reason."""

    omniscient: ClassVar[bool] = True
    per_recipient: ClassVar[bool] = True

    attack: Annotated[SerializeAsAny[Attack], BeforeValidator(parse), _AnyAttack()] = Field(
        default_factory=lambda: make("alie")
    )

    @property
    def memory(self) -> int:
        return self.attack.memory

    def __call__(
        self, own: Tensor, seen: Tensor, rng: np.random.Generator, *, to: int = 0, scene: Scene | None = None
    ) -> Tensor:
        near, scene = _neighbourhood(seen, to, scene or Scene())
        lie = self.attack(own, near, rng, to=to, scene=scene)
        if to % 2 == 0:
            return lie
        mean = mean_and_deviation(near, own)[0] if len(near) else own
        return 2 * mean - lie


def _neighbourhood(seen: Tensor, to: int, scene: Scene) -> tuple[Tensor, Scene]:
    """The recipient and those that count for it, as if there were no others."""
    if len(seen) == 0 or scene.weights is None:
        return seen, scene
    row = recipient_row(scene, to, len(seen))
    near = scene.weights != 0
    near[row] = True
    return seen[near.to(seen.device)], replace(scene, recipient=int(near[:row].sum()), weights=scene.weights[near])
