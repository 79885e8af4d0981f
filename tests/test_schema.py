"""Whatever JSON Schema comes in, what goes out is in Kimi's dialect, and takes everything that the schema took.

`KIMI_AGENT_FUZZ` is eight times the number of examples.
"""

import copy
import datetime
import decimal
import enum
import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Generic, Literal, Optional, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel
from timing import untraced

from kimi_agent.kimi import mfjs, reshape
from kimi_agent.kimi.schema import Conversion, mfjs_errors, to_mfjs
from kimi_agent.message import freeze

RUNS = int(os.environ.get("KIMI_AGENT_FUZZ", "1000")) // 8

ANY = {"type": ["string", "number", "boolean", "object", "array", "null"]}


# ==== the verdicts of Moonshot's own validator ====


def cases(data: Path) -> Iterator[tuple[str, bool]]:
    for line in (data / "mfjs_cases.jsonl").read_text("utf-8").splitlines():
        case = json.loads(line)
        yield case["schema"], case["valid"]


def read(text: str) -> Any:
    """The schema, or a value that is none when the text is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_the_check_agrees_with_the_vendor_on_every_case(data: Path):
    verdicts = {text: not mfjs_errors(read(text)) for text, _ in cases(data)}
    assert [text for text, valid in cases(data) if verdicts[text] != valid] == []
    assert len(verdicts) > 180


def test_every_case_of_the_vendor_is_converted_and_a_valid_one_comes_back_byte_for_byte(data: Path):
    converted = 0
    for text, valid in cases(data):
        schema = read(text)
        if isinstance(schema, dict):
            result = to_mfjs(schema)
            assert mfjs_errors(result) == [], text
            assert to_mfjs(result) == result
            assert not valid or json.dumps(result) == json.dumps(schema)
            converted += 1
    assert converted > 180


# ==== the check ====

PASS = r"""
{}
{"type":"string","minLength":1,"maxLength":20,"pattern":"^[a-z]+$","default":"x"}
{"type":["string","null"]}
{"type":["string","null"],"enum":["a",null]}
{"type":["null","integer"],"enum":[1,2,null]}
{"anyOf":[{"type":"string"},{"type":"null"}]}
{"type":"object","properties":{"a/b":{"type":"integer"}},"required":["a/b"],"additionalProperties":false}
{"type":"object","additionalProperties":{"type":"string"}}
{"properties":{"n":{"$ref":"#/$defs/N"}},"required":["n"],"$defs":{"N":NODE},"type":"object"}
{"type":"object","properties":{"type":{"type":"string"},"enum":{"type":"string"}}}
{"type":"array","items":{"anyOf":[{"type":"string"},{"type":"number"}]},"minItems":0,"maxItems":3}
{"type":"integer","enum":[1.0,2]}
{"type":["boolean"],"enum":[true],"title":"t"}
{"$id":"x","title":"t","$ref":"#/$defs/A","$defs":{"A":{"type":"object"}}}
{"type":"object","properties":{"a":{"$ref":"#/$defs/N/properties/v"}},"$defs":{"N":NODE}}
{"description":"d","anyOf":[{"$ref":"#/$defs/A"}],"$defs":{"A":{"type":"string","description":"e"}}}
{"type":"object","properties":{"n":{"$ref":"#"}},"required":[]}
{"type":"array","items":{"type":"array"}}
"""
NODE = '{"type":"object","properties":{"v":{"type":"string"},"next":{"$ref":"#/$defs/N"}},"required":["v"]}'

FAIL = {
    r'{"type":"string","format":"date-time"}': "At the root: unsupported keywords: format",
    r'{"oneOf":[{"type":"string"}]}': "At the root: unsupported keywords: oneOf",
    r'{"enum":["a","b"]}': "At path 'enum': enum needs a type",
    r'{"type":"number","enum":[1,"2"]}': "At path 'enum': \"2\" is not of the type",
    r'{"type":"number","enum":[1,true]}': "At path 'enum': true is not of the type",
    r'{"type":"integer","enum":[1.5]}': "At path 'enum': 1.5 is not of the type",
    r'{"type":["integer","null"],"enum":[1,null]}': "At path 'enum': null is not of the type",
    r'{"type":["string","integer"],"maxLength":5}': "At the root: not allowed beside type: maxLength",
    r'{"type":["string","integer"],"enum":["a",1]}': "At path 'enum': with enum a list of types",
    r'{"type":["object","null"],"enum":[null]}': "At path 'enum': with enum a list of types",
    r'{"type":"string","anyOf":[{"type":"string"}]}': "At the root: not allowed beside anyOf: type",
    r'{"description":"d","anyOf":[{"type":"string","description":"e"}]}': "At the root: both beside anyOf",
    r'{"anyOf":[]}': "At path 'anyOf': anyOf must be an array of 1 to 500",
    r'{"anyOf":[true]}': "At path 'anyOf': each schema in anyOf must be an object",
    r'{"type":"object","required":["a"]}': "At path 'required': required property 'a' is not defined",
    r'{"type":"object","properties":{"a":{"type":"string"}},"required":["b"]}': "'b' is not defined in properties",
    r'{"properties":{"a":{"type":"string"}},"required":["a"]}': "At path 'required': required needs the type object",
    r'{"type":"object","properties":{"a":{"type":"null"}},"required":["a","a"]}': "At path 'required': a name stands",
    r'{"type":"object","required":"a"}': "At path 'required': required must be an array",
    r'{"type":"object","properties":{"a":true}}': "At path 'properties': the schema of 'a' must be an object",
    r'{"type":"object","properties":{"":{"type":"null"}}}': "At path 'properties': the name of a property must not",
    r'{"type":"object","properties":{"$ref":{"type":"string"}}}': "At path 'properties': the name $ref is reserved",
    r'{"type":"object","properties":[]}': "At path 'properties': properties must be an object",
    r'{"type":"object","properties":{"pair":{"type":"array","items":[{"type":"string"}]}}}': (
        "At path 'properties.pair.items': items must be an object"
    ),
    r'{"type":"string","minimum":1}': "At the root: not allowed beside type: minimum",
    r'{"type":"integer","minimum":1.5}': "At path 'minimum': minimum must be a whole number",
    r'{"type":"string","minLength":5,"maxLength":2}': "At path 'minLength': minLength cannot be greater than maxLength",
    r'{"type":"string","minLength":-1}': "At path 'minLength': minLength must be non-negative",
    r'{"type":"number","maximum":true}': "At path 'maximum': maximum must be a number",
    r'{"type":"object","properties":{"u":{"$ref":"#/definitions/U"}}}': "At path 'properties.u.$ref': references must",
    r'{"type":"object","properties":{"u":{"$ref":7}}}': "At path 'properties.u.$ref': $ref must be a string",
    r'{"type":"object","properties":{"u":{"$ref":"#/$defs/U"}}}': "'properties.u.$ref': #/$defs/U is not defined",
    r'{"type":"object","properties":{"u":{"$ref":"#/$defs/U","minLength":1}},"$defs":{"U":{"type":"string"}}}': (
        "At path 'properties.u': not allowed beside $ref: minLength"
    ),
    r'{"anyOf":[{"$ref":"#/$defs/U","title":"t"}],"$defs":{"U":{"type":"string","title":"u"}}}': (
        "At path 'anyOf{0}.$ref': both beside $ref and in what it refers to: title"
    ),
    r'{"anyOf":[{"$ref":"#/$defs/A"}],"$defs":{"A":{"$ref":"#/$defs/B"},"B":{"$ref":"#/$defs/A"}}}': (
        "At path '$defs.A.$ref': it refers to nothing but itself"
    ),
    r'{"type":"object","properties":{"n":{"$ref":"#"}},"required":["n"]}': (
        "At path 'properties.n': infinite recursion: nothing lets it end"
    ),
    r'{"type":"object","properties":{"x":{"type":"string","$id":"y"}}}': "'properties.x': $id must be at the root",
    r'{"type":"object","$defs":{"a/b":{"type":"string"}}}': "At path '$defs': no name inside $defs may contain '/'",
    r'{"$defs":{"a":{"type":"object","properties":{"x/y":{"type":"null"}}}},"type":"null"}': "no name inside $defs may",
    r'{"type":"object","$defs":{"a":null}}': "At path '$defs': the definition 'a' must be an object",
    r'{"type":"object","$defs":{"":{}}}': "At path '$defs': the name of a definition must not be empty",
    r'{"type":"strange"}': "At path 'type': invalid type",
    r'{"type":[]}': "At path 'type': the list of types must not be empty",
    r'{"type":["null","null"]}': "At path 'type': a type stands there twice",
    r'{"type":"string","description":1}': "At path 'description': description must be a string",
    r'{"type":"object","additionalProperties":null}': "At path 'additionalProperties': additionalProperties must be a",
}


@pytest.mark.parametrize("text", PASS.strip().splitlines())
def test_a_schema_in_the_dialect_has_no_errors_and_comes_back_equal(text: str):
    schema = json.loads(text.replace("NODE", NODE))
    assert mfjs_errors(schema) == []
    assert json.dumps(to_mfjs(schema)) == json.dumps(schema)


@pytest.mark.parametrize("text", FAIL)
def test_a_schema_outside_the_dialect_is_named_with_its_place_and_converted(text: str):
    schema = json.loads(text)
    assert any(FAIL[text] in error for error in mfjs_errors(schema)), mfjs_errors(schema)
    assert mfjs_errors(to_mfjs(schema)) == []


def test_all_errors_are_told_at_once():
    schema = {"type": "object", "properties": {"a": {"enum": [1]}, "b": {"type": "x"}}, "required": ["c"], "not": {}}
    assert len(mfjs_errors(schema)) == 4


def test_the_check_takes_any_value_and_any_depth():
    for value in (
        None,
        True,
        1,
        "x",
        [],
        {1: 2},
        {"default": {1, 2}},
        {"minimum": float("inf")},
        {"default": 10**5000},
    ):
        assert len(mfjs_errors(value)) == 1
    deep: dict[str, Any] = {"type": "null"}
    for _ in range(10_000):
        deep = {"type": "array", "items": deep}
    assert "nested too deep" in mfjs_errors(deep)[0]
    assert mfjs_errors(to_mfjs(deep)) == []
    assert mfjs_errors({"anyOf": [{"type": "string"}, to_mfjs({"default": deep, "const": deep})]}) == []


def chain(length: int) -> dict[str, Any]:
    """A schema of so many levels of properties, each in a definition of its own."""
    definitions: dict[str, Any] = {
        f"L{n}": {"type": "object", "properties": {"x": ref(f"L{n + 1}")}} for n in range(length)
    }
    return {**ref("L0"), "$defs": {**definitions, f"L{length}": {"type": "string"}}}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"x": schema}}
    return schema


@pytest.mark.parametrize(
    ("fits", "too_large", "named"),
    [
        (nested(30), nested(31), "too deep"),
        (chain(30), chain(31), "too deep"),
        (
            {"type": "string", "enum": [str(n) for n in range(1000)]},
            {"type": "string", "enum": [str(n) for n in range(1001)]},
            "more than 1000 values",
        ),
        (
            {"anyOf": [{"type": "string", "maxLength": n} for n in range(500)]},
            {"anyOf": [{"type": "string", "maxLength": n} for n in range(501)]},
            "1 to 500",
        ),
        (
            {"type": "object", "properties": {f"p{n}": {"type": "null"} for n in range(3000)}},
            {"type": "object", "properties": {f"p{n}": {"type": "null"} for n in range(3001)}},
            "3001 properties",
        ),
        (
            {"type": "string", "description": "ä" * 59_900},
            {"type": "string", "description": "ä" * 60_000},
            "bytes",
        ),
    ],
)
def test_the_limits_are_kept_to_the_last_one(fits: dict[str, Any], too_large: dict[str, Any], named: str):
    assert mfjs_errors(fits) == []
    assert to_mfjs(fits) == fits
    assert any(named in error for error in mfjs_errors(too_large))
    result = to_mfjs(too_large)
    assert mfjs_errors(result) == []
    assert reshape.outline(result, result) == reshape.outline(too_large, too_large)


def test_what_is_too_large_loses_texts_first_and_then_the_deepest_parts():
    wordy = {"type": "object", "properties": {f"p{n}": {"type": "string", "title": "t" * 100} for n in range(1500)}}
    assert list(to_mfjs(wordy)["properties"]) == list(wordy["properties"])
    wordy["properties"]["p1"]["description"] = "d" * 120_000
    assert to_mfjs(wordy)["properties"]["p1"] == {"type": "string"}
    deep = to_mfjs(nested(40))
    levels = 0
    while deep.get("properties"):
        levels, deep = levels + 1, deep["properties"]["x"]
    assert levels == 28
    assert deep == {"type": "object"}


def test_properties_that_find_no_room_may_still_be_given():
    names = [f"p{n}" for n in range(4000)]
    properties = {name: {"type": "string"} for name in names}
    result = to_mfjs({"type": "object", "properties": properties, "required": names, "additionalProperties": False})
    assert list(result["properties"]) == result["required"] == names[:3000]
    assert "additionalProperties" not in result


@untraced
def test_a_web_of_definitions_that_all_refer_to_each_other_is_checked_in_no_time():
    names = [f"D{n}" for n in range(40)]
    definition = {"type": "object", "properties": {name: ref(name) for name in names}}
    schema = {"type": "object", "properties": {"a": ref("D0")}, "$defs": dict.fromkeys(names, definition)}
    started = time.perf_counter()
    assert mfjs_errors(schema)
    assert mfjs_errors(to_mfjs(schema)) == []
    assert time.perf_counter() - started < 5


# ==== what exactly comes out ====

EXAMPLES: dict[str, tuple[Any, Any]] = {
    "a constant is an enum of one": ({"const": "a"}, {"type": "string", "enum": ["a"]}),
    "a constant null needs no enum": ({"const": None}, {"type": "null"}),
    "enums get a type": ({"enum": [1, 2]}, {"type": "integer", "enum": [1, 2]}),
    "enums with a fraction are numbers": ({"enum": [1, 0.5]}, {"type": "number", "enum": [1, 0.5]}),
    "mixed enums are split by type": (
        {"enum": ["a", 1, True, None]},
        {
            "anyOf": [
                {"type": "string", "enum": ["a"]},
                {"type": "integer", "enum": [1]},
                {"type": "boolean", "enum": [True]},
                {"type": "null"},
            ]
        },
    ),
    "one scalar type and null stay together": (
        {"enum": ["a", None]},
        {"type": ["string", "null"], "enum": ["a", None]},
    ),
    "for numbers null comes first": ({"enum": [1, None]}, {"type": ["null", "integer"], "enum": [1, None]}),
    "values of another type are left out": (
        {"type": "integer", "enum": [1, "a", 1.5]},
        {"type": "integer", "enum": [1]},
    ),
    "values that are objects are told": (
        {"enum": [{"a": 1}]},
        {"type": "object", "description": 'One of [{"a":1}].'},
    ),
    "exclusive bounds of whole numbers move by one": (
        {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
        {"type": "integer", "minimum": 1, "maximum": 9},
    ),
    "exclusive bounds between whole numbers are rounded": (
        {"type": "integer", "exclusiveMinimum": 0.5, "exclusiveMaximum": 2.5},
        {"type": "integer", "minimum": 1, "maximum": 2},
    ),
    "exclusive bounds of numbers are told": (
        {"type": "number", "description": "A share", "exclusiveMinimum": 0, "maximum": 1},
        {"type": "number", "description": "A share. More than 0.", "maximum": 1, "minimum": 0},
    ),
    "exclusive bounds of draft 4 are understood": (
        {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
        {"type": "integer", "minimum": 1},
    ),
    "bounds of whole numbers are rounded inwards": (
        {"type": "integer", "minimum": 0.5, "maximum": 2.5},
        {"type": "integer", "minimum": 1, "maximum": 2},
    ),
    "formats and the like are told": (
        {"type": "string", "format": "date-time", "contentEncoding": "base64", "examples": ["a", "b"]},
        {"type": "string", "description": 'Format: date-time. Encoded as base64. Examples: "a", "b".'},
    ),
    "what arrays cannot say is told": (
        {"type": "array", "uniqueItems": True, "items": {"type": "number", "multipleOf": 5}},
        {
            "type": "array",
            "items": {"type": "number", "description": "A multiple of 5."},
            "description": "No item twice.",
        },
    ),
    "what objects cannot say is told": (
        {
            "type": "object",
            "minProperties": 1,
            "dependentRequired": {"a": ["b", "c"]},
            "propertyNames": {"maxLength": 3},
        },
        {
            "type": "object",
            "description": 'Number of properties: at least 1. Names of properties: {"maxLength":3}. With a also b, c.',
        },
    ),
    "conditions are told": (
        {
            "type": "string",
            "if": {"minLength": 2},
            "then": {"pattern": "a"},
            "else": {"pattern": "b"},
            "not": {"const": ""},
        },
        {
            "type": "string",
            "description": 'Not like {"const":""}. When like {"minLength":2}: then like {"pattern":"a"}. '
            'Otherwise like {"pattern":"b"}.',
        },
    ),
    "pairs have as many items": (
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
        {
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
            "description": "The items in their order: integer, string.",
        },
    ),
    "closed tuples of draft 7 get a length": (
        {"items": [{"type": "integer"}, {"type": "integer"}], "additionalItems": False},
        {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
    ),
    "open tuples say nothing of their items": (
        {"type": "array", "prefixItems": [{"type": "integer"}]},
        {"type": "array"},
    ),
    "a type list with keywords is split": (
        {"type": ["string", "null"], "maxLength": 3, "default": None},
        {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}], "description": "Default: null."},
    ),
    "an array of two types with format keeps its types": (
        {"type": ["string", "null"], "format": "uri"},
        {"type": ["string", "null"], "description": "Format: uri."},
    ),
    "nullable is a union with null": (
        {"type": "string", "nullable": True},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
    ),
    "one of is any of": (
        {"oneOf": [{"type": "string"}, {"const": 1}]},
        {"anyOf": [{"type": "string"}, {"type": "integer", "enum": [1]}]},
    ),
    "unions in unions are one union": (
        {"anyOf": [{"oneOf": [{"type": "string"}, {"type": "null"}]}, {"type": "boolean"}]},
        {"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "boolean"}]},
    ),
    "a union of one is its member": (
        {"oneOf": [{"type": "string", "format": "x"}]},
        {"type": "string", "description": "Format: x."},
    ),
    "texts of branches come under the common text": (
        {"description": "D", "anyOf": [{"type": "string", "description": "S"}, {"type": "null"}]},
        {"description": "D\n- string: S", "anyOf": [{"type": "string"}, {"type": "null"}]},
    ),
    "titles stay with the branches": (
        {"title": "T", "anyOf": [{"type": "string", "title": "S"}, {"type": "null"}]},
        {"anyOf": [{"type": "string", "title": "S"}, {"type": "null"}]},
    ),
    "keywords beside a union go into its branches": (
        {
            "type": "object",
            "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        },
        {
            "anyOf": [
                {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a"]},
                {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["b"]},
            ]
        },
    ),
    "objects that hold together are merged": (
        {
            "allOf": [
                {"type": "object", "properties": {"a": {"type": "number", "minimum": 0}}, "required": ["a"]},
                {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}, "b": {"type": "string"}}},
            ],
            "unevaluatedProperties": False,
        },
        {
            "type": "object",
            "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}, "b": {"type": "string"}},
            "required": ["a"],
            "additionalProperties": False,
        },
    ),
    "a closed part closes the whole": (
        {
            "allOf": [
                {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
                {"properties": {"b": {}}},
            ]
        },
        {
            "type": "object",
            "properties": {"a": ANY},
            "additionalProperties": False,
        },
    ),
    "the only part of all is the whole": (
        {"allOf": [{"type": "string", "description": "inner"}], "description": "outer", "default": "x"},
        {"description": "outer. inner", "default": "x", "type": "string"},
    ),
    "what has no type takes what its keywords are for": (
        {"properties": {"a": {"minLength": 1}, "b": {"items": {"minimum": 1}}, "c": {"title": "C"}, "d": True}},
        {
            "type": "object",
            "properties": {
                "a": {"type": "string", "minLength": 1},
                "b": {"type": "array", "items": {"type": "number", "minimum": 1}},
                "c": {**ANY, "title": "C"},
                "d": ANY,
            },
        },
    ),
    "a branch has the types of the whole": (
        {"type": ["string", "null"], "anyOf": [{"maxLength": 3}]},
        {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
    ),
    "what may not be given is not named": (
        {"type": "object", "properties": {"a": False, "b": {"type": "string"}}, "additionalProperties": False},
        {
            "type": "object",
            "properties": {"b": {"type": "string"}},
            "additionalProperties": False,
            "description": "It has no property a.",
        },
    ),
    "arrays that must be empty say so": ({"type": "array", "items": False}, {"type": "array", "maxItems": 0}),
    "what nothing fits keeps its type": (
        {"type": "string", "minLength": 2, "maxLength": 1},
        {"type": "string", "description": "No value fits here."},
    ),
    "required properties are named": (
        {"type": "object", "required": ["a"], "additionalProperties": {"type": "string"}},
        {
            "type": "object",
            "required": ["a"],
            "additionalProperties": {"type": "string"},
            "properties": {"a": {"type": "string"}},
        },
    ),
    "reserved names are allowed, but not named": (
        {
            "type": "object",
            "properties": {"$ref": {"type": "string"}, "a": {"type": "null"}},
            "required": ["$ref", "a"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"a": {"type": "null"}},
            "required": ["a"],
            "additionalProperties": {"type": "string"},
            "description": 'It may have a property "$ref".',
        },
    ),
    "patterns of names are allowed and told": (
        {"type": "object", "patternProperties": {"^S_": {"type": "string"}}, "additionalProperties": False},
        {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": 'Properties that match ^S_: {"type":"string"}.',
        },
    ),
    "definitions of draft 7 move": (
        {
            "type": "object",
            "properties": {"a": {"$ref": "#/definitions/A"}},
            "definitions": {"A": {"type": "string"}, "B": {}},
        },
        {"type": "object", "properties": {"a": ref("A")}, "$defs": {"A": {"type": "string"}}},
    ),
    "names with a slash are changed without a clash": (
        {
            "type": "object",
            "properties": {
                "a": {"$ref": "#/$defs/x~1y"},
                "b": ref("x_y"),
                "c": {"$ref": "#/$defs/p%25q"},
                "d": {"$ref": "#/$defs/t~0u"},
            },
            "$defs": {
                "x/y": {"type": "string"},
                "x_y": {"type": "null"},
                "p%q": {"type": "number"},
                "t~u": {"type": "array"},
            },
        },
        {
            "type": "object",
            "properties": {"a": ref("x_y_2"), "b": ref("x_y"), "c": ref("p_q"), "d": ref("t_u")},
            "$defs": {
                "x_y": {"type": "null"},
                "x_y_2": {"type": "string"},
                "p_q": {"type": "number"},
                "t_u": {"type": "array"},
            },
        },
    ),
    "a definition with slashes in names of properties stands where it is used": (
        {
            "type": "object",
            "properties": {"a": ref("A")},
            "$defs": {"A": {"type": "object", "properties": {"x/y": {"type": "string"}}}},
        },
        {"type": "object", "properties": {"a": {"type": "object", "properties": {"x/y": {"type": "string"}}}}},
    ),
    "any place can be referred to": (
        {"type": "object", "properties": {"a": {"type": "string", "format": "x"}, "b": {"$ref": "#/properties/a"}}},
        {
            "type": "object",
            "properties": {"a": {"type": "string", "description": "Format: x."}, "b": ref("a")},
            "$defs": {"a": {"type": "string", "description": "Format: x."}},
        },
    ),
    "places in lists can be referred to": (
        {"anyOf": [{"type": "object", "properties": {"a": {"$ref": "#/anyOf/1"}}}, {"type": "null"}]},
        {
            "anyOf": [{"type": "object", "properties": {"a": ref("1")}}, {"type": "null"}],
            "$defs": {"1": {"type": "null"}},
        },
    ),
    "anchors and ids are understood": (
        {
            "$id": "https://example.com/root",
            "type": "object",
            "properties": {
                "a": {"$ref": "#here"},
                "b": {"$ref": "item"},
                "c": {"$ref": "https://example.com/item#/$defs/deep"},
            },
            "$defs": {
                "A": {"$anchor": "here", "type": "string"},
                "B": {
                    "$id": "item",
                    "type": "object",
                    "properties": {"d": {"$ref": "#/$defs/deep"}},
                    "$defs": {"deep": {"type": "null"}},
                },
            },
        },
        {
            "$id": "https://example.com/root",
            "type": "object",
            "properties": {"a": ref("A"), "b": ref("B"), "c": ref("deep")},
            "$defs": {
                "A": {"type": "string"},
                "B": {"type": "object", "properties": {"d": ref("deep")}},
                "deep": {"type": "null"},
            },
        },
    ),
    "what cannot be found is widened and told": (
        {"type": "object", "properties": {"a": {"$ref": "https://example.com/other.json"}, "b": ref("Missing")}},
        {
            "type": "object",
            "properties": {
                "a": {**ANY, "description": "As described in https://example.com/other.json."},
                "b": {**ANY, "description": "As described in #/$defs/Missing."},
            },
        },
    ),
    "a text beside a reference stays, also when the target has one": (
        {
            "type": "object",
            "properties": {"a": {**ref("A"), "description": "mine"}, "b": {**ref("B"), "description": "mine"}},
            "$defs": {"A": {"type": "string", "description": "theirs"}, "B": {"const": 1}},
        },
        {
            "type": "object",
            "properties": {"a": {"description": "mine", "anyOf": [ref("A")]}, "b": {**ref("B"), "description": "mine"}},
            "$defs": {"A": {"type": "string", "description": "theirs"}, "B": {"type": "integer", "enum": [1]}},
        },
    ),
    "of two titles the one of the target stays": (
        {
            "type": "object",
            "properties": {"a": {**ref("A"), "title": "mine", "description": "mine"}, "b": {"const": 1}},
            "$defs": {"A": {"type": "string", "title": "theirs"}},
        },
        {
            "type": "object",
            "properties": {"a": {**ref("A"), "description": "mine"}, "b": {"type": "integer", "enum": [1]}},
            "$defs": {"A": {"type": "string", "title": "theirs"}},
        },
    ),
    "two recursions that hold together are not unrolled": (
        {
            "type": "object",
            "properties": {"a": {"allOf": [ref("A"), ref("B")]}},
            "$defs": {
                "A": {"type": "object", "properties": {"next": ref("A"), "a": {"type": "null"}}},
                "B": {"type": "object", "properties": {"next": ref("B"), "b": {"type": "null"}}},
            },
        },
        {
            "type": "object",
            "properties": {
                "a": {
                    "type": "object",
                    "properties": {"next": ref("A"), "a": {"type": "null"}, "b": {"type": "null"}},
                }
            },
            "$defs": {"A": {"type": "object", "properties": {"next": ref("A"), "a": {"type": "null"}}}},
        },
    ),
    "limits beside a reference are merged into what it refers to": (
        {
            "type": "object",
            "properties": {"a": {**ref("A"), "maxLength": 5}},
            "$defs": {"A": {"type": "string", "minLength": 1}},
        },
        {"type": "object", "properties": {"a": {"type": "string", "minLength": 1, "maxLength": 5}}},
    ),
    "in draft 7 nothing counts beside a reference": (
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {"a": {"$ref": "#/definitions/A", "maxLength": 5, "description": "d"}},
            "definitions": {"A": {"type": "string"}},
        },
        {
            "type": "object",
            "properties": {"a": {**ref("A"), "description": "d"}},
            "$defs": {"A": {"type": "string"}},
        },
    ),
    "the same type beside a reference changes nothing": (
        {
            "type": "object",
            "properties": {"a": {**ref("A"), "type": "object"}},
            "$defs": {"A": {"type": "object", "properties": {"x": {"const": 1}}}},
        },
        {
            "type": "object",
            "properties": {"a": ref("A")},
            "$defs": {"A": {"type": "object", "properties": {"x": {"type": "integer", "enum": [1]}}}},
        },
    ),
    "recursion stays where it can end": (
        {"type": "object", "properties": {"value": {"const": 1}, "next": {"$ref": "#"}}, "required": ["value"]},
        {
            "type": "object",
            "properties": {"value": {"type": "integer", "enum": [1]}, "next": {"$ref": "#"}},
            "required": ["value"],
        },
    ),
    "a required list of oneself may be empty": (
        {
            "type": "object",
            "properties": {"children": {"type": "array", "items": {"$ref": "#"}, "description": "D"}},
            "required": ["children"],
        },
        {
            "type": "object",
            "properties": {
                "children": {
                    "description": "D",
                    "anyOf": [{"type": "array", "items": {"$ref": "#"}}, {"type": "array", "maxItems": 0}],
                }
            },
            "required": ["children"],
        },
    ),
    "a recursion without end is cut where it closes": (
        {
            "type": "object",
            "properties": {"a": ref("A")},
            "required": ["a"],
            "$defs": {"A": {"type": "object", "properties": {"a": ref("A")}, "required": ["a"]}},
        },
        {
            "type": "object",
            "properties": {"a": ref("A")},
            "required": ["a"],
            "$defs": {"A": {"type": "object", "properties": {"a": {"type": "object"}}, "required": ["a"]}},
        },
    ),
    "a circle of references alone takes everything": (
        {
            "type": "object",
            "properties": {"a": ref("A"), "b": {"type": "array", "items": {"type": "array", "items": {"const": 1}}}},
            "$defs": {"A": ref("B"), "B": ref("A")},
        },
        {
            "type": "object",
            "properties": {
                "a": ANY,
                "b": {"type": "array", "items": {"type": "array", "items": {"type": "integer", "enum": [1]}}},
            },
        },
    ),
    "a recursive definition cannot name properties with a slash": (
        {
            "type": "object",
            "properties": {"a": ref("A")},
            "$defs": {
                "A": {
                    "type": "object",
                    "properties": {"x/y": {"type": "string"}, "next": {**ref("A"), "default": {"x/y": "a"}}},
                    "additionalProperties": False,
                    "default": {"x/y": "a"},
                }
            },
        },
        {
            "type": "object",
            "properties": {
                "a": {
                    "type": "object",
                    "properties": {
                        "x/y": {"type": "string"},
                        "next": {"description": 'Default: {"x/y":"a"}.', "anyOf": [ref("A")]},
                    },
                    "additionalProperties": False,
                    "default": {"x/y": "a"},
                }
            },
            "$defs": {
                "A": {
                    "type": "object",
                    "properties": {"next": {"description": 'Default: {"x/y":"a"}.', "anyOf": [ref("A")]}},
                    "additionalProperties": {"type": "string"},
                    "description": 'It may have a property "x/y". Default: {"x/y":"a"}.',
                }
            },
        },
    ),
    "a list of everything says nothing of its items": (
        {"type": "array", "items": {}, "$comment": "from pydantic"},
        {"type": "array"},
    ),
    "nonsense is passed over": (
        {"type": "object", "properties": {"a": {"type": "strange", "minLength": "x"}}, "required": "a", "title": 7},
        {"type": "object", "properties": {"a": {"type": "string"}}},
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_by_example(name: str):
    schema, wanted = EXAMPLES[name]
    result = to_mfjs(schema)
    assert result == wanted
    assert mfjs_errors(result) == []
    assert to_mfjs(result) == result


# ==== models ====

T = TypeVar("T")


class Colour(enum.Enum):
    """What it looks like."""

    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(gt=0, lt=10)]


class Dog(BaseModel):
    kind: Literal["dog"]
    barks: bool = True


class Tree(BaseModel):
    """A tree."""

    name: str
    parent: Optional["Tree"] = None
    children: list["Tree"]


class Forest(BaseModel):
    trees: list["Forest"]


class Page(BaseModel, Generic[T]):
    items: list[T]
    next: T | None = None


class Points(RootModel[list[tuple[float, float]]]):
    pass


class Everything(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind", description="The pet")]
    colour: Colour = Field(default=Colour.RED, description="Its colour")
    born: datetime.date | None = None
    seen: datetime.datetime
    key: uuid.UUID
    price: decimal.Decimal
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    size: Literal[1, 2, "large"] | None = None
    pair: tuple[int, str]
    tags: set[str] = set()
    scores: dict[str, int] = {}
    keyed: dict[Annotated[str, Field(pattern="^[a-z]+$")], Cat] = {}
    anything: Any = None
    tree: Tree
    page: Page[Cat]
    points: Points


MODELS = (Everything, Tree, Forest, Page[int], Points, Cat, RootModel[dict[str, Any]], RootModel[Cat | Dog | None])


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_the_schema_of_a_model_is_converted_whole(model: type[BaseModel]):
    schema = model.model_json_schema()
    result = to_mfjs(schema)
    assert mfjs_errors(result) == []
    assert to_mfjs(result) == result
    assert schema == model.model_json_schema()


def test_the_fields_of_a_model_keep_their_meaning():
    fields = to_mfjs(Everything.model_json_schema())["properties"]
    assert fields["pet"] == {"title": "Pet", "description": "The pet", "anyOf": [ref("Cat"), ref("Dog")]}
    assert fields["colour"] == {"description": 'Its colour. Default: "red".', "anyOf": [ref("Colour")]}
    assert fields["born"] == {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "title": "Born",
        "description": "Default: null.\n- string: Format: date.",
    }
    assert fields["key"] == {"type": "string", "title": "Key", "description": "Format: uuid."}
    assert fields["share"] == {
        "default": 0.5,
        "maximum": 1,
        "title": "Share",
        "type": "number",
        "minimum": 0,
        "description": "More than 0.",
    }
    assert fields["pair"]["items"] == {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    assert (fields["pair"]["minItems"], fields["pair"]["maxItems"]) == (2, 2)
    assert fields["scores"]["additionalProperties"] == {"type": "integer"}
    assert fields["anything"] == {**ANY, "title": "Anything", "description": "Default: null."}
    assert fields["tree"] == ref("Tree")


def test_the_definitions_of_a_model_keep_their_names_and_their_recursion():
    definitions = to_mfjs(Everything.model_json_schema())["$defs"]
    assert set(definitions) == {"Cat", "Colour", "Dog", "Page_Cat_", "Points", "Tree"}
    assert definitions["Cat"]["properties"]["kind"] == {"title": "Kind", "type": "string", "enum": ["cat"]}
    assert definitions["Cat"]["properties"]["lives"] == {
        "title": "Lives",
        "type": "integer",
        "minimum": 1,
        "maximum": 9,
    }
    assert definitions["Tree"]["properties"]["children"] == {"title": "Children", "type": "array", "items": ref("Tree")}
    assert definitions["Tree"]["required"] == ["name", "children"]
    tree = to_mfjs(Tree.model_json_schema())
    assert mfjs.resolve(tree, tree["$ref"])["properties"]["parent"]["anyOf"] == [ref("Tree"), {"type": "null"}]


def test_a_schema_of_an_mcp_server_keeps_what_the_model_has_to_know():
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "filter": {"oneOf": [{"$ref": "#/definitions/Equals"}, {"$ref": "#/definitions/Range"}]},
            "limit": {"type": "integer", "exclusiveMinimum": 0, "default": 10},
            "order": {"enum": ["asc", "desc", None]},
        },
        "required": ["filter"],
        "additionalProperties": False,
        "definitions": {
            "Equals": {
                "type": "object",
                "properties": {"op": {"const": "eq"}, "value": {}},
                "required": ["op", "value"],
            },
            "Range": {
                "type": "object",
                "properties": {
                    "op": {"const": "range"},
                    "between": {"items": [{"type": "number"}, {"type": "number"}]},
                },
                "required": ["op"],
            },
        },
    }
    assert to_mfjs(schema) == {
        "type": "object",
        "properties": {
            "filter": {"anyOf": [ref("Equals"), ref("Range")]},
            "limit": {"type": "integer", "default": 10, "minimum": 1},
            "order": {"type": ["string", "null"], "enum": ["asc", "desc", None]},
        },
        "required": ["filter"],
        "additionalProperties": False,
        "$defs": {
            "Equals": {
                "type": "object",
                "properties": {"op": {"type": "string", "enum": ["eq"]}, "value": ANY},
                "required": ["op", "value"],
            },
            "Range": {
                "type": "object",
                "properties": {"op": {"type": "string", "enum": ["range"]}, "between": {"type": "array"}},
                "required": ["op"],
            },
        },
    }


# ==== any input at all ====


def test_frozen_mappings_and_tuples_are_schemas_like_any_other():
    schema = {"type": "object", "properties": {"a": {"oneOf": [{"const": "x"}, {"type": ["null"]}]}}, "required": ["a"]}
    assert to_mfjs(freeze(schema)) == to_mfjs(MappingProxyType(schema)) == to_mfjs(schema)
    assert mfjs_errors(freeze(to_mfjs(schema))) == []


def test_a_second_call_gives_the_same_bytes():
    schema = Everything.model_json_schema()
    assert json.dumps(to_mfjs(schema)) == json.dumps(to_mfjs(copy.deepcopy(schema)))


@untraced
def test_references_that_double_at_every_level_do_not_blow_up():
    doubling = {
        f"D{n}": {
            "allOf": [
                ref(f"D{n + 1}"),
                {"type": "object", "properties": {"a": {"allOf": [ref(f"D{n + 1}"), {"minProperties": 1}]}}},
            ]
        }
        for n in range(30)
    }
    schema = {"type": "object", "properties": {"a": ref("D0")}, "$defs": {**doubling, "D30": {"type": "object"}}}
    started = time.perf_counter()
    assert mfjs_errors(to_mfjs(schema)) == []
    assert time.perf_counter() - started < 10


@untraced
def test_definitions_that_have_to_stand_where_they_are_used_do_not_blow_up():
    doubling = {
        f"D{n}": {"type": "object", "properties": {"x": ref(f"D{n + 1}"), "y": ref(f"D{n + 1}")}} for n in range(25)
    }
    last = {"type": "object", "properties": {"a/b": {"type": "string"}}}
    schema = {"type": "object", "properties": {"a": ref("D0")}, "$defs": {**doubling, "D25": last}}
    started = time.perf_counter()
    assert mfjs_errors(to_mfjs(schema)) == []
    assert time.perf_counter() - started < 5


@untraced
def test_unions_in_an_intersection_do_not_blow_up():
    unions = [
        {"anyOf": [{"type": "object", "properties": {f"{side}{n}": {"type": "null"}}} for n in range(500)]}
        for side in "ab"
    ]
    started = time.perf_counter()
    assert to_mfjs({"allOf": unions}) == unions[0]
    assert time.perf_counter() - started < 2


NAMES = st.sampled_from(["a", "b", "c", "x/y", "$ref", "required", "", "type", "~", "a%b"])
POINTERS = st.sampled_from(
    [
        "#",
        "#/",
        "#/$defs/a",
        "#/$defs/b",
        "#/$defs/c",
        "#/$defs/x~1y",
        "#/definitions/a",
        "#/definitions/b/properties/a",
        "#/properties/a",
        "#/properties/a/items",
        "#/anyOf/0",
        "#/allOf/1",
        "#/$defs/a~0b",
        "#a",
        "b",
        "item#/properties/a",
        "http://[",
        "https://example.com/x",
        "#/$defs/a%25b",
        "#/$defs/a/$defs/b",
        "%",
        "#/properties/~1",
    ]
)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([1.5, 1e300, float("inf"), float("nan"), 10**400]),
    st.text(max_size=3),
    st.lists(st.integers(0, 2), max_size=2),
    st.dictionaries(NAMES, st.integers(), max_size=2),
)
TYPE_NAMES = st.sampled_from(mfjs.TYPES)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 4),
        st.sampled_from([0.5, 1.0, 2.5]),
        st.sampled_from(["", "a", "abc"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=4,
)


def wild(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas with any keywords, and with nonsense in them now and then."""
    several, named = st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)
    numbers, counts = st.sampled_from([-1, 0, 1, 2.5, 7]), st.integers(-1, 4)
    known: dict[str, st.SearchStrategy[Any]] = {
        "type": TYPE_NAMES | st.lists(TYPE_NAMES, max_size=3),
        "properties": named,
        "required": st.lists(NAMES, max_size=3),
        "additionalProperties": inner,
        "patternProperties": named,
        "propertyNames": inner,
        "unevaluatedProperties": inner,
        "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, max_size=2), max_size=2),
        "dependencies": named,
        "minProperties": counts,
        "maxProperties": counts,
        "items": inner | several,
        "prefixItems": several,
        "additionalItems": inner,
        "unevaluatedItems": inner,
        "contains": inner,
        "minItems": counts,
        "maxItems": counts,
        "uniqueItems": st.booleans(),
        "minLength": counts,
        "maxLength": counts,
        "pattern": st.sampled_from(["^a", "("]),
        "format": st.just("date"),
        "minimum": numbers,
        "maximum": numbers,
        "exclusiveMinimum": numbers | st.booleans(),
        "exclusiveMaximum": numbers,
        "multipleOf": numbers,
        "enum": st.lists(VALUES, max_size=4),
        "const": VALUES,
        "default": VALUES,
        "allOf": several,
        "anyOf": several,
        "oneOf": several,
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
        "$ref": POINTERS,
        "$dynamicRef": POINTERS,
        "$defs": named,
        "definitions": named,
        "$anchor": NAMES,
        "$id": st.just("item"),
        "title": st.just("T"),
        "description": st.sampled_from(["", "D", "d " * 300]),
        "examples": st.lists(VALUES, max_size=2),
        "nullable": st.booleans(),
        "deprecated": st.booleans(),
        "discriminator": named,
        "$comment": st.just("c"),
        "$schema": st.sampled_from(["http://json-schema.org/draft-07/schema#", "x"]),
    }
    keywords = st.lists(st.sampled_from(sorted(known)), max_size=5, unique=True)
    return keywords.flatmap(
        lambda words: st.fixed_dictionaries({word: st.one_of(*[known[word]] * 9, JUNK) for word in words})
    )


WILD = wild(st.recursive(st.booleans() | st.just({}) | wild(st.booleans() | JUNK), wild, max_leaves=6))


def text_of(schema: Any) -> str:
    return repr(schema)


@settings(max_examples=RUNS, suppress_health_check=list(HealthCheck))
@given(WILD)
def test_any_schema_becomes_one_in_the_dialect_and_stays_it(schema: dict[str, Any]):
    before = text_of(schema)
    result = to_mfjs(schema)
    assert mfjs_errors(result) == []
    assert json.dumps(to_mfjs(result)) == json.dumps(result)
    assert json.dumps(to_mfjs(schema)) == json.dumps(result)
    assert text_of(schema) == before
    assert all({"type", "anyOf", "$ref"} & part.keys() for path, part in mfjs.whole(result) if path)


@settings(max_examples=RUNS, suppress_health_check=list(HealthCheck))
@given(WILD)
def test_only_what_is_too_large_has_to_be_cut(schema: dict[str, Any]):
    errors = mfjs_errors(Conversion(mfjs.plain(schema)).result())
    assert [error for error in errors if "bytes, more" not in error and "too deep" not in error] == []


def test_what_is_no_json_raises_nothing():
    strange: dict[Any, Any] = {1: 2, "properties": {3: {}, "a": {4: 5}}, "default": {6: 7}, "format": {8: 9}}
    result = to_mfjs(
        {**strange, "allOf": [{"$ref": "#/$defs/A"}, {"minProperties": 1}], "$defs": {"A": strange, 2: {}}}
    )
    assert list(result["properties"]) == ["a"]


@settings(max_examples=RUNS)
@given(VALUES | JUNK | WILD | st.dictionaries(st.sampled_from(sorted(mfjs.KEYWORDS)), VALUES | JUNK, max_size=4))
def test_the_check_never_raises(value: Any):
    assert all(error.startswith(("At the root: ", "At path '")) for error in mfjs_errors(value))


# ==== nothing that was taken is refused ====


class Undecided(Exception):
    """A schema refers in circles."""


def takes(schema: Any, value: Any, root: Any, fuel: int = 40) -> bool:
    """Whether a schema takes a value: an evaluator for the keywords that decide here, the rest being ignored."""
    if fuel == 0:
        raise Undecided
    if isinstance(schema, bool):
        return schema
    if schema.get("nullable") is True and value is None:
        return True
    return all(
        holds(schema, value, root, fuel - 1)
        for holds in (takes_type, takes_scalar, takes_array, takes_object, takes_parts)
    )


def has_type(value: Any, name: str) -> bool:
    kinds = {"string": str, "boolean": bool, "object": dict, "array": list, "null": type(None), "number": (int, float)}
    if name == "integer":
        return has_type(value, "number") and value == int(value)
    return isinstance(value, kinds[name]) and (name == "boolean" or not isinstance(value, bool))


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    return one == other


def takes_type(schema: Any, value: Any, root: Any, fuel: int) -> bool:
    stated = schema.get("type", [])
    names = [stated] if isinstance(stated, str) else stated
    values = schema.get("enum", [value])
    constants = [schema["const"]] if "const" in schema else [value]
    return (
        (not names or any(has_type(value, name) for name in names))
        and any(equal(value, item) for item in values)
        and equal(value, constants[0])
    )


def takes_scalar(schema: Any, value: Any, root: Any, fuel: int) -> bool:
    if isinstance(value, str):
        fits = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 99)
        return fits and bool(re.search(schema.get("pattern", ""), value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    above = schema.get("exclusiveMinimum", -99) < value < schema.get("exclusiveMaximum", 99)
    return above and schema.get("minimum", -99) <= value <= schema.get("maximum", 99)


def takes_array(schema: Any, value: Any, root: Any, fuel: int) -> bool:
    if not isinstance(value, list):
        return True
    first, rest = schema.get("prefixItems"), schema.get("items", True)
    if isinstance(rest, list):  # beside prefixItems, which is of a later draft, a list means nothing
        first, rest = (rest, schema.get("additionalItems", True)) if first is None else (first, True)
    first = first or []
    places = [first[index] if index < len(first) else rest for index in range(len(value))]
    fits = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 99)
    return fits and all(takes(place, item, root, fuel) for place, item in zip(places, value, strict=True))


def takes_object(schema: Any, value: Any, root: Any, fuel: int) -> bool:
    if not isinstance(value, dict):
        return True
    if not set(schema.get("required", [])) <= value.keys():
        return False
    for name, inner in value.items():
        applied = [schema["properties"][name]] if name in schema.get("properties", {}) else []
        applied += [rule for pattern, rule in schema.get("patternProperties", {}).items() if re.search(pattern, name)]
        if not all(takes(rule, inner, root, fuel) for rule in applied or [schema.get("additionalProperties", True)]):
            return False
    return schema.get("unevaluatedProperties") is not False or value.keys() <= evaluated(schema, value, root, fuel)


def evaluated(schema: Any, value: Any, root: Any, fuel: int) -> set[str]:
    """The properties of an object that some part of the schema speaks of."""
    if isinstance(schema, bool) or not takes(without_closing(schema), value, root, fuel):
        return set()
    if "additionalProperties" in schema:
        return set(value)
    names = set(schema.get("properties", {}))
    names |= {name for name in value for pattern in schema.get("patternProperties", {}) if re.search(pattern, name)}
    members = [member for word in ("allOf", "anyOf", "oneOf") for member in schema.get(word, [])]
    members += [pointed(root, schema["$ref"])] if "$ref" in schema else []
    return names.union(*(evaluated(member, value, root, fuel - 1) for member in members if fuel > 0))


def without_closing(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {word: rule for word, rule in schema.items() if word != "unevaluatedProperties"}


def takes_parts(schema: Any, value: Any, root: Any, fuel: int) -> bool:
    def verdicts(word: str) -> list[bool]:
        return [takes(member, value, root, fuel) for member in schema[word]]

    return (
        all(verdicts("allOf") if "allOf" in schema else [])
        and ("anyOf" not in schema or any(verdicts("anyOf")))
        and ("oneOf" not in schema or sum(verdicts("oneOf")) == 1)
        and ("not" not in schema or not takes(schema["not"], value, root, fuel))
        and ("$ref" not in schema or takes(pointed(root, schema["$ref"]), value, root, fuel))
    )


def pointed(root: Any, pointer: str) -> Any:
    for name in pointer.split("/")[1:]:
        root = root[name.replace("~1", "/").replace("~0", "~")]
    return root


PROPERTY_NAMES = st.sampled_from(["a", "b", "x/y", "$ref"])
TARGETS = st.sampled_from(["#/$defs/A", "#/$defs/B", "#/$defs/x~1y", "#"])
LIMITS = {"min": st.integers(0, 2), "max": st.integers(0, 3)}


def keywords_of(names: list[str], inner: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    """The keywords that say something of these types."""
    count, several = st.integers(0, 3), st.lists(inner, min_size=1, max_size=3)
    by_type: dict[str, dict[str, st.SearchStrategy[Any]]] = {
        "string": {"minLength": count, "maxLength": count, "pattern": st.sampled_from(["^a", "c$"])},
        "number": {
            word: st.sampled_from([0, 0.5, 1, 2])
            for word in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        },
        "array": {
            "items": inner | st.booleans() | several,
            "prefixItems": several,
            "additionalItems": inner | st.booleans(),
            "minItems": count,
            "maxItems": count,
        },
        "object": {
            "properties": st.dictionaries(PROPERTY_NAMES, inner | st.booleans(), max_size=3),
            "required": st.lists(PROPERTY_NAMES, max_size=2, unique=True),
            "additionalProperties": inner | st.booleans(),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "^b"]), inner, min_size=1, max_size=1),
            "unevaluatedProperties": st.just(False),
        },
    }
    by_type["integer"] = by_type["number"]
    return {word: rule for name in names for word, rule in by_type.get(name, {}).items()}


def typed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas that say their types, made of such schemas."""

    def of(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
        own = keywords_of(names, inner)
        part = inner | st.fixed_dictionaries({}, optional=own)  # beside a type a part may leave it out
        parts = st.lists(part, min_size=1, max_size=2)
        more: dict[str, st.SearchStrategy[Any]] = {
            "enum": st.lists(VALUES, min_size=1, max_size=4),
            "const": VALUES,
            "nullable": st.just(True),
            "not": inner,
            "allOf": parts,
            "anyOf": parts,
            "oneOf": parts,
            "$ref": TARGETS,
            "description": st.just("D"),
            "title": st.just("T"),
            "default": VALUES,
        }
        words = st.lists(st.sampled_from([*sorted(own) * 2, *more]), max_size=4, unique=True)
        stated = names[0] if len(names) == 1 else names
        return words.flatmap(
            lambda chosen: st.fixed_dictionaries({"type": st.just(stated), **{w: (own | more)[w] for w in chosen}})
        )

    return st.lists(TYPE_NAMES, min_size=1, max_size=3, unique=True).flatmap(of)


TYPED = st.recursive(
    TYPE_NAMES.map(lambda name: {"type": name}) | TARGETS.map(lambda target: {"$ref": target}), typed, max_leaves=8
)
DOCUMENTS = st.builds(
    lambda root, a, b, c: {**root, "$defs": {"A": a, "B": b, "x/y": c}}, typed(TYPED), TYPED, TYPED, TYPED
)
INSTANCES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    2,
    0.5,
    1.0,
    3,
    -1,
    "",
    "a",
    "abc",
    "ab",
    [],
    [1],
    [1, "a"],
    ["a", 1],
    [None, None, None],
    [[]],
    [True],
    ["abc", 2, {}],
    {},
    {"a": 1},
    {"a": "a"},
    {"a": None},
    {"b": 1},
    {"a": 1, "b": "a"},
    {"a": {}, "b": []},
    {"x/y": 1},
    {"$ref": "a"},
    {"$ref": None, "a": 1},
    {"a": {"a": {}}},
    {"a": {"b": 1}},
    {"a": [1], "x/y": "a"},
    {"c": 1},
    {"a": 1, "c": None},
    [{}],
    [{"a": 1}],
    {"a": 0.5},
    {"b": None},
    {"a": True, "b": True},
    {"a": "abc", "$ref": 1},
    [0.5, 2],
    {"a": {"a": {"a": 1}}},
]


def agrees(schema: Any, value: Any) -> bool | None:
    try:
        return takes(schema, value, schema)
    except Undecided:
        return None


@settings(max_examples=RUNS // 2, suppress_health_check=list(HealthCheck))
@given(DOCUMENTS, st.lists(VALUES, max_size=6))
def test_what_a_schema_takes_its_conversion_takes_too(schema: dict[str, Any], more: list[Any]):
    result = to_mfjs(schema)
    assert mfjs_errors(result) == []
    refused = [value for value in [*INSTANCES, *more] if agrees(schema, value) and agrees(result, value) is False]
    assert refused == [], json.dumps(result)


def property_of(name: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "null"}}, "required": [name]}


@pytest.mark.parametrize(
    ("parts", "value"),
    [
        ([{"$ref": "https://example.com/other.json"}], {"elsewhere": 1}),
        ([{"oneOf": [property_of(f"{side}{n}") for n in range(10)]} for side in "ab"], {"a0": None, "b9": None}),
        ([{"oneOf": [property_of(f"p{n}") for n in range(600)]}], {"p9": None}),
        ([ref("A"), {"allOf": [ref("A"), property_of("b")], "unevaluatedProperties": False}], {"a": None, "b": None}),
    ],
)
def test_what_is_too_much_to_merge_is_not_closed(parts: list[Any], value: Any):
    schema = {"type": "object", "allOf": parts, "unevaluatedProperties": False}
    result = to_mfjs({**schema, "$defs": {"A": {**property_of("a"), "allOf": [{"$ref": "#"}]}}})
    assert takes(result, value, result)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_refuse_nothing_either(name: str):
    schema, wanted = EXAMPLES[name]
    if "type" in schema and "nonsense" not in name and "draft" not in name and "anchors" not in name:
        known = [value for value in INSTANCES if agrees_or_none(schema, value)]
        assert [value for value in known if agrees_or_none(wanted, value) is False] == []


def agrees_or_none(schema: Any, value: Any) -> bool | None:
    try:
        return agrees(schema, value)
    except (KeyError, TypeError, IndexError):
        return None  # a reference that this evaluator does not follow


@settings(max_examples=RUNS // 3, suppress_health_check=list(HealthCheck))
@given(DOCUMENTS.map(to_mfjs), st.lists(VALUES, max_size=4))
def test_a_schema_in_the_dialect_means_the_same_when_it_is_converted_in_another_place(
    schema: dict[str, Any], more: list[Any]
):
    definitions = schema.pop("$defs", {})
    if '"#"' in json.dumps([schema, definitions]):
        return
    outer = {"type": "object", "properties": {"v": schema}, "not": {"const": 1}, "$defs": definitions}
    result = to_mfjs(outer)
    for value in [*INSTANCES, *more]:
        wanted = agrees({**schema, "$defs": definitions}, value)
        assert wanted is None or agrees(result, {"v": value}) == wanted
