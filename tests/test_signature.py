"""What a function takes, as the model reads it and as it is checked."""

from __future__ import annotations

import collections
import datetime
import enum
import functools
import inspect
import json
import re
import subprocess
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, Field, HttpUrl, RootModel
from typing_extensions import TypedDict

from kimi_agent.errors import FunctionSpecError, ToolArgumentsError
from kimi_agent.tools.param import AIParam
from kimi_agent.tools.signature import name_of, read_signature

if typing.TYPE_CHECKING:
    from fractions import Fraction


class Point(BaseModel):
    x: int
    y: int = 0


class Line(BaseModel):
    """Two points."""

    title: str
    start: Point
    end: Point


class Node(BaseModel):
    value: int
    children: list[Node] = []


class Left(BaseModel):
    right: Right | None = None


class Right(BaseModel):
    left: Left | None = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    bark: str


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Box:
    point: Point
    note: Annotated[str, AIParam("what is in it")] = ""
    tags: list[str] = field(default_factory=list)


class Movie(TypedDict):
    name: str
    year: NotRequired[int]


class Pair(NamedTuple):
    first: int
    second: str = "b"


def taking(hint: Any, **parameter: Any) -> Any:
    """A function with one parameter `x` of the type `hint`."""

    def function(x: Any) -> None: ...

    function.__signature__ = inspect.Signature(
        [inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation=hint, **parameter)]
    )
    return function


def schema_of(hint: Any) -> dict[str, Any]:
    return read_signature(taking(hint)).json_schema


def validated(hint: Any, value: Any) -> Any:
    return read_signature(taking(hint)).validate({"x": value})["x"]


def problems(function: Any, arguments: Any) -> list[str]:
    with pytest.raises(ToolArgumentsError) as caught:
        read_signature(function).validate(arguments)
    return str(caught.value).splitlines()


# ==== the schema ====


def test_an_ordinary_function_gives_properties_and_required_and_nothing_else():
    def weather(city: str, days: int = 3, unit: Literal["c", "f"] = "c") -> str: ...

    assert read_signature(weather).json_schema == {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "default": 3},
            "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
        },
        "required": ["city"],
    }


def test_a_function_without_parameters_takes_an_empty_object():
    def now() -> str: ...

    signature = read_signature(now)
    assert signature.json_schema == {"type": "object", "properties": {}}
    assert signature.validate({}) == {}


FAMILIES = [
    (str, "a", "a"),
    (int, 5, 5),
    (float, 2, 2.0),
    (bool, True, True),
    (None, None, None),
    (Any, {"a": [1]}, {"a": [1]}),
    (object, "o", "o"),
    (list, [1, "a"], [1, "a"]),
    (list[int], [1], [1]),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (tuple[int, str], [1, "a"], (1, "a")),
    (tuple[int, ...], [1, 2], (1, 2)),
    (set[int], [1, 1], {1}),
    (frozenset[str], ["a"], frozenset({"a"})),
    (Sequence[int], [1], [1]),
    (collections.deque[int], [1], collections.deque([1])),
    (int | None, None, None),
    (int | str, "a", "a"),
    (Literal["a", 1], 1, 1),
    (Colour, "red", Colour.RED),
    (Level, 2, Level.HIGH),
    (datetime.datetime, "2026-01-02T03:04:05Z", datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)),
    (datetime.date, "2026-01-02", datetime.date(2026, 1, 2)),
    (datetime.timedelta, "PT1M", datetime.timedelta(minutes=1)),
    (Decimal, "1.50", Decimal("1.50")),
    (UUID, "12345678123456781234567812345678", UUID("12345678123456781234567812345678")),
    (Path, "/tmp", Path("/tmp")),
    (bytes, "ab", b"ab"),
    (re.Pattern[str], "a+", re.compile("a+")),
    (HttpUrl, "http://a.example/", HttpUrl("http://a.example/")),
    (Point, {"x": 1}, Point(x=1)),
    (
        Line,
        {"title": "t", "start": {"x": 1}, "end": {"x": 2}},
        Line(title="t", start=Point(x=1), end=Point(x=2)),
    ),
    (Node, {"value": 1, "children": [{"value": 2}]}, Node(value=1, children=[Node(value=2)])),
    (Left, {"right": {"left": {}}}, Left(right=Right(left=Left()))),
    (RootModel[list[int]], [1], RootModel[list[int]]([1])),
    (Box, {"point": {"x": 1}}, Box(Point(x=1))),
    (Movie, {"name": "m"}, {"name": "m"}),
    (Pair, [1], Pair(1)),
    (Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": "dog", "bark": "w"}, Dog(kind="dog", bark="w")),
    (list[Cat | Dog], [{"kind": "cat", "lives": 9}], [Cat(kind="cat", lives=9)]),
    (Annotated[int, Field(ge=1)], 1, 1),
    (Annotated[str, BeforeValidator(str.strip)], " a ", "a"),
]


@pytest.mark.parametrize(("hint", "sent", "expected"), FAMILIES, ids=lambda value: str(value)[:40])
def test_every_type_that_pydantic_describes_is_described_and_accepted(hint: Any, sent: Any, expected: Any):
    signature = read_signature(taking(hint))
    json.dumps(signature.json_schema, allow_nan=False)
    assert signature.json_schema["required"] == ["x"]
    assert signature.validate({"x": sent}) == {"x": expected}


def test_models_inside_models_keep_their_definitions():
    assert schema_of(Line) == {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/Line"}},
        "required": ["x"],
        "$defs": {
            "Line": {
                "description": "Two points.",
                "type": "object",
                "properties": {
                    "title": {"type": "string"},
                    "start": {"$ref": "#/$defs/Point"},
                    "end": {"$ref": "#/$defs/Point"},
                },
                "required": ["title", "start", "end"],
            },
            "Point": {
                "type": "object",
                "properties": {"x": {"type": "integer"}, "y": {"type": "integer", "default": 0}},
                "required": ["x"],
            },
        },
    }


@pytest.mark.parametrize("hint", [Node, Left, list[Line], dict[str, Node | None]])
def test_every_reference_of_a_schema_has_its_definition(hint: Any):
    schema = schema_of(hint)
    references = set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(schema)))
    assert references
    assert references == set(schema["$defs"])


@pytest.mark.parametrize("hint", [Point, Line, Box, Movie, Pair, Colour, Level, Node, list[Colour]])
def test_titles_that_nobody_wrote_are_left_out(hint: Any):
    def titles(schema: Any) -> list[str]:
        if isinstance(schema, list):
            return [title for item in schema for title in titles(item)]
        if not isinstance(schema, dict):
            return []
        own = [schema["title"]] if isinstance(schema.get("title"), str) else []
        return own + [title for item in schema.values() for title in titles(item)]

    assert titles(schema_of(hint)) == []


def test_a_property_named_title_and_a_title_that_somebody_wrote_stay():
    def function(title: str, a: Annotated[int, AIParam("d", title="Mine")], b: Annotated[int, Field(title="B!")]): ...

    properties = read_signature(function).json_schema["properties"]
    assert properties["title"] == {"type": "string"}
    assert (properties["a"]["title"], properties["b"]["title"]) == ("Mine", "B!")


def test_constraints_and_descriptions_of_fields_are_in_the_schema():
    hint = Annotated[int, Field(ge=0, le=9, description="a digit")]
    assert schema_of(hint)["properties"]["x"] == {
        "type": "integer",
        "minimum": 0,
        "maximum": 9,
        "description": "a digit",
    }
    assert "must be less than or equal to 9" in problems(taking(hint), {"x": 10})[0]


def test_parameter_texts_inside_dataclasses_are_read_too():
    assert schema_of(Box)["$defs"]["Box"]["properties"]["note"]["description"] == "what is in it"


def test_a_field_may_give_the_default_in_the_annotation_or_in_place_of_the_default():
    def function(a: Annotated[int, Field(default=3)], b: int = Field(default=4, description="b"), c: int = Field(ge=1)):
        pass

    signature = read_signature(function)
    assert signature.json_schema["required"] == ["c"]
    assert signature.json_schema["properties"]["b"] == {"type": "integer", "default": 4, "description": "b"}
    assert signature.validate({"c": 1}) == {"a": 3, "b": 4, "c": 1}


def test_an_alias_is_the_name_for_the_model():
    def function(from_: Annotated[str, Field(alias="from")]): ...

    signature = read_signature(function)
    assert list(signature.json_schema["properties"]) == ["from"]
    assert signature.validate({"from": "here"}) == {"from_": "here"}
    assert problems(function, {}) == ["from: missing"]


class Unspeakable:
    def __repr__(self) -> str:
        return "Unspeakable()"


@pytest.mark.parametrize(
    ("default", "emitted"),
    [
        (Colour.RED, "red"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (Point(x=1), {"x": 1, "y": 0}),
        ({1, 2}, [1, 2]),
        (None, None),
    ],
)
def test_defaults_are_emitted_as_json(default: Any, emitted: Any):
    signature = read_signature(taking(Any, default=default))
    assert signature.json_schema["properties"]["x"]["default"] == emitted
    assert signature.validate({}) == {"x": default}


@pytest.mark.parametrize("default", [Unspeakable(), float("nan"), float("inf"), "\ud800"])
def test_defaults_that_json_does_not_have_are_left_out_and_still_used(default: Any):
    signature = read_signature(taking(Any, default=default))
    assert "default" not in signature.json_schema["properties"]["x"]
    assert repr(signature.validate({})["x"]) == repr(default)


def test_a_mutable_default_is_not_shared_between_calls():
    def function(items: list[int] = []): ...  # noqa: B006

    signature = read_signature(function)
    signature.validate({})["items"].append(1)
    assert signature.validate({}) == {"items": []}


AWKWARD = ("_x", "__y", "model_config", "schema", "json", "copy", "validate", "self", "cls", "args", "title", "type")


def test_any_parameter_name_works():
    namespace: dict[str, Any] = {}
    exec(f"def function(first, {', '.join(f'{name}: int' for name in AWKWARD)}): ...", namespace)
    bound = namespace["function"].__get__(object())
    arguments = dict.fromkeys(AWKWARD, 1)
    signature = read_signature(bound)
    assert signature.json_schema["required"] == list(AWKWARD)
    assert signature.validate(arguments) == arguments


def test_a_given_schema_is_used_as_it_is_and_arguments_are_checked_against_the_types():
    def function(x: int): ...

    given = {"type": "object", "properties": {"x": {"description": "anything"}}}
    signature = read_signature(function, json_schema=given)
    assert signature.json_schema == given
    assert signature.validate({"x": "5"}) == {"x": 5}
    with pytest.raises(ToolArgumentsError):
        signature.validate({"x": "five"})


def test_a_given_schema_describes_what_has_no_schema_of_its_own():
    def function(x: typing.Callable[[], int]): ...

    with pytest.raises(FunctionSpecError, match="'x'"):
        read_signature(function)
    assert read_signature(function, json_schema={"type": "object"}).validate({"x": int}) == {"x": int}


def test_what_a_partial_fixes_is_not_for_the_model():
    def query(database: Unspeakable, limit: int, table: str, dry: bool = True): ...

    signature = read_signature(functools.partial(functools.partial(query, Unspeakable(), limit=3), dry=False))
    assert signature.json_schema["properties"] == {"table": {"type": "string"}}
    assert problems(functools.partial(query, Unspeakable(), limit=3), {"table": "t", "limit": 4})[0].startswith("limit")


def test_annotations_are_resolved_in_the_closure():
    class Local(BaseModel):
        a: int

    def function(local: list[Local]):
        return Local  # the annotation is a string, and alone does not close over the name

    assert read_signature(function).validate({"local": [{"a": 1}]}) == {"local": [Local(a=1)]}


def test_annotations_are_resolved_in_the_body_of_the_class_after_everything_else():
    class Owner:
        class Inside(BaseModel):
            b: int

        list = None

        def method(self, inside: Inside, numbers: list[int]): ...

    expected = {"inside": Owner.Inside(b=1), "numbers": [1]}
    assert read_signature(Owner().method).validate({"inside": {"b": 1}, "numbers": [1]}) == expected


def test_a_name_that_is_not_bound_yet_does_not_hide_the_others():
    def outer() -> Any:
        def function(x: Point):
            return later

        signature = read_signature(function)
        later = 1
        return signature

    assert outer().validate({"x": {"x": 1}}) == {"x": Point(x=1)}


def test_the_return_type_needs_no_meaning():
    def function(x: int) -> Fraction: ...

    assert read_signature(function).validate({"x": 1}) == {"x": 1}


# ==== functions that cannot be described ====


def test_a_parameter_without_a_type_is_refused():
    def function(a: int, b): ...

    with pytest.raises(FunctionSpecError, match=r"function: parameter 'b' has no type; annotate it"):
        read_signature(function)


def test_parameters_that_have_no_name_for_the_model_are_refused():
    def positional(a: int, /): ...
    def several(*numbers: int): ...
    def anything(**options: int): ...

    for function, name in ((positional, "'a'"), (several, r"'\*numbers'"), (anything, r"'\*\*options'")):
        with pytest.raises(FunctionSpecError, match=f"{function.__name__}: parameter {name} "):
            read_signature(function)


def test_a_type_that_is_only_imported_for_type_checking_is_refused():
    def function(x: Fraction): ...

    with pytest.raises(FunctionSpecError, match=r"parameter 'x' cannot be resolved .*Fraction.*TYPE_CHECKING"):
        read_signature(function)


@pytest.mark.parametrize("hint", [Unspeakable, typing.Callable[[int], int], "1 +", 5])
def test_a_type_that_cannot_be_described_is_refused_by_the_name_of_its_parameter(hint: Any):
    def function(fine: int, x: Any): ...

    function.__annotations__["x"] = hint
    with pytest.raises(FunctionSpecError, match="function: the type of parameter 'x' cannot be") as caught:
        read_signature(function)
    assert "errors.pydantic.dev" not in str(caught.value)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pydantic takes the TypedDict of typing from Python 3.12 on")
def test_the_typed_dict_of_old_pythons_is_refused_and_the_error_says_which_one_to_use():
    old = typing.TypedDict("old", {"a": int})  # noqa: UP013
    with pytest.raises(FunctionSpecError, match=r"'x'.*typing_extensions\.TypedDict"):
        schema_of(old)


def test_generators_are_refused():
    def numbers() -> Any:
        yield 1

    async def later() -> Any:
        yield 1

    class Stream:
        def __call__(self) -> Any:
            yield 1

    for function in (numbers, later, functools.partial(numbers), Stream()):
        with pytest.raises(FunctionSpecError, match="is a generator"):
            read_signature(function)


@pytest.mark.parametrize("thing", [5, Point, "text"])
def test_what_is_no_function_is_refused(thing: Any):
    with pytest.raises(FunctionSpecError, match="is no function"):
        read_signature(thing)


def test_a_method_without_self_is_refused():
    class Owner:
        def method(): ...

    with pytest.raises(FunctionSpecError, match="method: its parameters cannot be read"):
        read_signature(Owner().method)


# ==== descriptions ====

GOOGLE = """Get the weather.

Of a place.

Args:
    city (str): The city,
        in English.
    days: How many.

Returns:
    A text.
"""
GOOGLE_GLUED = """Get the weather.

Of a place.
Args:
    city: The city,
        in English.
    days: How many.
"""
NUMPY = """Get the weather.

Of a place.

Parameters
----------
city : str
    The city,
    in English.
days : int, optional
    How many.

Returns
-------
str
    A text.
"""
REST = """Get the weather.

Of a place.

:param city: The city,
    in English.
:param int days: How many.
:returns: A text.
"""


@pytest.mark.parametrize("text", [GOOGLE, GOOGLE_GLUED, NUMPY, REST], ids=["google", "glued", "numpy", "rest"])
def test_a_docstring_gives_the_description_and_the_texts_of_the_parameters(text: str):
    def function(city: str, days: int = 1): ...

    function.__doc__ = text.replace("\n", "\n    ")  # as it stands in a source file
    signature = read_signature(function)
    assert signature.description == "Get the weather.\n\nOf a place."
    texts = {name: item["description"] for name, item in signature.json_schema["properties"].items()}
    assert texts == {"city": "The city, in English.", "days": "How many."}


def test_numpy_may_describe_two_parameters_at_once():
    def function(a: int, b: int):
        """Add.

        Parameters
        ----------
        a, b : int
            A summand.
        """

    properties = read_signature(function).json_schema["properties"]
    assert properties["a"]["description"] == properties["b"]["description"] == "A summand."


@pytest.mark.parametrize("text", [None, "", "One line: with a colon.", "First.\n\nNote: a colon\n  and more."])
def test_a_docstring_without_sections_is_the_description(text: str | None):
    def function(a: int): ...

    function.__doc__ = text
    signature = read_signature(function)
    assert signature.description == (text or "")
    assert "description" not in signature.json_schema["properties"]["a"]


@given(st.text())
def test_no_docstring_breaks_a_function(text: str):
    def function(a: int): ...

    function.__doc__ = text
    assert isinstance(read_signature(function).description, str)


def test_the_text_in_the_annotation_wins_over_the_field_and_the_field_over_the_docstring():
    def function(
        a: Annotated[int, Field(description="field"), AIParam("param")],
        b: Annotated[int, AIParam("param"), Field(description="field")],
        c: Annotated[int, Field(description="field")],
        d: int,
        e: Annotated[Point, AIParam("param")],
    ):
        """Do.

        Args:
            a: doc
            b: doc
            c: doc
            d: doc
            e: doc
        """

    properties = read_signature(function).json_schema["properties"]
    assert [properties[name]["description"] for name in "abcde"] == ["param", "param", "field", "doc", "param"]


def test_a_callable_object_is_named_by_its_class_and_described_by_its_call():
    class Finder:
        """Finds things."""

        def __call__(self, what: str) -> str:
            """Find a thing."""
            return what

    class Quiet:
        """Says nothing."""

        def __call__(self) -> None: ...

    assert (name_of(Finder()), read_signature(Finder()).description) == ("Finder", "Find a thing.")
    assert read_signature(Quiet()).description == "Says nothing."


def test_the_docstring_parser_is_loaded_only_when_a_docstring_may_have_sections():
    program = """if True:
        import sys
        from kimi_agent.tools.signature import read_signature
        def short(a: int):
            "One line."
        def long(a: int):
            '''Two.

            Args:
                a: it
            '''
        read_signature(short)
        before = "docstring_parser" in sys.modules
        read_signature(long)
        print(before, "docstring_parser" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


# ==== arguments ====

COERCIONS = [
    (int, "5", 5),
    (int, 5.0, 5),
    (int, True, 1),
    (bool, "yes", True),
    (list[int], ["1"], [1]),
    (Colour, "red", Colour.RED),
    (Point, {"x": 1}, Point(x=1)),
    (list[int], "[1]", [1]),
    (Point, '{"x": 1}', Point(x=1)),
]
REFUSALS = [(int, 5.5), (str, 5), (Colour, "RED"), (Point, "x"), (list[int], '"[1]"'), (list[int], "1")]


@pytest.mark.parametrize(("hint", "sent", "expected"), COERCIONS, ids=str)
def test_arguments_are_coerced_where_nothing_is_lost(hint: Any, sent: Any, expected: Any):
    assert validated(hint, sent) == expected
    assert type(validated(hint, sent)) is type(expected)


@pytest.mark.parametrize(("hint", "sent"), REFUSALS, ids=str)
def test_arguments_that_do_not_fit_are_refused(hint: Any, sent: Any):
    assert problems(taking(hint), {"x": sent})[0].startswith("x: ")


CONTAINERS = [
    (list[int], [1]),
    (dict[str, int], {"a": 1}),
    (tuple[int, str], [1, "a"]),
    (set[int], [1]),
    (frozenset[int], [1]),
    (Sequence[int], [1]),
    (collections.deque[int], [1]),
    (Point, {"x": 1}),
    (Box, {"point": {"x": 1}}),
    (Movie, {"name": "m"}),
    (Pair, [1, "a"]),
    (list[int] | None, [1]),
    (int | list[int], [1]),
    (Cat | Dog, {"kind": "cat", "lives": 1}),
    (Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": "cat", "lives": 1}),
    (RootModel[list[int]], [1]),
]


@pytest.mark.parametrize(("hint", "value"), CONTAINERS, ids=lambda value: str(value)[:40])
def test_a_string_that_holds_the_wanted_container_is_decoded(hint: Any, value: Any):
    assert validated(hint, json.dumps(value)) == validated(hint, value)


def test_strings_in_fields_and_inside_decoded_strings_are_decoded_too():
    expected = Node(value=1, children=[Node(value=2)])
    assert validated(Node, {"value": 1, "children": '[{"value": 2}]'}) == expected
    assert validated(list[Node], [{"value": 1, "children": ['{"value": 2}']}]) == [expected]
    assert validated(Node, json.dumps({"value": 1, "children": '[{"value": 2, "children": "[]"}]'})) == expected


@pytest.mark.parametrize("hint", [str, str | None, str | list[int], list[int] | str, Any, Literal["[1]"]])
def test_a_string_is_never_decoded_where_a_string_is_accepted(hint: Any):
    assert validated(hint, "[1]") == "[1]"


def test_decoding_leaves_the_given_arguments_alone():
    given = {"x": {"value": 1, "children": '[{"value": 2}]'}}
    before = json.dumps(given)
    read_signature(taking(Node)).validate(given)
    assert json.dumps(given) == before


def test_missing_and_unexpected_arguments_are_named():
    def function(city: str, days: int): ...

    assert problems(function, {"citty": "Oslo"}) == [
        "city: missing",
        "days: missing",
        "citty: unexpected; the parameters are: city, days",
    ]


def test_a_problem_is_one_line_with_the_path_what_was_expected_and_what_came():
    def function(lines: list[Line], unit: Literal["c", "f"] = "c"): ...

    given = {"lines": [{"title": "t", "start": {"x": "one"}, "end": {}}], "unit": "kelvin" * 50}
    assert problems(function, given) == [
        'lines[0].start.x: must be a valid integer, unable to parse string as an integer; got "one"',
        "lines[0].end.x: missing",
        f"unit: must be 'c' or 'f'; got \"{('kelvin' * 50)[:56]}...",
    ]


def test_the_path_in_a_decoded_string_is_named():
    assert problems(taking(Point), {"x": '{"x": "a"}'})[0].startswith("x.x: must be a valid integer")


def test_the_members_of_a_union_are_not_part_of_the_path():
    lines = problems(taking(Cat | Dog), {"x": {"kind": "cat"}})
    assert {line.partition(":")[0] for line in lines} == {"x.lives", "x.kind", "x.bark"}


def test_words_of_a_validator_reach_the_model_without_ornament():
    def even(value: int) -> int:
        if value % 2:
            raise ValueError("take an even\nnumber")
        return value

    assert problems(taking(Annotated[int, BeforeValidator(even)]), {"x": 1}) == ["x: take an even number; got 1"]


def test_many_problems_are_counted():
    lines = problems(taking(list[int]), {"x": ["a"] * 100})
    assert len(lines) == 21
    assert lines[-1] == "and 80 more problems"


@pytest.mark.parametrize("arguments", [None, [], "text", 5])
def test_arguments_that_are_no_object_are_refused(arguments: Any):
    assert "arguments: " in problems(taking(int), arguments)[0]


def test_whether_the_model_may_try_again_is_the_callers_word():
    with pytest.raises(ToolArgumentsError) as caught:
        read_signature(taking(int)).validate({}, retry=False)
    assert caught.value.retry is False


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def _any_of_them(line: Line, node: list[Node] | None = None, pet: Cat | Dog | None = None, n: int = 0) -> None: ...


ANY_OF_THEM = read_signature(_any_of_them)
NAMES = st.sampled_from(["line", "node", "pet", "n", "other"])


@given(st.dictionaries(NAMES, JSON_VALUES | JSON_VALUES.map(json.dumps)))
def test_whatever_the_model_sends_is_accepted_or_refused_in_words(arguments: dict[str, Any]):
    try:
        answer = ", ".join(ANY_OF_THEM.validate(arguments))
    except ToolArgumentsError as error:
        answer = str(error)
    assert answer
    assert "errors.pydantic.dev" not in answer
    assert "input_type" not in answer
