"""Kimi's dialect of JSON Schema ("Moonshot flavored", MFJS): its tables, its limits, and the check against both.

The rules are those of walle, Moonshot's own validator, at its strictest level. Where the strictest reading of the rules
and walle differ, the stricter one stands here: a schema without errors is one that every host of Kimi takes.
https://github.com/MoonshotAI/walle
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias, cast

__all__ = ["mfjs_errors"]

Schema: TypeAlias = dict[str, Any]
Path: TypeAlias = tuple[str, ...]

ANNOTATIONS: Final = frozenset({"title", "description"})
ROOT_ONLY: Final = frozenset({"$defs", "$id"})
ATOMS: Final = frozenset({str, int, float, bool, type(None)})
FIT: Final = frozenset({str, bool, type(None)})
"""Of the atoms of JSON, those that can always be sent."""

TYPES: Final = ("string", "number", "integer", "boolean", "object", "array", "null")
NUMERIC: Final = frozenset({"number", "integer"})
SCALARS: Final = frozenset({"string", "number", "integer", "boolean"})

OWN_KEYWORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "object": ("properties", "required", "additionalProperties", "default"),
    "array": ("items", "minItems", "maxItems", "default"),
    "string": ("minLength", "maxLength", "pattern", "enum", "default"),
    "number": ("minimum", "maximum", "enum", "default"),
    "integer": ("minimum", "maximum", "enum", "default"),
    "boolean": ("enum", "default"),
    "null": ("enum", "default"),
}
"""What may stand beside a type, besides title and description."""

KEYWORDS: Final = (
    frozenset({"type", "anyOf", "$ref"})
    | ANNOTATIONS
    | ROOT_ONLY
    | {word for own in OWN_KEYWORDS.values() for word in own}
)

RESERVED_NAMES: Final = frozenset({"$defs", "$ref", "anyOf", "required", "additionalProperties"})
"""Names that no property may have."""

RANGES: Final = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minimum", "maximum"))
COUNTS: Final = frozenset({"minLength", "maxLength", "minItems", "maxItems"})

MAX_DEPTH: Final = 30
"""Levels of `properties`, with those behind a `$ref`."""
MAX_BYTES: Final = 120_000
MAX_PROPERTIES: Final = 3000
MAX_ENUM: Final = 1000
MAX_ANY_OF: Final = 500
MAX_NESTING: Final = 200
"""JSON values within JSON values. Not Kimi's: encoders of JSON give up soon after."""
MAX_UNROLLED: Final = 5000
"""Steps along references that refer back, after which the deepest path found counts."""

DEFS: Final = "#/$defs/"


def mfjs_errors(schema: Any) -> list[str]:
    """What Kimi would refuse in a schema; an empty list when it takes it.

    Args:
        schema: any JSON value. Tuples and other mappings count as lists and objects.

    Returns:
        One sentence for each mistake, which begins with the place: "At path 'properties.pair.items': items must be an
        object".
    """
    return list(_errors(plain(schema)))


def is_valid(schema: Schema) -> bool:
    """Whether Kimi takes a schema of plain dicts and lists."""
    return next(_errors(schema), None) is None


def _errors(schema: Any) -> Iterator[str]:
    if not isinstance(schema, dict):
        yield _at((), "a schema must be an object")
    elif unfit := unfit_value(schema):
        yield unfit
    else:
        root = cast(Schema, schema)
        parts = list(whole(root))
        yield from _errors_of_form(parts)
        yield from _errors_of_size(root, parts)
        yield from _errors_of_references(root, parts)


def _at(path: Path, message: str) -> str:
    return f"At path '{'.'.join(path)}': {message}" if path else f"At the root: {message}"


# ==== JSON ====


def plain(value: Any) -> Any:
    """A copy made of dicts and lists alone, at any depth."""
    top: list[Any] = [value]
    open_values: list[tuple[Any, Any]] = [(top, 0)]
    while open_values:
        holder, key = open_values.pop()
        item = holder[key]
        if isinstance(item, Mapping):
            holder[key] = copy = dict(cast(Mapping[Any, Any], item))
            open_values += [(copy, name) for name, inner in copy.items() if type(inner) not in ATOMS]
        elif isinstance(item, list | tuple):
            holder[key] = copy = list(cast(list[Any], item))
            open_values += [(copy, index) for index, inner in enumerate(copy) if type(inner) not in ATOMS]
    return top[0]


def unfit_value(value: Any) -> str | None:
    """Why a value cannot be sent as JSON; `None` when it can."""
    open_values: list[tuple[Any, tuple[Any, ...]]] = [(value, ())]
    while open_values:
        item, place = open_values.pop()
        if place and place[0] > MAX_NESTING:
            return _at(_path(place)[:3], f"nested too deep, more than {MAX_NESTING} values within values")
        if isinstance(item, dict):
            names = cast(dict[Any, Any], item)
            if not all(isinstance(name, str) for name in names):
                return _at(_path(place), "names must be strings")
            open_values += [(inner, _inside(place, name)) for name, inner in names.items() if type(inner) not in FIT]
        elif isinstance(item, list):
            items = enumerate(cast(list[Any], item))
            open_values += [(inner, _inside(place, index)) for index, inner in items if type(inner) not in FIT]
        elif type(item) not in FIT and not is_number(item):
            return _at(_path(place), "not a value of JSON, or a number that is too large")
    return None


def _inside(place: tuple[Any, ...], name: Any) -> tuple[Any, ...]:
    """A place one value deeper: how deep it is, its name, and the place that it is in."""
    return (place[0] + 1 if place else 1), name, place


def _path(place: tuple[Any, ...]) -> Path:
    names: list[str] = []
    while place:
        _, name, place = place
        names.append(str(name))
    return tuple(reversed(names))


def is_number(value: Any) -> bool:
    """Whether it is a number that a double can hold. `True` is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_whole(value: Any) -> bool:
    """Whether it is a number without a fraction; 1.0 is."""
    return is_number(value) and value == math.floor(value)


def as_list(value: Any) -> list[Any]:
    """The value, when it is a list; nothing otherwise."""
    return cast(list[Any], value) if isinstance(value, list) else []


def as_mapping(value: Any) -> dict[str, Any]:
    """The value, when it is an object; nothing otherwise."""
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def compact(value: Any) -> str:
    """Compact JSON, readable: not escaped to ASCII."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# ==== walking ====

CONTAINERS: Final = ("properties", "items", "additionalProperties", "anyOf")


def subschemas(schema: Schema) -> list[tuple[Path, Schema, int]]:
    """The schemas directly inside one: their path from there, they themselves, and how much deeper they are.

    `$defs` is left out; what does not look like a schema is passed over.
    """
    if schema.keys().isdisjoint(CONTAINERS):
        return []
    inner: list[tuple[Path, Schema, int]] = []
    inner += [(("properties", name), item, 1) for name, item in _objects_in(schema.get("properties"))]
    for keyword in ("items", "additionalProperties"):
        if isinstance(item := schema.get(keyword), dict):
            inner.append(((keyword,), cast(Schema, item), 0))
    inner += [((f"anyOf{{{index}}}",), item, 0) for index, item in enumerate(branches_of(schema))]
    return inner


def branches_of(schema: Schema) -> list[Schema]:
    """What of its `anyOf` looks like a schema."""
    return [branch for branch in as_list(schema.get("anyOf")) if isinstance(branch, dict)]


def _objects_in(value: Any) -> list[tuple[str, Schema]]:
    return [(name, inner) for name, inner in as_mapping(value).items() if isinstance(inner, dict)]


def walk(schema: Schema, path: Path = ()) -> Iterator[tuple[Path, Schema]]:
    """The schema and all inside it, without `$defs`, in the order of the text."""
    open_schemas = [(path, schema)]
    while open_schemas:
        path, current = open_schemas.pop()
        yield path, current
        if inner := subschemas(current):
            open_schemas += [((*path, *step), below) for step, below, _ in reversed(inner)]


def definitions(root: Schema) -> list[tuple[str, Schema]]:
    """The names and schemas in `$defs`."""
    return _objects_in(root.get("$defs"))


def whole(root: Schema) -> Iterator[tuple[Path, Schema]]:
    """The root and all inside it, definitions too."""
    yield from walk(root)
    for name, schema in definitions(root):
        yield from walk(schema, ("$defs", name))


def resolve(root: Schema, ref: Any) -> Schema | None:
    """What a reference of the dialect means. Names stand in it as they are, without escapes."""
    if ref == "#":
        return root
    if not isinstance(ref, str) or not ref.startswith(DEFS):
        return None
    target: Any = root
    for name in ref[2:].split("/"):
        target = cast(Schema, target).get(name) if isinstance(target, dict) else None
    return cast(Schema, target) if isinstance(target, dict) else None


def types_of(schema: Schema) -> list[str]:
    """Its types as a list; empty when it says none, or nonsense."""
    stated = schema.get("type")
    if isinstance(stated, str):
        return [stated] if stated in TYPES else []
    return [name for name in as_list(stated) if isinstance(name, str) and name in TYPES]


# ==== the form of each schema ====


def _errors_of_form(parts: list[tuple[Path, Schema]]) -> Iterator[str]:
    for path, schema in parts:
        yield from (_at(path, message) for message in _errors_between_keywords(schema, at_root=not path))
        for keyword, value in schema.items():
            if check := CHECKS.get(keyword):
                yield from (_at((*path, keyword), message) for message in check(value, schema))


def _errors_between_keywords(schema: Schema, *, at_root: bool) -> Iterator[str]:
    words = schema.keys() - ROOT_ONLY if at_root else schema.keys()
    if unknown := sorted(words - KEYWORDS):
        yield f"unsupported keywords: {', '.join(unknown)}"
    if misplaced := sorted(words & ROOT_ONLY):
        yield f"{', '.join(misplaced)} must be at the root"
    for leader, allowed in _leaders(schema):
        if beside := sorted((words & KEYWORDS) - ROOT_ONLY - ANNOTATIONS - {leader} - allowed):
            yield f"not allowed beside {leader}: {', '.join(beside)}"
    in_branches = {word for branch in branches_of(schema) for word in branch.keys() & ANNOTATIONS}
    if both := sorted(in_branches & words):
        yield f"both beside anyOf and in a branch of it: {', '.join(both)}"


def _leaders(schema: Schema) -> Iterator[tuple[str, frozenset[str]]]:
    """The keywords that limit what may stand beside them, and what may."""
    yield from ((word, frozenset[str]()) for word in ("anyOf", "$ref") if word in schema)
    types = types_of(schema)
    if types and (len(types) == 1 or "enum" in schema):
        yield "type", frozenset(OWN_KEYWORDS[types[0]])
    elif types:
        yield "type", frozenset()


def _type_errors(value: Any, _: Schema) -> Iterator[str]:
    types = cast(list[Any], value) if isinstance(value, list) else [value]
    if not types:
        yield "the list of types must not be empty"
    if strange := [name for name in types if not (isinstance(name, str) and name in TYPES)]:
        yield f"invalid type: {compact(strange[0])}"
    elif len(set(types)) < len(types):
        yield "a type stands there twice"


def _properties_errors(value: Any, _: Schema) -> Iterator[str]:
    if not isinstance(value, dict):
        yield "properties must be an object"
        return
    for name, schema in cast(Schema, value).items():
        if not name:
            yield "the name of a property must not be empty"
        if name in RESERVED_NAMES:
            yield f"the name {name} is reserved"
        if not isinstance(schema, dict):
            yield f"the schema of {name!r} must be an object"


def _required_errors(value: Any, schema: Schema) -> Iterator[str]:
    if not isinstance(value, list):
        yield "required must be an array"
        return
    names = [name for name in cast(list[Any], value) if isinstance(name, str)]
    if len(names) < len(cast(list[Any], value)):
        yield "required must name properties as strings"
    if len(set(names)) < len(names):
        yield "a name stands there twice"
    if names and types_of(schema) != ["object"]:
        yield "required needs the type object"
    known = dict(_objects_in(schema.get("properties")))
    yield from (f"required property {name!r} is not defined in properties" for name in names if name not in known)


def _enum_errors(value: Any, schema: Schema) -> Iterator[str]:
    if not isinstance(value, list) or not value:
        yield "enum must be an array with at least one value"
        return
    values = cast(list[Any], value)
    if len(values) > MAX_ENUM:
        yield f"enum must not have more than {MAX_ENUM} values"
    types = types_of(schema)
    if not types:
        yield "enum needs a type beside it"
    elif len(types) > 1 and not (len(types) == 2 and "null" in types and SCALARS & set(types)):
        yield "with enum a list of types can only be null and one of string, number, integer, boolean"
    else:
        yield from (f"{compact(item)} is not of the type" for item in values if not _fits(item, types))


def _fits(value: Any, types: list[str]) -> bool:
    """Whether a value of `enum` has one of the types. A numeric type refuses everything else, whatever comes after."""
    for name in types:
        if is_of_type(value, name):
            return True
        if name in NUMERIC:
            return False
    return False


def is_of_type(value: Any, name: str) -> bool:
    """Whether a JSON value has a type."""
    if name in NUMERIC:
        return is_number(value) and (name == "number" or is_whole(value))
    return value is None if name == "null" else isinstance(value, PYTHON_TYPES[name])


PYTHON_TYPES: Final = {"string": str, "boolean": bool, "object": dict, "array": list}


def _any_of_errors(value: Any, _: Schema) -> Iterator[str]:
    if not isinstance(value, list) or not 1 <= len(cast(list[Any], value)) <= MAX_ANY_OF:
        yield f"anyOf must be an array of 1 to {MAX_ANY_OF} schemas"
    elif not all(isinstance(branch, dict) for branch in cast(list[Any], value)):
        yield "each schema in anyOf must be an object"


def _defs_errors(value: Any, _: Schema) -> Iterator[str]:
    if not isinstance(value, dict):
        yield "$defs must be an object"
        return
    for name, schema in cast(Schema, value).items():
        if not name:
            yield "the name of a definition must not be empty"
        if not isinstance(schema, dict):
            yield f"the definition {name!r} must be an object"
    yield from (f"no name inside $defs may contain '/': {name!r}" for name in names_with_slash(value))


def names_with_slash(value: Any) -> Iterator[str]:
    """The names with a slash, anywhere inside a value."""
    open_values = [value]
    while open_values:
        item = open_values.pop()
        if isinstance(item, dict):
            yield from (name for name in cast(Schema, item) if isinstance(name, str) and "/" in name)
            open_values += cast(Schema, item).values()
        elif isinstance(item, list):
            open_values += cast(list[Any], item)


def _kind_errors(keyword: str, kind: type | tuple[type, ...], wanted: str) -> Callable[[Any, Schema], Iterator[str]]:
    def check(value: Any, _: Schema) -> Iterator[str]:
        if not isinstance(value, kind):
            yield f"{keyword} must be {wanted}"

    return check


def _bound_errors(keyword: str, partner: str) -> Callable[[Any, Schema], Iterator[str]]:
    def check(value: Any, schema: Schema) -> Iterator[str]:
        needs_whole = keyword in COUNTS or "integer" in types_of(schema)
        if not is_number(value) or (needs_whole and not is_whole(value)):
            yield f"{keyword} must be {'a whole number' if needs_whole else 'a number'}"
        elif keyword in COUNTS and value < 0:
            yield f"{keyword} must be non-negative"
        elif keyword.startswith("min") and is_number(schema.get(partner)) and value > schema[partner]:
            yield f"{keyword} cannot be greater than {partner}"

    return check


CHECKS: Final[Mapping[str, Callable[[Any, Schema], Iterator[str]]]] = {
    "type": _type_errors,
    "properties": _properties_errors,
    "required": _required_errors,
    "enum": _enum_errors,
    "anyOf": _any_of_errors,
    "$defs": _defs_errors,
    "additionalProperties": _kind_errors("additionalProperties", (bool, dict), "a boolean or an object"),
    "items": _kind_errors("items", dict, "an object"),
    **{word: _kind_errors(word, str, "a string") for word in ("$ref", "$id", "title", "description", "pattern")},
    **{low: _bound_errors(low, high) for low, high in RANGES},
    **{high: _bound_errors(high, low) for low, high in RANGES},
}


# ==== sizes ====


def _errors_of_size(root: Schema, parts: list[tuple[Path, Schema]]) -> Iterator[str]:
    if (size := len(compact(root).encode("utf-8", "surrogatepass"))) > MAX_BYTES:
        yield _at((), f"the schema has {size} bytes, more than {MAX_BYTES}")
    names = sum(len(as_mapping(schema.get("properties"))) for _, schema in parts)
    if names > MAX_PROPERTIES:
        yield _at((), f"the schema has {names} properties, more than {MAX_PROPERTIES}")
    if Depths(root).deepest() > MAX_DEPTH:
        yield _at((), f"the schema is too deep: more than {MAX_DEPTH} levels of properties")


class Depths:
    """How deep a schema is when its references are followed, each once on a path."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._steps: dict[str, list[tuple[str, int]]] = {}
        """Of a reference: the references inside its target, and how deep they stand there."""
        self._own: dict[str, int] = {}
        self._known: dict[str, int] = {}
        self._patience = MAX_UNROLLED

    def deepest(self) -> int:
        """The depth of the root or of a definition, whichever is deeper; beyond `MAX_DEPTH` it is not counted out."""
        starts = ["#", *(DEFS + name for name, _ in definitions(self._root))]
        return max(self._depth(ref, frozenset()) for ref in starts)

    def _depth(self, ref: str, passed: frozenset[str]) -> int:
        """The depth behind a reference, when those in `passed` lead no further."""
        if ref in self._known:
            return self._known[ref]
        self._patience -= 1
        deepest, passed = self._depth_alone(ref), passed | {ref}
        if len(passed) > MAX_NESTING:
            return MAX_DEPTH + 1
        met = False
        for inner, level in self._steps[ref]:
            if inner in passed:
                met = True
            elif self._patience > 0 and deepest <= MAX_DEPTH:
                deepest = max(deepest, level + self._depth(inner, passed))
                met = met or inner not in self._known
        if not met:
            self._known[ref] = deepest
        return deepest

    def _depth_alone(self, ref: str) -> int:
        """The depth without following references; notes those that it finds."""
        if ref not in self._own:
            steps: dict[str, int] = {}
            self._own[ref] = 0
            target = resolve(self._root, ref)
            open_schemas = [(target, 0)] if target is not None else []
            while open_schemas:
                schema, level = open_schemas.pop()
                self._own[ref] = max(self._own[ref], level)
                if isinstance(inner_ref := schema.get("$ref"), str):
                    steps[inner_ref] = max(level, steps.get(inner_ref, 0))
                open_schemas += [(inner, level + more) for _, inner, more in subschemas(schema)]
            self._steps[ref] = list(steps.items())
        return self._own[ref]


# ==== references ====


def _errors_of_references(root: Schema, parts: list[tuple[Path, Schema]]) -> Iterator[str]:
    for path, schema in parts:
        if isinstance(ref := schema.get("$ref"), str):
            yield from (_at((*path, "$ref"), message) for message in _reference_errors(root, schema, ref))
    if not can_end(root, root):
        yield from (_at(path, "infinite recursion: nothing lets it end") for path in _endless(root))


def _reference_errors(root: Schema, schema: Schema, ref: str) -> Iterator[str]:
    if ref != "#" and not ref.startswith(DEFS):
        yield f'references must be "#" or start with {DEFS}'
        return
    met: set[str] = set()
    words = schema.keys() & ANNOTATIONS
    while True:
        if ref in met:
            yield "it refers to nothing but itself"
            return
        met.add(ref)
        if (target := resolve(root, ref)) is None:
            yield f"{ref} is not defined"
            return
        if both := sorted(words & target.keys()):
            yield f"both beside $ref and in what it refers to: {', '.join(both)}"
            return
        if not isinstance(following := target.get("$ref"), str):
            return
        words, ref = words | (target.keys() & ANNOTATIONS), following


def _endless(root: Schema) -> Iterator[Path]:
    """Where a reference stands whose target never ends."""
    known: dict[str, bool] = {}
    for path, schema in _unavoidable(root):
        ref = schema.get("$ref")
        if isinstance(ref, str) and (target := resolve(root, ref)) is not None:
            if ref not in known:
                known[ref] = can_end(root, target)
            if not known[ref]:
                yield path


def can_end(root: Schema, schema: Schema) -> bool:
    """Whether something that ends is reached from a schema.

    As walle sees it: an object can end when one of its required properties can, or none is required; an array when its
    items can, for it does not think of the empty array.
    """
    met: set[str] = set()
    open_schemas = [schema]
    while open_schemas:
        current = open_schemas.pop()
        ahead = _unended(root, current, met)
        if not ahead:
            if current.get("$ref") is None and _ends_here(current):
                return True
            continue
        open_schemas += ahead
    return False


def _ends_here(schema: Schema) -> bool:
    return not schema or bool(types_of(schema))


def _unended(root: Schema, schema: Schema, met: set[str]) -> list[Schema]:
    """What is needed and has not been met before."""
    ref = schema.get("$ref")
    if isinstance(ref, str):
        target = None if ref in met else resolve(root, ref)
        met.add(ref)
        return [] if target is None else [target]
    return needed(schema)


def needed(schema: Schema) -> list[Schema]:
    """What a value of the schema has to contain, or to be one of."""
    required = {name for name in as_list(schema.get("required")) if isinstance(name, str)}
    return [inner for step, inner, _ in subschemas(schema) if _is_needed(step, inner, required)]


def _is_needed(step: Path, inner: Schema, required: set[str]) -> bool:
    if step[0] == "properties":
        return step[1] in required
    return step[0] != "additionalProperties" and (step[0] != "items" or bool(inner))


def _unavoidable(root: Schema) -> Iterator[tuple[Path, Schema]]:
    """All schemas outside `$defs` but those that are there only if one wants: additional ones, and beside an empty
    `required`."""
    open_schemas: list[tuple[Path, Schema]] = [((), root)]
    while open_schemas:
        path, schema = open_schemas.pop()
        yield path, schema
        free = {"additionalProperties"} | ({"properties"} if schema.get("required") == [] else set[str]())
        inner = [((*path, *step), below) for step, below, _ in subschemas(schema) if step[0] not in free]
        open_schemas += reversed(inner)
