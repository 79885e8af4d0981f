"""What the author of a function says about one of its parameters."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

__all__ = ["AIParam"]


@dataclass(frozen=True, slots=True)
class AIParam:
    """What a parameter means, for the model: `city: Annotated[str, AIParam("City, in English")]`.

    It works on the fields of dataclasses and models too.

    Args:
        desc: the description. It wins over `Field(description=...)`, which wins over the docstring.
        title: a title for the parameter; normally none is needed.
    """

    desc: str
    _: KW_ONLY
    title: str | None = None

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        title = {} if self.title is None else {"title": self.title}
        return {**handler(schema), "description": self.desc, **title}
