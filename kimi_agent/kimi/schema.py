"""Any JSON Schema as one in Kimi's dialect.

The conversion may *widen*, never narrow: every value that the given schema takes, the result takes too. What the
dialect cannot say goes into the description, in plain words, where the model reads it. There is one deliberate
exception: a schema with the keywords of a type but without `type` (`{"properties": ...}`) is taken to mean that type.
Who writes it means it so, and Kimi has refused schemas without a type.

Each schema is read keyword by keyword into schemas of the dialect, which are then joined: `either` is their union,
`Conversion.both` their intersection. `mfjs.py` has the dialect and its check, `reshape.py` what is done within it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias, cast

from .mfjs import (
    ANNOTATIONS,
    DEFS,
    MAX_ENUM,
    NUMERIC,
    RANGES,
    RESERVED_NAMES,
    SCALARS,
    TYPES,
    Schema,
    as_list,
    as_mapping,
    compact,
    is_number,
    is_of_type,
    is_valid,
    is_whole,
    mfjs_errors,
    names_with_slash,
    plain,
    types_of,
    unfit_value,
    whole,
)
from .notes import noted
from .reshape import (
    alternatives,
    annotated,
    anything,
    either,
    is_anything,
    joined,
    labels,
    let_end,
    of_types,
    quoted,
    settled,
    shrunk,
    without,
)
from .targets import REFERENCES, Targets

__all__ = ["mfjs_errors", "to_mfjs"]

Notes: TypeAlias = list[str]
"""Sentences for the description of one schema."""

IMPLIED: Final[Mapping[str, tuple[str, ...]]] = {
    "object": (
        *("properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties"),
        *("maxProperties", "unevaluatedProperties", "dependentRequired", "dependentSchemas", "dependencies"),
    ),
    "array": (
        *("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains"),
        *("minItems", "maxItems", "uniqueItems"),
    ),
    "string": ("minLength", "maxLength", "pattern", "format", "contentEncoding", "contentMediaType"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""The type that is meant where one of its keywords stands without `type`."""

BRANCHINGS: Final = ("anyOf", "if", "dependentSchemas", "dependencies", "patternProperties")
"""Where these stand, nobody can tell from the schema alone which properties `unevaluatedProperties` leaves."""

OLD_DRAFTS: Final = ("draft-03", "draft-04", "draft-06", "draft-07")
"""In these, what stands beside `$ref` does not count."""

MAX_LEVELS: Final = 48
"""Schemas within schemas; what is deeper is widened."""
MAX_INLINED: Final = 2000
"""Schemas that are read once more because a reference cannot stand where it stands."""
MAX_MERGED: Final = 10_000
"""Intersections of one conversion; then the first of two schemas stands for both."""
MAX_PAIRS: Final = 64
"""Pairs of alternatives in one intersection."""


def to_mfjs(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema for Kimi that takes every value that `schema` takes, and says as much of it as Kimi's dialect can.

    A schema that Kimi takes already, with a type everywhere below its root, comes back equal and in the same order. The
    result always passes `mfjs_errors`; converting it again changes nothing; the same schema always gives the same
    bytes. Nothing is raised, whatever the mapping contains: keywords with nonsense in them are passed over.

    Args:
        schema: JSON Schema of any draft: from pydantic, an MCP server, or by hand. It is not changed. Its root may have
            any type. That the arguments of a function are an object is for the caller to see to.
    """
    root: Schema = plain(schema)
    if _is_done(root):
        return root
    result = Conversion(root).result()
    return result if is_valid(result) else shrunk(result)


def _is_done(root: Schema) -> bool:
    """Whether Kimi takes it, and a type stands everywhere but at a root that takes everything."""
    if not is_valid(root):
        return False
    free_root = root if not root.keys() - ANNOTATIONS - {"$id", "$defs"} else None
    return all(schema.keys() & {"type", "anyOf", "$ref"} or schema is free_root for _, schema in whole(root))


# ==== reading what may be nonsense ====


def _names(value: Any) -> list[str]:
    return list(dict.fromkeys(name for name in as_list(value) if isinstance(name, str)))


def _counts(node: Schema, *keywords: str) -> dict[str, int]:
    return {word: int(node[word]) for word in keywords if is_whole(node.get(word)) and node[word] >= 0}


# ==== scalars ====


def _string(node: Schema) -> Schema | None:
    pattern = {"pattern": node["pattern"]} if isinstance(node.get("pattern"), str) else {}
    return _in_range({"type": "string", **_counts(node, "minLength", "maxLength"), **pattern})


def _number(node: Schema, name: str, notes: Notes) -> Schema | None:
    bounds = {word: node[word] for word in ("minimum", "maximum") if is_number(node.get(word))}
    for word, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        limit = bounds.get(word) if node.get(exclusive) is True else node.get(exclusive)
        if is_number(limit):
            limit = _beyond(word, limit, name, notes)
            bounds[word] = _stricter(word, bounds.get(word, limit), limit)
    return _in_range(_with_whole_bounds({"type": name, **bounds}))


def _beyond(keyword: str, limit: Any, name: str, notes: Notes) -> Any:
    """An exclusive limit as an inclusive one: the next whole number, or the same and a note."""
    if name == "integer":
        return math.floor(limit) + 1 if keyword == "minimum" else math.ceil(limit) - 1
    notes.append(f"{'More' if keyword == 'minimum' else 'Less'} than {quoted(limit)}.")
    return limit


def _with_whole_bounds(schema: Schema) -> Schema:
    rounding = {"minimum": math.ceil, "maximum": math.floor} if schema["type"] == "integer" else {}
    rounded = {word: to_whole(schema[word]) for word, to_whole in rounding.items() if not is_whole(schema.get(word, 0))}
    return {**schema, **rounded}


def _stricter(keyword: str, one: Any, other: Any) -> Any:
    return max(one, other) if keyword.startswith("min") else min(one, other)


def _in_range(schema: Schema) -> Schema | None:
    """The schema; `None` when a lower limit is above the upper one, and so nothing fits."""
    empty = any(low in schema and high in schema and schema[low] > schema[high] for low, high in RANGES)
    return None if empty else schema


# ==== values ====


def _values_of(node: Schema) -> list[Any] | None:
    """The values that `enum` and `const` leave; `None` when they say nothing."""
    listed = list({_identity(item): item for item in reversed(as_list(node.get("enum")))}.values())[::-1]
    if "const" not in node:
        return listed or None
    fits = not listed or any(_identity(node["const"]) == _identity(item) for item in listed)
    return [node["const"]] if fits else []


def _identity(value: Any) -> Any:
    """What tells scalars apart as JSON does: 1 is 1.0, and not true. All objects, and all arrays, count as one."""
    return (isinstance(value, bool), value) if isinstance(value, int | float | str) else (None, type(value))


def _types_of_values(values: list[Any]) -> list[str]:
    numeric = "number" if any(isinstance(item, float) for item in values) else "integer"
    names = [name for name in TYPES if name not in NUMERIC or name == numeric]
    return [name for name in names if any(_is_of(item, name) for item in values)]


def _is_of(value: Any, name: str) -> bool:
    """`is_of_type`; numbers that no double can hold count, too."""
    is_beyond = isinstance(value, int | float) and not isinstance(value, bool) and not is_number(value)
    return name in NUMERIC if is_beyond else is_of_type(value, name)


def _with_values(schema: Schema, values: list[Any], notes: Notes) -> Schema | None:
    """The schema of one type with these values alone, as far as the dialect can say that."""
    name = schema["type"]
    fitting = [item for item in values if _is_of(item, name)]
    if not fitting:
        return None
    if name == "null" or (name == "boolean" and len(fitting) == 2):
        return schema
    if name in SCALARS and len(fitting) <= MAX_ENUM and all(is_of_type(item, name) for item in fitting):
        return {**schema, "enum": fitting}
    if text := quoted(values if name not in SCALARS else fitting):
        notes.append(f"One of {text}.")
    elif text := quoted(fitting[0]):
        notes.append(f"One of {len(fitting)} values, such as {text}.")
    return schema


# ==== the conversion ====

UNSAID: Final[Schema] = {}
"""Stands for a schema that says nothing; known by identity."""

NOTHING_FITS: Final = "No value fits here."


class Conversion:
    """One schema on its way into the dialect."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._targets = Targets(root)
        self._behind: dict[str, Schema] = {"#": root}
        """What the references of the result stand for, as it was given."""
        self._waiting: list[str] = []
        self._inlining: set[int] = set()
        self._meeting: set[str] = set()
        self._inlined = self._merged = 0
        self._given_up = 0
        """How often something was left out because it was too much."""
        self._in_definition = False
        draft = root.get("$schema")
        self._refs_stand_alone = isinstance(draft, str) and any(old in draft for old in OLD_DRAFTS)

    def result(self) -> Schema:
        """The schema in the dialect. It may still be too large."""
        converted = _or_types(self.convert(self._root, 0), self._root)
        if is_anything(converted):
            converted = without(converted, {"type"})
        self._in_definition = True
        definitions: dict[str, Schema] = {}
        for ref in self._waiting:  # grows as definitions refer to others
            definitions[ref.removeprefix(DEFS)] = _or_types(self.convert(self._behind[ref], 1), self._behind[ref])
        identity = {"$id": self._root["$id"]} if isinstance(self._root.get("$id"), str) else {}
        ordered = {name: definitions[name] for name in self._targets.names() if name in definitions}
        return self._finished(plain({**converted, **identity, "$defs": ordered}))

    def _finished(self, root: Schema) -> Schema:
        let_end(root)
        return _in_order(settled(root), self._root)

    # ---- one schema ----

    def convert(self, node: Any, level: int, types: list[str] | None = None) -> Schema | None:
        """A schema in the dialect; `None` when it takes nothing.

        Args:
            node: a schema, or whatever stands in the place of one.
            level: how many schemas it is inside of.
            types: the types of the schema that it is a part of, when it says none itself.
        """
        if node is False:
            return None
        if not isinstance(node, dict):
            return anything()
        if level > MAX_LEVELS or self._is_exhausted():
            self._given_up += 1
            return anything()
        notes: Notes = []
        result = self._meaning(cast(Schema, node), level, types, notes)
        return None if result is None else self._annotated(result, cast(Schema, node), notes)

    def _is_exhausted(self) -> bool:
        self._inlined += bool(self._inlining)
        return bool(self._inlining) and self._inlined > MAX_INLINED

    def _annotated(self, result: Schema, node: Schema, notes: Notes) -> Schema:
        notes += noted(node)
        if "default" in node:
            result = self._with_default(result, node["default"], notes)
        return _in_order(annotated(result, node.get("title"), joined(node.get("description"), *notes)), node)

    def _with_default(self, schema: Schema, value: Any, notes: Notes) -> Schema:
        may_stand = len(types_of(schema)) == 1 or "enum" in schema
        fits = unfit_value(value) is None and not (self._in_definition and any(names_with_slash(value)))
        if may_stand and fits:
            return {**schema, "default": value}
        if text := quoted(value):
            notes.append(f"Default: {text}.")
        return schema

    def _meaning(self, node: Schema, level: int, types: list[str] | None, notes: Notes) -> Schema | None:
        types = types_of(node) or types or self._types_of_members(node)
        result, given_up = UNSAID, self._given_up
        for part in self._parts(node, level, types, notes):
            result = part if result is UNSAID else self.both(result, part, level)
        if result is UNSAID:
            result = of_types(types) if types else anything()
        if result is not None and node.get("unevaluatedProperties") is False and given_up == self._given_up:
            result = self._closed(result, level) if self._names_all(node) else result
        return either([result, {"type": "null"}]) if node.get("nullable") is True else result

    def _types_of_members(self, node: Schema) -> list[str]:
        members = [types_of(as_mapping(member)) for member in as_list(node.get("allOf"))]
        return next((types for types in members if types), list[str]())

    def _parts(self, node: Schema, level: int, types: list[str], notes: Notes) -> Iterator[Schema | None]:
        """What holds at the same time: the schema's own keywords, and the schemas that it is made of."""
        references = [ref for ref in map(node.get, REFERENCES) if isinstance(ref, str)]
        if not (references and self._refs_stand_alone):
            if "not" in node and (node["not"] is True or node["not"] == {}):
                yield None
            values = _values_of(node)
            implied = types_of(node) or _implied(node, values)
            if implied:
                yield self._own(node, level, types or implied, values, notes)
        for ref in references:
            yield self._reference(node, ref, level, notes)
        if references and self._refs_stand_alone:
            return
        for member in as_list(node.get("allOf")):
            yield self.convert(member, level + 1, types)
        for keyword in ("anyOf", "oneOf"):
            if branches := as_list(node.get(keyword)):
                yield either(self.convert(branch, level + 1, types) for branch in branches)

    def _own(self, node: Schema, level: int, types: list[str], values: list[Any] | None, notes: Notes) -> Schema | None:
        names = [name for name in dict.fromkeys(types) if name != "integer" or "number" not in types]
        read = [self._of_type(name, node, level, notes) for name in names]
        if values is not None:
            read = [None if schema is None else _with_values(schema, values, notes) for schema in read]
        return either(read, as_types=True)

    def _of_type(self, name: str, node: Schema, level: int, notes: Notes) -> Schema | None:
        if name in NUMERIC:
            return _number(node, name, notes)
        if name == "object":
            return self._object(node, level, notes)
        if name == "array":
            return self._array(node, level, notes)
        return _string(node) if name == "string" else {"type": name}

    # ---- objects ----

    def _object(self, node: Schema, level: int, notes: Notes) -> Schema | None:
        others = self.convert(node.get("additionalProperties", True), level + 1)
        properties: dict[str, Schema] = {}
        impossible: set[str] = set()
        undeclared: list[Schema | None] = []
        for name, inner in as_mapping(node.get("properties")).items():
            converted = self.convert(inner, level + 1)
            if not self._may_declare(name):
                undeclared.append(converted)
                notes.append(f"It may have a property {compact(name)}.")
            elif converted is None:
                impossible.add(name)
                notes.append(f"It has no property {name}.")
            else:
                properties[name] = converted
        patterns = as_mapping(node.get("patternProperties")).values()
        others = either([others, *undeclared, *(self.convert(inner, level + 1) for inner in patterns)])
        required = [name for name in _names(node.get("required")) if self._may_declare(name)]
        for name in required:
            if name in impossible or (name not in properties and others is None):
                return None
            properties.setdefault(name, others or anything())
        return _object_of(node, properties, required, others)

    def _may_declare(self, name: str) -> bool:
        is_name = isinstance(name, str) and name != "" and name not in RESERVED_NAMES
        return is_name and not (self._in_definition and "/" in name)

    def _names_all(self, node: Schema) -> bool:
        """Whether the properties that a schema evaluates are just those that its conversion names."""
        met: set[int] = set()
        open_schemas: list[Any] = [node]
        choices = 0
        while open_schemas:
            part: Any = open_schemas.pop()
            if id(part) in met or isinstance(part, bool):
                continue
            if not isinstance(part, dict):
                return False
            met.add(id(cast(Schema, part)))
            part = cast(Schema, part)
            free = any(part.get(word, False) is not False for word in ("additionalProperties", "unevaluatedProperties"))
            named = all(self._may_declare(name) for name in as_mapping(part.get("properties")))
            choices += len(as_list(part.get("oneOf")))
            if free or not named or not part.keys().isdisjoint(BRANCHINGS) or choices > MAX_PAIRS:
                return False
            open_schemas += [*as_list(part.get("allOf")), *as_list(part.get("oneOf"))]
            open_schemas += [self._targets.find(part, ref) for ref in map(part.get, REFERENCES) if isinstance(ref, str)]
        return True

    def _closed(self, schema: Schema, level: int) -> Schema | None:
        """The schema without further properties; itself, when that would mean to inline too much."""
        parts = [self._opened(part, level) for part in alternatives(schema)]
        if any(part is not None and "$ref" in part for part in parts):
            return schema
        closed = either((part and _without_others(part) for part in parts), as_types=True)
        if closed is None or len(parts) == 1:
            return closed
        return annotated(closed, schema.get("title"), schema.get("description"))

    def _opened(self, schema: Schema, level: int) -> Schema | None:
        """What a schema refers to, inlined; itself, when it does not refer, or that would be too much."""
        if "$ref" not in schema:
            return schema
        inlined = self._inline(self._behind[schema["$ref"]], level)
        if inlined is UNSAID:
            return schema
        return inlined and annotated(inlined, schema.get("title"), schema.get("description"))

    # ---- arrays ----

    def _array(self, node: Schema, level: int, notes: Notes) -> Schema | None:
        first, rest = _positions(node)
        places = [self.convert(inner, level + 1) for inner in first]
        others = self.convert(rest, level + 1)
        ends = [index for index, place in enumerate([*places, others]) if place is None]
        limits = _counts(node, "minItems", "maxItems")
        if ends:
            limits["maxItems"] = min(ends[0], limits.get("maxItems", ends[0]))
        longest = limits.get("maxItems", len(places) + 1)
        kept = [place for place in places[:longest] if place is not None]
        if len(set(map(compact, kept))) > 1:
            notes.append(f"The items in their order: {labels(kept)}.")
        items = either([*kept, others if longest > len(places) else None])
        says_items = items is not None and items != anything()
        return _in_range({"type": "array", **({"items": items} if says_items else {}), **limits})

    # ---- references ----

    def _reference(self, node: Schema, ref: str, level: int, notes: Notes) -> Schema | None:
        found = self._targets.find(node, ref)
        if not isinstance(found, dict):
            if found is None:
                notes.append(f"As described in {ref}.")
            return None if found is False else anything()
        target = cast(Schema, found)
        if target is self._root:
            return {"$ref": "#"}
        if not self._in_definition and self._targets.reaches_slash(target):
            inlined = self._inline(target, level)
            if inlined is not UNSAID:
                return inlined
        return self._referring(target, ref)

    def _referring(self, target: Schema, ref: str) -> Schema:
        address = DEFS + self._targets.name(target, ref)
        if address not in self._behind:
            self._behind[address] = target
            self._waiting.append(address)
        return {"$ref": address}

    def _inline(self, target: Schema, level: int) -> Schema | None:
        """A target converted anew; `UNSAID` when it is inside itself, or too much was inlined already."""
        if id(target) in self._inlining or level > MAX_LEVELS or self._inlined > MAX_INLINED:
            return UNSAID
        self._inlining.add(id(target))
        try:
            return self.convert(target, level + 1)
        finally:
            self._inlining.discard(id(target))

    # ---- intersections ----

    def both(self, one: Schema | None, other: Schema | None, level: int) -> Schema | None:
        """The intersection of two schemas of the dialect, or, where that is too much, the first of them."""
        if one is None or other is None:
            return None
        if is_anything(one) or is_anything(other):
            kept, free = (other, one) if is_anything(one) else (one, other)
            return annotated(kept, kept.get("title", free.get("title")), free.get("description"))
        self._merged += 1
        left, right = alternatives(one), alternatives(other)
        if self._merged > MAX_MERGED or level > MAX_LEVELS or len(left) * len(right) > MAX_PAIRS:
            self._given_up += 1
            return one
        result = either((self._pair(x, y, level) for x in left for y in right), as_types=True)
        for whole_schema, parts in ((other, right), (one, left)):
            if result is not None and len(parts) > 1:
                result = annotated(result, whole_schema.get("title"), whole_schema.get("description"))
        return result

    def _pair(self, one: Schema, other: Schema, level: int) -> Schema | None:
        if one == other:
            return one
        if "$ref" in one or "$ref" in other:
            return self._with_reference(one, other, level)
        types: set[str] = {one["type"], other["type"]}
        name = one["type"] if len(types) == 1 else "integer" if types <= NUMERIC else None
        merged = None if name is None else self._merge(name, one, other, level)
        text = joined(one.get("description"), other.get("description"))
        return merged and annotated(merged, one.get("title", other.get("title")), text)

    def _with_reference(self, one: Schema, other: Schema, level: int) -> Schema | None:
        referring, rest = (one, other) if "$ref" in one else (other, one)
        ref = referring["$ref"]
        if rest.keys() == {"type"} and types_of(self._behind[ref]) == types_of(rest):
            return referring
        inlined = referring if ref in self._meeting else self._opened(referring, level)
        if inlined is referring:
            self._given_up += 1
            return referring
        self._meeting.add(ref)
        try:
            pair = (inlined, rest) if referring is one else (rest, inlined)
            return self.both(*pair, level + 1)
        finally:
            self._meeting.discard(ref)

    def _merge(self, name: str, one: Schema, other: Schema, level: int) -> Schema | None:
        """The intersection of two schemas of one type, but for their texts."""
        merged: Schema = {"type": name, **_first_of("default", one, other)}
        if name == "object":
            return self._merged_objects(merged, one, other, level)
        merged |= _common_limits(one, other)
        if name == "array":
            return self._merged_items(merged, one, other, level)
        merged |= _first_of("pattern", one, other)
        common = _common_values(name, one, other)
        if common is not None:
            merged["enum"] = common
        return None if common == [] else _in_range(_with_whole_bounds(merged))

    def _merged_items(self, merged: Schema, one: Schema, other: Schema, level: int) -> Schema | None:
        items = self.both(one.get("items", anything()), other.get("items", anything()), level + 1)
        if items is None:
            merged["maxItems"] = 0
        elif items != anything():
            merged["items"] = items
        return _in_range(merged)

    def _merged_objects(self, merged: Schema, one: Schema, other: Schema, level: int) -> Schema | None:
        others = self.both(_others(one), _others(other), level + 1)
        names = dict.fromkeys([*one.get("properties", ()), *other.get("properties", ())])
        required = dict.fromkeys([*one.get("required", ()), *other.get("required", ())])
        properties: dict[str, Schema] = {}
        for name in names:
            met = self.both(_property(one, name), _property(other, name), level + 1)
            if met is not None:
                properties[name] = met
            elif name in required:
                return None
        return merged | _object_of({**one, **other}, properties, list(required), others)


# ==== parts of objects, arrays and intersections ====


def _in_order(schema: Schema, like: Schema) -> Schema:
    """The schema with its keywords in the order of another; a type that the other does not say comes first."""
    return {**{word: schema[word] for word in (*({"type"} - like.keys()), *like) if word in schema}, **schema}


def _or_types(schema: Schema | None, given: Schema) -> Schema:
    """The schema; where it takes nothing, which the dialect cannot say, the types that it was given."""
    types = types_of(given)
    return annotated(of_types(types) if types else anything(), None, NOTHING_FITS) if schema is None else schema


def _implied(node: Schema, values: list[Any] | None) -> list[str]:
    """The types that a schema without `type` means."""
    if values is not None:
        return _types_of_values(values) or ["null"]
    return [name for name, words in IMPLIED.items() if any(word in node and node[word] is not True for word in words)]


def _object_of(node: Schema, properties: Schema, required: list[str], others: Schema | None) -> Schema:
    """An object; what its other properties may be is left out where it says nothing and nobody asked."""
    result: Schema = {"type": "object"}
    if properties or "properties" in node:
        result["properties"] = properties
    if required:
        result["required"] = required
    if others is None:
        result["additionalProperties"] = False
    elif others != anything():
        result["additionalProperties"] = others
    elif "additionalProperties" in node:
        result["additionalProperties"] = True
    return result


def _others(schema: Schema) -> Schema | None:
    """What the properties that an object does not name may be."""
    others = schema.get("additionalProperties", True)
    return None if others is False else anything() if others is True else others


def _property(schema: Schema, name: str) -> Schema | None:
    return schema["properties"][name] if name in schema.get("properties", ()) else _others(schema)


def _without_others(schema: Schema) -> Schema:
    return {**schema, "additionalProperties": False} if schema["type"] == "object" else schema


def _positions(node: Schema) -> tuple[list[Any], Any]:
    """The schemas of the first items of an array, and that of the others."""
    items = node.get("items", True)
    rest = node.get("unevaluatedItems", True) if "items" not in node and _alone(node) else items
    if isinstance(node.get("prefixItems"), list):
        return as_list(node["prefixItems"]), rest
    if isinstance(items, list):
        return cast(list[Any], items), node.get("additionalItems", True)
    return [], rest


def _alone(node: Schema) -> bool:
    """Whether nothing but its own keywords says what the items of an array are."""
    return not node.keys() & {*REFERENCES, "allOf", "anyOf", "oneOf", "if", "contains"}


def _first_of(keyword: str, *schemas: Schema) -> Schema:
    return next(({keyword: schema[keyword]} for schema in schemas if keyword in schema), Schema())


def _common_limits(one: Schema, other: Schema) -> Schema:
    words = [word for pair in RANGES for word in pair if word in one or word in other]
    return {word: _stricter(word, one.get(word, other.get(word)), other.get(word, one.get(word))) for word in words}


def _common_values(name: str, one: Schema, other: Schema) -> list[Any] | None:
    """The values that two schemas have in common; `None` when none of them says any."""
    values = [schema["enum"] for schema in (one, other) if "enum" in schema]
    if not values:
        return None
    known = set(map(_identity, values[-1]))
    return [item for item in values[0] if _identity(item) in known and is_of_type(item, name)]
