"""The schema of a function's arguments in Kimi's dialect: always one object, whatever schema was given.

Kimi wants to see an object at the root. A reference there is followed, and alternatives of objects, as servers of tools
like to write them, become one object: it has the properties of all, and requires what all require. What a single
alternative requires is told in the description. A property that only some alternatives declare keeps its type: who
leaves it out of the others does not mean that anything goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .mfjs import Schema, as_list, as_mapping, resolve, types_of
from .reshape import annotated, either, joined, settled
from .schema import to_mfjs

__all__ = ["object_schema"]


def object_schema(schema: Mapping[str, Any]) -> Schema | None:
    """The schema for the arguments of a function; `None` when no object fits it.

    Args:
        schema: JSON Schema of any draft. It is not changed.
    """
    root = to_mfjs(schema)
    objects = _objects(root, root, set())
    if not objects:
        return None
    if objects == [root]:
        return root if "properties" in root else {**root, "properties": {}}
    definitions = {"$defs": root["$defs"]} if "$defs" in root else {}
    merged = objects[0] if len(objects) == 1 else _merged(objects, root)
    return to_mfjs(settled({"type": "object", "properties": {}, **merged, **definitions}))


def _objects(schema: Schema, root: Schema, met: set[str]) -> list[Schema]:
    """The objects among what a schema takes."""
    if "$ref" in schema:
        target = resolve(root, schema["$ref"])
        if target is None or schema["$ref"] in met:
            return []
        words = {"title": schema.get("title"), "description": schema.get("description")}
        found = _objects(target, root, met | {schema["$ref"]})
        return [{**made, **{key: text for key, text in words.items() if text}} for made in found]
    if "anyOf" in schema:
        return [made for branch in schema["anyOf"] for made in _objects(branch, root, met)]
    types = types_of(schema)
    if types and "object" not in types:
        return []
    return [schema] if schema.get("type") == "object" else [{**schema, "type": "object"}]


def _merged(objects: list[Schema], root: Schema) -> Schema:
    properties = [as_mapping(one.get("properties")) for one in objects]
    names = list(dict.fromkeys(name for declared in properties for name in declared))
    required = [dict.fromkeys(as_list(one.get("required"))) for one in objects]
    common = [name for name in required[0] if all(name in some for some in required)]
    merged: Schema = {
        "type": "object",
        "properties": {name: either(some.get(name) for some in properties) for name in names},
    }
    if common:
        merged["required"] = common
    if all(one.get("additionalProperties") is False for one in objects):
        merged["additionalProperties"] = False
    alternatives = [", ".join(name for name in some if name not in common) for some in required]
    note = f"Give {'; or '.join(dict.fromkeys(alternatives))}." if all(alternatives) else ""
    return annotated(merged, root.get("title"), joined(root.get("description"), note))
