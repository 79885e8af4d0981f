"""A function as the persona sees it: how well it fits a question, and arguments for it out of the question. Pure.

A parameter draws its values from one kind of value that the question has: names, numbers or arithmetic. If the question
has values for several calls, there are several: "Oslo or Bergen" fills a `city` twice.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias, cast

from .question import ARITHMETIC, Question, meaningful_words
from .script import Body

__all__ = ["Function"]

Schema: TypeAlias = Mapping[str, Any]
Kind: TypeAlias = Literal["name", "number", "expression", "other"]
Values: TypeAlias = Sequence[Any]

MAX_REFERENCES: Final = 8
"""References that are followed from one parameter; a schema may go in circles."""


@dataclass(frozen=True)
class Parameter:
    """One parameter. Its schema has no reference and no alternatives at the top."""

    name: str
    schema: Schema
    required: bool

    @property
    def description(self) -> str:
        return f"{self.name} {self.schema.get('title') or ''} {self.schema.get('description') or ''}"

    @property
    def options(self) -> list[Any]:
        """The values of an enumeration."""
        return [self.schema["const"]] if "const" in self.schema else list(self.schema.get("enum") or ())

    @cached_property
    def kind(self) -> Kind:
        """Which values of a question it takes; `other` for what is no single value of a question."""
        if self.options:
            return "other"
        match self.schema.get("type"):
            case "integer" | "number":
                return "number"
            case "string":
                return "expression" if meaningful_words(self.description) & ARITHMETIC else "name"
            case _:
                return "other"

    def is_mentioned(self, question: Question) -> bool:
        """Whether the question speaks of it."""
        return bool(meaningful_words(self.name) & question.words)

    def fitting(self, value: Any) -> Any:
        """A value of a question in the type of the schema."""
        return int(value) if self.schema.get("type") == "integer" else value

    def choice(self, question: Question) -> Any:
        """What the question says of this very parameter; `None` when it says nothing."""
        if self.options:
            return next((option for option in self.options if _occurs(option, question.text)), None)
        if self.kind == "number":
            count = question.count_of(self.name)
            return None if count is None else self.fitting(count)
        if self.schema.get("type") == "boolean":
            return self.is_mentioned(question) or None
        if self.schema.get("type") == "array":
            item = Parameter(self.name, self.schema.get("items") or {}, False)
            return [item.fitting(value) for value in _values(item.kind, question)] or None
        return None


class Function:
    """A function that may be called.

    Args:
        definition: the `function` of a tool.
    """

    def __init__(self, definition: Body) -> None:
        root = cast(Schema, definition.get("parameters") or {})
        schema = _plain(root, root)
        required = cast(Values, schema.get("required") or ())
        properties = cast(Schema, schema.get("properties") or {})
        self.name = str(definition["name"])
        self._root = root
        self.parameters = [Parameter(name, _plain(part, root), name in required) for name, part in properties.items()]
        self._name_words = meaningful_words(self.name)
        told = [definition.get("description") or "", *(parameter.description for parameter in self.parameters)]
        options = [str(option) for parameter in self.parameters for option in parameter.options]
        self._other_words = meaningful_words(" ".join([*told, *options])) - self._name_words

    def fits(self, question: Question) -> int:
        """How well it fits: 3 for each word of its name, 1 for each other word; 0 when it does not.

        One word of a description proves nothing. A question that has what the function wants makes a 1.
        """
        named, told = len(self._name_words & question.words), len(self._other_words & question.words)
        if named or told > 1:
            return 3 * named + told
        return int(question.asks and self._wants_what_is_there(question))

    def _wants_what_is_there(self, question: Question) -> bool:
        kinds: set[Kind] = {parameter.kind for parameter in self.parameters if parameter.required}
        return bool(kinds) and kinds <= {"name", "expression"} and all(_values(kind, question) for kind in kinds)

    def fillings(self, question: Question) -> list[Body]:
        """The arguments of each call that the question asks for; none when the question lacks a value."""
        chosen = self._chosen(question)
        drawn = self._drawn(question, chosen)
        groups: dict[Kind, list[Values]] = {
            kind: self._groups(kind, len(parameters), question, chosen) for kind, parameters in drawn.items()
        }
        if not all(groups.values()):
            return []
        times = max((len(group) for group in groups.values()), default=1)
        return [self._filled(chosen, drawn, groups, time) for time in range(times)]

    def guess(self, question: Question) -> Body:
        """Arguments for a call that has to be made, whether the question has them or not."""
        wanted = {parameter.name: parameter.schema for parameter in self.parameters if parameter.required}
        fillings = self.fillings(question)
        return fillings[0] if fillings else _any_of(wanted, question, self._root)

    def _chosen(self, question: Question) -> Body:
        """The arguments that are the same in each call."""
        found: Body = {}
        for parameter in self.parameters:
            value = parameter.choice(question)
            if value is None and parameter.required and parameter.kind == "other":
                value = _any_value(parameter.schema, question, self._root)
            if value is not None:
                found[parameter.name] = value
        return found

    def _drawn(self, question: Question, chosen: Body) -> dict[Kind, list[Parameter]]:
        """By kind, the parameters that need a value: the required ones, then those that the question speaks of."""
        drawn: defaultdict[Kind, list[Parameter]] = defaultdict(list)
        open_ones = [each for each in self.parameters if each.kind != "other" and each.name not in chosen]
        for parameter in sorted(open_ones, key=lambda each: not each.required):
            kind = parameter.kind
            is_left = len(_left(kind, question, chosen)) > len(drawn.get(kind, ()))
            if parameter.required or (parameter.is_mentioned(question) and is_left):
                drawn[kind].append(parameter)
        return drawn

    def _groups(self, kind: Kind, size: int, question: Question, chosen: Body) -> list[Values]:
        """The question's values of a kind, `size` of them for each call."""
        values = _left(kind, question, chosen)
        if kind == "name":
            values = [name for name in values if not self._is_own(name)] or values
            if not values and size == 1 and self._name_words & question.words:
                values = [question.rest]
        return list(zip(*[iter(values)] * size, strict=False))

    def _is_own(self, name: str) -> bool:
        """Whether a name in the question only says what the function is about: "Weather in Oslo"."""
        words = meaningful_words(name)
        return bool(words) and words <= self._name_words | self._other_words

    def _filled(
        self, chosen: Body, drawn: Mapping[Kind, list[Parameter]], groups: Mapping[Kind, list[Values]], time: int
    ) -> Body:
        """The arguments of one call, in the order of the parameters."""
        arguments = dict(chosen)
        for kind, parameters in drawn.items():
            values = groups[kind][min(time, len(groups[kind]) - 1)]
            for parameter, value in zip(parameters, values, strict=True):
                arguments[parameter.name] = parameter.fitting(value)
        return {
            parameter.name: arguments[parameter.name] for parameter in self.parameters if parameter.name in arguments
        }


def _values(kind: Kind, question: Question) -> Values:
    match kind:
        case "name":
            return question.names
        case "number":
            return question.numbers
        case "expression":
            return question.expressions
        case "other":
            return ()


def _left(kind: Kind, question: Question, chosen: Body) -> list[Any]:
    """The values that no parameter has yet."""
    taken = {str(value).lower() for value in chosen.values()}
    return [value for value in _values(kind, question) if str(value).lower() not in taken]


def _occurs(option: Any, text: str) -> bool:
    return re.search(rf"(?<![\w'’]){re.escape(str(option))}(?!\w)", text, re.IGNORECASE) is not None


def _plain(schema: Any, root: Schema) -> Schema:
    """A schema without a reference, and of alternatives the first that is not null."""
    for _ in range(MAX_REFERENCES):
        if not isinstance(schema, dict):
            break
        node = cast(Body, schema)
        variants = cast(list[Body], node.get("anyOf") or node.get("oneOf") or node.get("allOf") or [])
        if "$ref" in node:
            definitions = cast(Body, root.get("$defs") or root.get("definitions") or {})
            schema = definitions.get(str(node["$ref"]).rsplit("/", 1)[-1])
        elif variants:
            schema = next((variant for variant in variants if variant.get("type") != "null"), None)
        else:
            return node
    return {}


def _any_value(schema: Schema, question: Question, root: Schema, depth: int = 0) -> Any:
    """Some value of the schema's type."""
    schema = _plain(schema, root)
    options = Parameter("", schema, True).options
    if options or depth > MAX_REFERENCES:
        return options[0] if options else None
    match schema.get("type"):
        case "object":
            properties = cast(Mapping[str, Schema], schema.get("properties") or {})
            required = cast(Sequence[str], schema.get("required") or ())
            return _any_of({name: properties[name] for name in required if name in properties}, question, root, depth)
        case "integer" | "number":
            return max(0, schema.get("minimum") or 0)
        case "boolean":
            return False
        case "array":
            return [_any_value(schema.get("items") or {}, question, root, depth + 1)] * int(schema.get("minItems") or 0)
        case _:
            return question.rest


def _any_of(wanted: Mapping[str, Schema], question: Question, root: Schema, depth: int = 0) -> Body:
    return {name: _any_value(schema, question, root, depth + 1) for name, schema in wanted.items()}
