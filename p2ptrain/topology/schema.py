"""The JSON schema of a topology file, for editors: what may be written where, and what it means."""

import ast
import inspect
import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from p2ptrain.topology import Topology


def schema() -> dict[str, Any]:
    """Draft 2020-12, with every component that is registered."""
    body = Topology.model_json_schema(schema_generator=_Described)
    return {"$schema": GenerateJsonSchema.schema_dialect, **body, "title": "p2ptrain topology"}


class _Described(GenerateJsonSchema):
    """With the texts under the fields of each model as their descriptions."""

    # pydantic can do this by itself, but while the models are defined: a second at the start of every node.
    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found, cls = super().model_schema(schema), schema["cls"]
        texts = _texts(cls)
        for name, field in cls.model_fields.items():
            if name in texts:
                found["properties"][field.alias or name]["description"] = texts[name]
        return found


def _texts(cls: type[BaseModel]) -> dict[str, str]:
    """The string that stands under a field, by the field's name."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(tree, ast.ClassDef)
            for field, below in zip(tree.body, tree.body[1:], strict=False):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        texts[name] = inspect.cleandoc(text)
    return texts
