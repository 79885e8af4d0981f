"""Whatever schema a function's arguments have, Kimi sees one object in its own dialect."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from kimi_agent import FunctionSpecError, Tool
from kimi_agent.kimi.parameters import object_schema
from kimi_agent.kimi.schema import mfjs_errors
from kimi_agent.kimi.wire import tool_json

A, B = {"a": {"type": "string"}}, {"b": {"type": "integer"}}
ANY_OBJECT = {"type": "object", "properties": {}}


class Node(BaseModel):
    value: str
    children: list["Node"] = []


TABLE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an object stays what it is": (
        {"type": "object", "properties": A, "required": ["a"], "additionalProperties": False},
        {"type": "object", "properties": A, "required": ["a"], "additionalProperties": False},
    ),
    "nothing said is any object": ({}, ANY_OBJECT),
    "only words": ({"description": "x"}, {**ANY_OBJECT, "description": "x"}),
    "an object without properties": ({"type": "object"}, ANY_OBJECT),
    "a list of the one type": ({"type": ["object"], "properties": A}, {"type": "object", "properties": A}),
    "an object or null": ({"type": ["object", "null"], "properties": A}, {"type": "object", "properties": A}),
    "a reference to an object": (
        {"$ref": "#/definitions/A", "definitions": {"A": {"type": "object", "properties": A, "title": "Inner"}}},
        {"type": "object", "properties": A, "title": "Inner"},
    ),
    "one of two sets is required": (
        {"type": "object", "properties": {**A, **B}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"type": "object", "properties": {**A, **B}, "description": "Give a; or b."},
    ),
    "alternatives that share a part": (
        {
            "anyOf": [
                {"type": "object", "properties": {**A, **B}, "required": ["a", "b"]},
                {"type": "object", "properties": A, "required": ["a"]},
            ],
            "description": "Two ways.",
        },
        {"type": "object", "properties": {**A, **B}, "required": ["a"], "description": "Two ways."},
    ),
    "alternatives with one name for two types": (
        {
            "anyOf": [
                {"type": "object", "properties": A, "additionalProperties": False},
                {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False},
            ]
        },
        {
            "type": "object",
            "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
            "additionalProperties": False,
        },
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_arguments_are_one_object(name: str) -> None:
    given_schema, expected = TABLE[name]
    before = copy.deepcopy(given_schema)
    assert object_schema(given_schema) == expected
    assert given_schema == before


def test_a_recursive_model_is_an_object_at_its_root() -> None:
    made = object_schema(Node.model_json_schema())
    assert made is not None
    assert made["type"] == "object"
    assert list(made["properties"]) == ["value", "children"]
    assert made["$defs"]["Node"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    assert mfjs_errors(made) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": ["string", "null"]},
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        {"$ref": "#/$defs/A", "$defs": {"A": {"type": "string"}}},
        {"enum": ["a", "b"]},
    ],
    ids=repr,
)
def test_what_can_be_no_object_is_a_spec_error_that_names_the_tool(schema: dict[str, Any]) -> None:
    with pytest.raises(FunctionSpecError, match="'look'"):
        tool_json(Tool(name="look", description="", parameters=schema))


LEAVES = st.sampled_from(
    [
        {"type": "string"},
        {"type": "object"},
        {},
        {"$ref": "#/$defs/A"},
        {"$ref": "#"},
        {"type": "null"},
        {"required": ["a"]},
    ]
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(
            lambda properties, required: {"type": "object", "properties": properties, "required": required},
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            st.lists(st.sampled_from("abc"), unique=True, max_size=2),
        ),
        st.builds(
            lambda word, branches, more: {word: branches, **more},
            st.sampled_from(["anyOf", "oneOf", "allOf"]),
            st.lists(inner, min_size=1, max_size=3),
            st.sampled_from([{}, {"type": "object"}, {"description": "d", "title": "t"}]),
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=200)
@given(root=SCHEMAS, definition=SCHEMAS)
def test_any_schema_is_one_object_in_kimis_dialect_or_none(root: dict[str, Any], definition: dict[str, Any]) -> None:
    schema = {**root, "$defs": {"A": definition}}
    made = object_schema(schema)
    if made is not None:
        assert mfjs_errors(made) == []
        assert made["type"] == "object"
        assert isinstance(made["properties"], dict)
        assert object_schema(json.loads(json.dumps(made))) == made
