"""Schemas of Kimi's dialect made into others: unions, descriptions, recursion that ends, a size that Kimi takes.

A schema here has one type with its keywords, a list of types, an `anyOf`, or a `$ref`. `None` is the schema that takes
nothing; the dialect has no word for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from .mfjs import (
    ANNOTATIONS,
    DEFS,
    MAX_ANY_OF,
    MAX_BYTES,
    MAX_ENUM,
    MAX_NESTING,
    NUMERIC,
    ROOT_ONLY,
    TYPES,
    Schema,
    branches_of,
    can_end,
    compact,
    definitions,
    is_of_type,
    is_valid,
    needed,
    resolve,
    subschemas,
    types_of,
    unfit_value,
    walk,
    whole,
)

__all__ = ["alternatives", "annotated", "anything", "either", "is_anything", "let_end", "quoted", "settled", "shrunk"]

ANY_TYPES: Final = ("string", "number", "boolean", "object", "array", "null")
"""All values: whole numbers are numbers."""

MAX_QUOTED: Final = 200
"""Characters of JSON in a sentence of a description."""

FORGETTABLE: Final = (("title",), ("title", "description", "default"))
"""What a schema that is too large loses first."""

CUTS: Final = (*((levels, 3000) for levels in (48, 28, 16, 8, 4, 2, 1)), (1, 300), (1, 30), (0, 0))
"""How it is cut then, one after the other: the levels that stay, and how many properties of each object."""


# ==== unions ====


def anything() -> Schema:
    """The schema that takes everything."""
    return {"type": list(ANY_TYPES)}


def is_anything(schema: Schema) -> bool:
    """Whether it takes everything, whatever its description says."""
    return "enum" not in schema and set(ANY_TYPES) <= set(types_of(schema))


def of_types(names: Sequence[str]) -> Schema:
    """The schema of these types, with no more to say."""
    return {"type": names[0] if len(names) == 1 else list(names)}


def either(schemas: Iterable[Schema | None], *, as_types: bool = False) -> Schema | None:
    """The union.

    Args:
        schemas: what a value may be one of.
        as_types: whether it becomes a list of types where that says it all.
    """
    branches = _without_repeats(branch for schema in schemas if schema is not None for branch in _flat(schema))
    if free := next(filter(is_anything, branches), None):
        return free
    if len(branches) < 2:
        return branches[0] if branches else None
    if as_types and (short := _as_types(branches)):
        return short
    return {"anyOf": branches} if len(branches) <= MAX_ANY_OF else outline({"anyOf": branches})


def _flat(schema: Schema) -> list[Schema]:
    return schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]


def _without_repeats(schemas: Iterable[Schema]) -> list[Schema]:
    return list({compact(schema): schema for schema in schemas}.values())


def _as_types(branches: list[Schema]) -> Schema | None:
    """Bare types as a list; the values of one scalar type and null as one `enum`."""
    if all(branch.keys() == {"type"} for branch in branches):
        return of_types(list(dict.fromkeys(name for branch in branches for name in types_of(branch))))
    valued = [branch for branch in branches if branch.keys() == {"type", "enum"} and isinstance(branch["type"], str)]
    if len(branches) != 2 or len(valued) != 1 or {"type": "null"} not in branches or len(valued[0]["enum"]) >= MAX_ENUM:
        return None
    name: str = valued[0]["type"]
    types = ["null", name] if name in NUMERIC else [name, "null"]  # a numeric type in front refuses null
    return {"type": types, "enum": [*valued[0]["enum"], None]}


def alternatives(schema: Schema) -> list[Schema]:
    """What a schema is a union of: each with one type, or a reference."""
    if "anyOf" in schema:
        return [deeper for branch in branches_of(schema) for deeper in alternatives(branch)]
    types = types_of(schema)
    if len(types) < 2:
        return [schema]
    return [_valued(name, schema["enum"]) if "enum" in schema else {"type": name} for name in types]


def _valued(name: str, values: list[Any]) -> Schema:
    return (
        {"type": name}
        if name == "null"
        else {"type": name, "enum": [item for item in values if is_of_type(item, name)]}
    )


def outline(schema: Schema, root: Schema | None = None) -> Schema:
    """The types of a schema, and no more."""
    targets = [target(branch, root) for branch in alternatives(schema)]
    names = {name for found in targets for name in types_of(found) or ANY_TYPES}
    return of_types([name for name in TYPES if name in names and not (name == "integer" and "number" in names)])


def target(schema: Schema, root: Schema | None) -> Schema:
    """What a schema refers to, in one step; the schema itself when it does not."""
    found = resolve(root, schema["$ref"]) if root is not None and "$ref" in schema else None
    return schema if found is None else found


# ==== titles and descriptions ====


def annotated(schema: Schema, title: Any = None, description: Any = None) -> Schema:
    """The schema with a title and a description, so placed that Kimi takes them.

    A text that stands there already comes behind the new one. Beside `anyOf` the texts of the branches become a list
    under the common text: Kimi does not take both. Titles stay with the branches, which they tell apart.
    """
    result, branches = dict(schema), branches_of(schema)
    if isinstance(title, str):
        result["title"] = title
    if any("title" in branch for branch in branches):
        result.pop("title", None)
    if text := joined(description, schema.get("description")):
        told = [f"- {_label(branch)}: {branch['description']}" for branch in branches if branch.get("description")]
        result["description"] = "\n".join([text, *told])
        if branches:
            result["anyOf"] = [without(branch, {"description"}) for branch in branches]
    return result


def without(schema: Schema, keywords: Iterable[str]) -> Schema:
    """The schema without some of its keywords."""
    left_out = frozenset(keywords)
    return {word: value for word, value in schema.items() if word not in left_out}


def joined(*texts: Any) -> str:
    """The texts as one, each a sentence; what is no text, or said already, is left out."""
    result = ""
    for text in texts:
        if isinstance(text, str) and text and text not in result:
            result = f"{_ended(result)} {text}" if result else text
    return result


def _ended(text: str) -> str:
    return text if text.rstrip().endswith((".", "!", "?", ":", ";", ",", "。", "！", "？")) else f"{text}."


def _label(schema: Schema) -> str:
    """What to call one of several schemas."""
    if isinstance(ref := schema.get("$ref"), str):
        return ref.rpartition("/")[2]
    if isinstance(title := schema.get("title"), str):
        return title
    values = " or ".join(map(compact, schema.get("enum", ())))
    return values if 0 < len(values) <= 60 else " or ".join(types_of(outline(schema)))


def labels(schemas: Iterable[Schema]) -> str:
    """What to call schemas that follow one another."""
    return ", ".join(map(_label, schemas))


def quoted(value: Any) -> str | None:
    """A value as JSON for a sentence; `None` when it is too long for that, or no JSON."""
    if unfit_value(value) is not None:
        return None
    text = compact(value)
    return text if len(text) <= MAX_QUOTED else None


# ==== references ====


def settled(root: Schema) -> Schema:
    """The schema with references as Kimi takes them: no text twice, no circle of references alone, none unused."""
    for _, schema in list(whole(root)):
        if "$ref" in schema:
            _settle(root, schema)
    return _pruned(root)


def _settle(root: Schema, schema: Schema) -> None:
    words, met, current = schema.keys() & ANNOTATIONS, {id(schema)}, schema
    both: set[str] = set()
    while "$ref" in current:
        current = target(current, root)
        if id(current) in met:
            become(schema, without(schema, {"$ref"}) | anything())
            return
        met.add(id(current))
        both |= words & current.keys()
        words |= current.keys() & ANNOTATIONS
    own = without(schema, {"title"}) if "title" in both else dict(schema)
    if "description" in both and "description" in own:
        own = {**without(own, {"$ref"}), "anyOf": [{"$ref": own["$ref"]}]}
    become(schema, own)


def become(schema: Schema, other: Schema) -> None:
    """Turn a schema into another one, in its place."""
    other = dict(other)
    schema.clear()
    schema.update(other)


def _pruned(root: Schema) -> Schema:
    """The schema without definitions that nothing needs."""
    needed: set[str] = set()
    open_schemas = [root]
    while open_schemas:
        for _, schema in walk(open_schemas.pop()):
            ref = schema.get("$ref", "#")
            if ref != "#" and ref not in needed:
                needed.add(ref)
                open_schemas.append(target(schema, root))
    kept = {name: schema for name, schema in definitions(root) if DEFS + name in needed}
    return {**root, "$defs": kept} if kept else without(root, {"$defs"})


def let_end(root: Schema) -> None:
    """Change what keeps a schema from ever ending.

    An array of endless items may as well be empty: said in so many words, Kimi sees that it ends. If that is not
    enough, the reference that closes the circle becomes the mere type of what it refers to.
    """
    if can_end(root, root):
        return
    for _, schema in list(whole(root)):
        if _may_be_empty(schema) and not can_end(root, schema["items"]):
            become(schema, _or_empty(schema))
    while not can_end(root, root) and (schema := _circling(root)) is not None:
        become(schema, without(schema, {"$ref"}) | outline(schema, root))


def _or_empty(schema: Schema) -> Schema:
    """An array, said as a choice between the array and the empty array."""
    text = quoted(schema.get("default"))
    note = f"Default: {text}." if "default" in schema and text else None
    kept = {word: schema[word] for word in schema if word in ANNOTATIONS | ROOT_ONLY}
    array = without(schema, {*kept, "default"})
    return annotated({**kept, "anyOf": [array, {"type": "array", "maxItems": 0}]}, None, note)


def _circling(root: Schema) -> Schema | None:
    """The first schema that refers back to what led to it."""
    met, open_schemas = {"#"}, [root]
    while open_schemas:
        schema = open_schemas.pop()
        ref = schema.get("$ref")
        if ref is None:
            open_schemas += reversed(needed(schema))
        elif ref in met:
            return schema
        else:
            met.add(ref)
            open_schemas.append(target(schema, root))
    return None


def _may_be_empty(schema: Schema) -> bool:
    return types_of(schema) == ["array"] and bool(schema.get("items")) and not schema.get("minItems")


# ==== size ====


def shrunk(root: Schema) -> Schema:
    """A schema that Kimi finds too large, cut until it takes it: titles first, then texts, then the deepest parts."""
    for words in FORGETTABLE:
        if is_valid(smaller := _Cut(root, MAX_NESTING, MAX_BYTES, words).result()):
            return smaller
    for levels, names in CUTS:
        if is_valid(smaller := _Cut(root, levels, names, FORGETTABLE[-1]).result()):
            return smaller
    return {}


class _Cut:
    """One attempt at a smaller schema."""

    def __init__(self, root: Schema, levels: int, names: int, words: Sequence[str]) -> None:
        self._root, self._levels, self._names, self._words = root, levels, names, frozenset(words)

    def result(self) -> Schema:
        levels = _levels_of_definitions(self._root)
        kept = {
            name: self._copy(schema, self._levels - levels.get(DEFS + name, self._levels))
            for name, schema in definitions(self._root)
        }
        return _pruned({**self._copy(without(self._root, {"$defs"}), self._levels), "$defs": kept})

    def _copy(self, schema: Schema, left: int) -> Schema:
        if left <= 0:
            return outline(schema, self._root)
        copy = without(schema, self._words)
        for keyword in ("items", "additionalProperties"):
            if isinstance(copy.get(keyword), dict):
                copy[keyword] = self._copy(copy[keyword], left - 1)
        if "anyOf" in copy:
            copy["anyOf"] = [self._copy(branch, left - 1) for branch in branches_of(copy)]
        if "properties" in copy:
            copy["properties"] = {name: self._copy(inner, left - 1) for name, inner in self._first(copy["properties"])}
            self._open_up(copy, len(schema["properties"]))
        return copy

    def _first(self, properties: Schema) -> list[tuple[str, Schema]]:
        return list(properties.items())[: self._names]

    def _open_up(self, copy: Schema, before: int) -> None:
        """Properties that are no longer named are still allowed, and no longer required."""
        if len(copy["properties"]) < before:
            copy.pop("additionalProperties", None)
            if "required" in copy:
                copy["required"] = [name for name in copy["required"] if name in copy["properties"]]


def _levels_of_definitions(root: Schema) -> dict[str, int]:
    """At which level each reference is first met, from the root on."""
    levels: dict[str, int] = {"#": 0}
    now: list[Schema] = [root]
    level = 0
    while now:
        following: list[Schema] = []
        while now:
            schema = now.pop()
            ref = schema.get("$ref", "#")
            if ref not in levels:
                levels[ref] = level
                now.append(target(schema, root))
            following += [inner for _, inner, _ in subschemas(schema)]
        now, level = following, level + 1
    return levels
