"""What rules around another rule share."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, GetJsonSchemaHandler, SerializeAsAny
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from p2ptrain.aggregators import Aggregator, Plan, get, names, parse
from p2ptrain.aggregators._rows import Array


@dataclass(frozen=True)
class _AnyRule:
    """For editors, by name only: a description of every rule in that of a rule would have no end."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        name = {"enum": names()}
        return {"anyOf": [name, {"type": "object", "properties": {"name": name}, "required": ["name"]}]}


ARule = Annotated[SerializeAsAny[Aggregator], BeforeValidator(parse), _AnyRule()]


def same_f(options: Any, default: str) -> Any:
    """`{f: 2, rule: krum}` is for two bad vectors also inside, unless the rule says otherwise."""
    if not isinstance(options, dict) or "f" not in options:
        return options
    rule = options.get("rule", default)
    rule = {"name": rule} if isinstance(rule, str) else rule
    if isinstance(rule, dict) and rule.get("name") in names() and "f" in get(rule["name"]).model_fields:
        rule = {"f": options["f"], **rule}
    return {**options, "rule": rule}


def after(matrix: Array, plan: Plan) -> Plan:
    """`plan` for vectors that `matrix` has mixed."""
    return Plan(plan.matrix @ matrix, plan.columns)
