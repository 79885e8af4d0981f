"""Tools as Kimi K2.5 to K2.7 read them: a namespace in the manner of TypeScript.

The form is Moonshot AI's, to the character, since every one of them is counted. What the form cannot say - a reference
that leads elsewhere than to `$defs`, a schema without a type - is an `Unsayable`, and Kimi reads JSON in its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

__all__ = ["Unsayable", "namespace"]

Schema = dict[str, Any]

_INDENT: Final = "  "
_LIMITS: Final[Mapping[str, tuple[str, ...]]] = {
    "string": ("maxLength", "minLength", "pattern"),
    "number": ("maximum", "minimum"),
    "integer": ("maximum", "minimum"),
    "array": ("maxItems", "minItems"),
}
"""The keywords of a type that are told in a comment, in alphabetical order."""
_IN_UNIONS: Final[Mapping[str, str]] = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
    "object": "{}",
    "array": "Array<any>",
}
_VALUES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
}
"""What the values of an `enum` have to be, by its type."""


class Unsayable(ValueError):
    """A schema that this form has no words for."""


def namespace(tools: Sequence[Any]) -> str:
    """The text that declares tools.

    Args:
        tools: as plain JSON, the keys of all objects sorted.

    Raises:
        Unsayable: Kimi reads JSON in its place.
    """
    try:
        entries = [_Entry().text(tool["function"]) for tool in tools if tool.get("type") == "function"]
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise Unsayable(f"no schema of a function: {error!r}") from error
    if not entries:
        raise Unsayable("no functions")
    return "\n".join(["# Tools", "", "## functions", "namespace functions {", *entries, "}", ""])


def _comment(text: str, indent: str = "") -> Iterator[str]:
    """The lines of a description; empty ones stay empty."""
    return (f"{indent}// {line}" if line else "" for line in text.split("\n"))


class _Entry:
    """One tool. What its schema defines, and whether it refers to itself, is known when its text has been made."""

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}
        self._is_recursive = False

    def text(self, function: Schema) -> str:
        """The interfaces, the description and the signature."""
        parameters: Schema = function.get("parameters") or {}
        type_text = self._object(parameters, "")
        interfaces: list[str] = []
        if self._is_recursive:
            interfaces.append(f"interface parameters {_braced(self._properties(parameters, _INDENT), '')}")
            type_text = "parameters"
        for name, schema in list(self._definitions.items()):
            interfaces += [*self._about(schema), f"interface {name} {self._type(schema, '')}"]
        signature = f"type {function['name']} = (_: {type_text}) => any;"
        return "\n".join([*interfaces, *self._about(function), signature])

    def _about(self, described: Schema) -> Iterator[str]:
        return _comment(described["description"]) if described.get("description") else iter(())

    # ---- types ----

    def _type(self, schema: Any, indent: str) -> str:
        if isinstance(schema, bool):
            return "any" if schema else "null"
        for keyword, text_of in _KEYWORDS.items():
            if keyword in schema:
                return text_of(self, schema, indent)
        if schema:
            raise Unsayable(f"a schema without a type: {schema!r:.80}")
        return "any"

    def _reference(self, schema: Schema, indent: str) -> str:
        target: str = schema["$ref"]
        if target == "#":
            self._is_recursive = True
            return "parameters"
        name = target.rpartition("/")[2]
        if not target.startswith("#/$defs/") or name not in self._definitions:
            raise Unsayable(f"a reference to {target!r:.80}")
        return name

    def _any_of(self, schema: Schema, indent: str) -> str:
        return " | ".join(self._type(branch, indent) for branch in schema["anyOf"])

    def _enum(self, schema: Schema, indent: str) -> str:
        values: list[Any] = schema["enum"]
        expected = _VALUES.get(_type_of_values(schema), object)
        if not all(value is None or isinstance(value, expected) for value in values):
            raise Unsayable("an enum with values of another type")
        return " | ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in values)

    def _named(self, schema: Schema, indent: str) -> str:
        kind: Any = schema["type"]
        if isinstance(kind, list):
            return " | ".join(_IN_UNIONS[name] for name in cast("list[str]", kind))
        if kind == "object":
            return self._object(schema, indent)
        if kind == "array":
            return self._array(schema, indent)
        return "number" if kind == "integer" else "" + kind

    # ---- objects and arrays ----

    def _object(self, schema: Schema, indent: str) -> str:
        self._definitions.update(schema.get("$defs") or {})
        inner = indent + _INDENT
        members = [*self._properties(schema, inner), *self._others(schema, inner)]
        return _braced(members, indent) if members else "{}"

    def _properties(self, schema: Schema, indent: str) -> list[str]:
        """The required ones first, each group by name."""
        required = set(schema.get("required", ()))
        given: Any = schema.get("properties", {})
        if not isinstance(given, Mapping):
            raise Unsayable("properties that are no object")
        properties = cast(Mapping[str, Any], given)
        names = sorted(properties, key=lambda name: (name not in required, name))
        return [self._property(name, name in required, properties[name], indent) for name in names]

    def _property(self, name: str, required: bool, schema: Any, indent: str) -> str:
        default = None if isinstance(schema, bool) else schema.get("default")
        about = [] if default is None else [f"{indent}// Default: {_default(default)}"]
        line = f"{indent}{name}{'' if required else '?'}: {self._type(schema, indent)}"
        return "\n".join([*_notes(schema, indent), *about, line])

    def _others(self, schema: Schema, indent: str) -> Iterator[str]:
        others = schema.get("additionalProperties")
        if others is not None:
            text = "never" if others is False else self._type(others, indent)
            yield f"{indent}[k: string]: {text}"

    def _array(self, schema: Schema, indent: str) -> str:
        item: Any = schema.get("items") or {}
        inner = indent + _INDENT
        notes = list(_notes(item, inner))
        if not notes:
            return f"Array<{self._type(item, indent)}>"
        return "\n".join(["Array<", *notes, f"{inner}{self._type(item, inner)}", f"{indent}>"])


_KEYWORDS: Final[Mapping[str, Callable[[_Entry, Schema, str], str]]] = {
    "$ref": _Entry._reference,
    "anyOf": _Entry._any_of,
    "enum": _Entry._enum,
    "type": _Entry._named,
}
"""What decides about the type of a schema; the first that is there."""


def _braced(members: Sequence[str], indent: str) -> str:
    return "\n".join(["{", ",\n".join(members), f"{indent}}}"]) if members else "{}"


def _notes(schema: Any, indent: str) -> Iterator[str]:
    """What is said above a property or an item: its description, and its limits."""
    if isinstance(schema, bool):
        return
    fields: Schema = schema
    if fields.get("description"):
        yield from _comment(fields["description"], indent)
    kind: Any = None if {"$ref", "anyOf", "enum"} & fields.keys() else fields.get("type")
    names = _LIMITS.get(kind, ()) if isinstance(kind, str) else ()
    if limits := [f"{name}: {fields[name]}" for name in names if name in fields]:
        yield f"{indent}// {', '.join(limits)}"


def _default(value: Any) -> str:
    return repr(value) if isinstance(value, int | float) else json.dumps(value, ensure_ascii=False)


def _type_of_values(schema: Schema) -> str:
    """The type of an enum's values; null may always be one of them."""
    kind: Any = schema.get("type", "")
    if not isinstance(kind, list):
        return kind
    names = cast("list[str]", kind)
    if len(names) > 1 and (len(names) > 2 or "null" not in names):
        raise Unsayable("an enum of several types")
    return next((name for name in names if name != "null"), "null")
