"""Functions that the model may call: how they are declared, found on an instance, and run."""

import asyncio
import enum
import functools
import gc
import json
import threading
import time
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from naming import without_address
from pydantic import BaseModel, BeforeValidator, Field

from kimi_agent.errors import FunctionSpecError, ModelRetry, ToolArgumentsError, WrappedCallException
from kimi_agent.message import ImageURLPart, Message, TextPart
from kimi_agent.tools.base import Tool, ToolMessage
from kimi_agent.tools.function import AIFunction, AIParam, ai_function, functions_of
from kimi_agent.tools.texts import ToolTexts

PICTURE = ImageURLPart.model_validate({"image_url": {"url": "ms://1"}})


class Node(BaseModel):
    value: int
    children: list["Node"] = []


class Inner(BaseModel):
    a: int


class Outer(BaseModel):
    inner: Inner


def add(a: int, b: Annotated[int, AIParam("the second")] = 1) -> int:
    """Add two numbers."""
    return a + b


async def add_later(a: int, b: int = 1) -> int:
    """Add two numbers."""
    await asyncio.sleep(0)
    return a + b


class Adder:
    """Adds."""

    def __init__(self, to: int = 0) -> None:
        self.to = to

    def method(self, a: int) -> int:
        """Add to it."""
        return self.to + a

    async def __call__(self, a: int) -> int:
        return self.to + a


def raising(error: BaseException) -> AIFunction:
    async def function() -> None:
        raise error

    return AIFunction(function)


def returning(make: Callable[[], Any], **options: Any) -> AIFunction:
    async def function() -> Any:
        return make()

    return AIFunction(function, **options)


# ==== declared ====


def test_a_function_tells_what_it_is():
    function = AIFunction(add, after="user", auto_retry=False, auto_truncate=9, enabled=False)
    assert (function.name, function.desc, function.after) == ("add", "Add two numbers.", "user")
    assert (function.auto_retry, function.auto_truncate, function.enabled) == (False, 9, False)
    assert (function.inner, function.in_thread) == (add, True)
    assert function.json_schema == {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "integer", "default": 1, "description": "the second"},
        },
        "required": ["a"],
    }
    assert repr(function) == "AIFunction('add', add)"


def test_its_definition_is_one_object_and_its_schema_a_copy():
    function = AIFunction(add, name="plus", desc="Adds.")
    assert function.base is function.base
    assert function.base == Tool(name="plus", description="Adds.", parameters=function.json_schema)
    function.json_schema["properties"].clear()
    assert "a" in function.json_schema["properties"]


def test_only_enabled_can_be_changed():
    function = AIFunction(add)
    function.enabled = False
    assert not function.enabled
    for name in ("name", "desc", "after", "auto_retry", "auto_truncate", "base", "inner", "json_schema"):
        with pytest.raises(AttributeError):
            setattr(function, name, None)


@pytest.mark.parametrize(
    ("inner", "name", "desc", "in_thread"),
    [
        (add, "add", "Add two numbers.", True),
        (add_later, "add_later", "Add two numbers.", False),
        (functools.partial(add, b=1), "add", "Add two numbers.", True),
        (functools.partial(add_later, b=1), "add_later", "Add two numbers.", False),
        (Adder(1).method, "method", "Add to it.", True),
        (functools.partial(Adder(1).method), "method", "Add to it.", True),
        (Adder(1), "Adder", "Adds.", False),
        (functools.lru_cache(add), "add", "Add two numbers.", True),
    ],
    ids=without_address,
)
async def test_any_callable_becomes_a_function(inner: Any, name: str, desc: str, in_thread: bool):
    function = AIFunction(inner)
    assert (function.name, function.desc, function.in_thread) == (name, desc, in_thread)
    assert (await function.call({"a": "41"})).output == "42"


def test_no_description_is_fine():
    def quiet() -> None: ...

    assert AIFunction(quiet).desc == ""
    assert AIFunction(add, desc="").desc == ""


@pytest.mark.parametrize("name", ["add", "___", "get-weather", "A1_-", "x" * 64])
def test_names_that_kimi_accepts(name: str):
    assert AIFunction(add, name=name).name == name


@pytest.mark.parametrize("name", ["1abc", "-abc", "a b", "a.b", "ls", "x" * 65, "wetter_für", "abc\n"])
def test_names_that_kimi_refuses_are_an_error(name: str):
    with pytest.raises(FunctionSpecError, match="add: Kimi refuses the function name"):
        AIFunction(add, name=name)


class Who(enum.StrEnum):
    USER = "user"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"after": "model"}, "after is 'assistant' or 'user'; not 'model'"),
        ({"after": "User"}, "after is 'assistant' or 'user'; not 'User'"),
        ({"after": None}, "after is 'assistant' or 'user'; not None"),
        ({"name": 5}, "name is text, or None; not 5"),
        ({"desc": 5}, "desc is text, or None; not 5"),
        ({"json_schema": "{}"}, "json_schema is a mapping, or None; not '{}'"),
        ({"auto_truncate": "9"}, "auto_truncate is a number of characters, or None; not '9'"),
        ({"timeout": "9"}, "timeout is more than 0 seconds, or None; not '9'"),
        ({"approval": "yes"}, "approval is true, false, or a function of the arguments; not 'yes'"),
        ({"fatal": KeyError}, "fatal is a tuple of classes of exceptions; not <class 'KeyError'>"),
    ],
)
def test_an_option_of_another_kind_is_named_where_it_is_said(options: dict[str, Any], complaint: str):
    for say in (lambda: AIFunction(add, **options), lambda: ai_function(**options)):
        with pytest.raises(FunctionSpecError) as caught:
            say()
        assert str(caught.value) == complaint


def test_who_speaks_next_may_be_a_member_of_an_enum_of_texts():
    assert AIFunction(add, after=Who.USER).after == "user"


def test_a_lambda_needs_a_name():
    with pytest.raises(FunctionSpecError, match="pass name="):
        AIFunction(lambda: 1)
    assert AIFunction(lambda: 1, name="one").name == "one"


async def test_a_given_schema_is_used_as_it_is():
    given = {"type": "object", "properties": {"a": {"title": "any", "enum": [1, 2]}}}
    function = AIFunction(add, json_schema=given)
    assert function.json_schema == given
    assert (await function.call({"a": "2"})).output == "3"
    assert (await function.call({"a": "two"})).is_error


async def test_models_inside_models_and_recursive_models_work_as_parameters():
    def count(node: Node, outer: Outer) -> int:
        return len(node.children) + outer.inner.a

    function = AIFunction(count)
    assert set(function.json_schema["$defs"]) == {"Node", "Outer", "Inner"}
    arguments = {"node": {"value": 1, "children": [{"value": 2}]}, "outer": {"inner": {"a": 41}}}
    assert (await function.call(arguments)).output == "42"


# ==== found on an instance ====


class Base:
    executed = 0

    def __init__(self, name: str = "base") -> None:
        self.name = name

    @property
    def dangerous(self) -> int:
        type(self).executed += 1
        raise AssertionError("a property was executed")

    @functools.cached_property
    def cached(self) -> int:
        raise AssertionError("a cached property was executed")

    def undecorated(self) -> int:
        return 0

    @ai_function
    def zebra(self, a: int = 0) -> str:
        """Zebra of the base."""
        return f"{self.name} zebra {a}"

    @ai_function(name="renamed", enabled=False, after="user")
    async def monkey(self) -> str:
        return f"{self.name} monkey"

    @ai_function()
    @staticmethod
    def above_static(a: int) -> int:
        return a

    @staticmethod
    @ai_function
    def below_static(a: int) -> int:
        return a

    @ai_function()
    @classmethod
    def above_class(cls) -> str:
        return cls.__name__

    @classmethod
    @ai_function
    def below_class(cls) -> str:
        return cls.__name__


class Mixin:
    @ai_function
    def mixed(self) -> str:
        return "mixed"


class Child(Mixin, Base):
    @ai_function
    def apple(self) -> str:
        return "apple"

    @ai_function(desc="Zebra of the child.")
    def zebra(self, b: str) -> str:
        return f"child {super().zebra()} {b}"

    def below_static(self) -> int:
        return 1


async def test_methods_come_in_the_order_of_definition_and_bound():
    functions = functions_of(Base("my"))
    assert list(functions) == ["zebra", "renamed", "above_static", "below_static", "above_class", "below_class"]
    assert all(function.name == name for name, function in functions.items())
    outputs = [
        (await functions[name].call(arguments)).output
        for name, arguments in [
            ("zebra", {"a": 2}),
            ("renamed", {}),
            ("above_static", {"a": 3}),
            ("below_static", {"a": 4}),
            ("above_class", {}),
            ("below_class", {}),
        ]
    ]
    assert outputs == ["my zebra 2", "my monkey", "3", "4", "Base", "Base"]
    assert (functions["renamed"].enabled, functions["renamed"].after) == (False, "user")


async def test_an_override_keeps_its_place_and_an_undecorated_one_takes_the_function_away():
    functions = functions_of(Child())
    assert list(functions) == ["zebra", "renamed", "above_static", "above_class", "below_class", "mixed", "apple"]
    assert functions["zebra"].desc == "Zebra of the child."
    assert (await functions["zebra"].call({"b": "x"})).output == "child base zebra 0 x"
    assert (await functions["below_class"].call({})).output == "Child"
    assert list(functions_of(Base()))[3] == "below_static"


def test_nothing_of_the_owner_is_executed():
    class Trap(Base):
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"{name} was read")

    assert len(functions_of(Trap())) == 6
    assert Trap.executed == 0


def test_a_class_without_functions_has_none():
    assert functions_of(Adder()) == functions_of(object()) == functions_of(5) == {}


def test_the_decorator_returns_the_function_itself():
    def function(self: Any, a: int) -> int:
        return a

    assert ai_function(function) is function
    assert ai_function(name="x")(function) is function
    static = staticmethod(function)
    assert ai_function(static) is static
    assert function(None, 5) == 5


def test_a_decorator_above_is_what_runs():
    def twice(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> int:
            return 2 * function(*args, **kwargs)

        return wrapper

    class Owner:
        @ai_function
        def one(self, a: int) -> int:
            return a

        two = twice(one)
        two.__name__ = "two"

    functions = functions_of(Owner())
    assert {name: function.inner(a=1) for name, function in functions.items()} == {"one": 1, "two": 2}


def test_a_callable_object_in_a_class_is_not_bound():
    class Owner:
        adder = ai_function(Adder(3), name="adder")

    assert functions_of(Owner())["adder"].inner is Owner.adder


def test_what_cannot_be_tagged_is_an_error_that_says_what_to_do():
    with pytest.raises(FunctionSpecError, match=r"wrap it with AIFunction"):
        ai_function(Adder().method)


def test_two_functions_of_one_name_are_an_error_that_names_both():
    class One:
        @ai_function(name="same")
        def first(self) -> None: ...

    class Two(One):
        @ai_function(name="same")
        def second(self) -> None: ...

    with pytest.raises(FunctionSpecError, match=r"One\.first and .*Two\.second both have the name 'same'"):
        functions_of(Two())
    assert list(functions_of(One())) == ["same"]


def test_a_method_that_cannot_be_described_is_named():
    class Owner:
        @ai_function
        def bad(self, a) -> None: ...

    with pytest.raises(FunctionSpecError, match=r"Owner\.bad: parameter 'a' has no type"):
        functions_of(Owner())


def test_instances_share_the_definition_and_not_the_switch():
    first, second = functions_of(Base())["zebra"], functions_of(Base())["zebra"]
    assert first.base is second.base
    first.enabled = False
    assert second.enabled
    assert functions_of(Child())["renamed"].base is functions_of(Base())["renamed"].base


def test_dropped_instances_are_collected():
    dropped: list[weakref.ref[Any]] = []
    for _ in range(200):
        owner = Base()
        owner.functions = functions_of(owner)  # type: ignore[attr-defined]
        assert owner.functions["zebra"].json_schema  # type: ignore[attr-defined]
        dropped.append(weakref.ref(owner))
    del owner
    gc.collect()
    assert [reference() for reference in dropped] == [None] * 200


async def test_instances_that_ran_a_function_are_collected_too():
    owner = Base()
    reference = weakref.ref(owner)
    await functions_of(owner)["zebra"].call({})
    await functions_of(owner)["zebra"].call({"a": "x"})
    del owner
    async with asyncio.timeout(10):
        while reference() is not None:  # the thread that ran it may still be on its way out
            gc.collect()
            await asyncio.sleep(0)


def test_dropped_classes_are_collected():
    class Owner:
        @ai_function
        def function(self, a: Node) -> None:
            assert __class__  # type: ignore[name-defined]  # the function has a cell that refers to the class

    functions_of(Owner())
    reference = weakref.ref(Owner)
    del Owner
    gc.collect()
    assert reference() is None


def twenty_functions() -> Any:
    def method(self: Any, city: Annotated[str, AIParam("City")], days: int = 3) -> str:
        """Get the weather.

        Args:
            days: how many
        """
        return city

    def renamed(name: str) -> Any:
        return types.FunctionType(method.__code__, globals(), name)

    members: dict[str, Any] = {}
    for number in range(20):
        members[f"tool_{number}"] = function = renamed(f"tool_{number}")
        function.__annotations__, function.__defaults__ = method.__annotations__, (3,)
        ai_function(function)
    return type("Owner", (), members)()


def test_finding_twenty_functions_again_costs_next_to_nothing():
    owner = twenty_functions()

    def seconds() -> float:
        start = time.perf_counter()
        functions_of(owner)
        return time.perf_counter() - start

    first = seconds()
    assert min(seconds() for _ in range(50)) * 50 < first


# ==== run ====


async def test_awaiting_it_runs_it_with_checked_arguments_and_gives_the_raw_value():
    assert await AIFunction(add)(a="2", b=3) == 5
    assert await AIFunction(add_later)(a=2) == 3
    with pytest.raises(ToolArgumentsError, match="a: missing"):
        await AIFunction(add)()
    with pytest.raises(ZeroDivisionError):
        await raising(ZeroDivisionError())()


async def test_any_parameter_name_can_be_passed():
    def method(first: Any, self: int, function: int, texts: int, args: int) -> int:
        return self + function + texts + args

    arguments = {"self": 1, "function": 2, "texts": 3, "args": 4}
    for inner in (types.MethodType(method, object()), functools.partial(method, object())):
        function = AIFunction(inner)
        assert (await function.call(arguments)).output == "10"
        assert await function(**arguments) == 10


async def test_sync_functions_run_in_a_thread_and_async_ones_on_the_loop():
    def where() -> threading.Thread:
        return threading.current_thread()

    async def where_too() -> threading.Thread:
        return threading.current_thread()

    here = threading.current_thread()
    assert await AIFunction(where)() is not here
    assert await AIFunction(where_too)() is here


async def test_a_sync_function_that_returns_a_coroutine_gives_its_value():
    assert (await AIFunction(lambda: add_later(41), name="add").call({})).output == "42"


async def test_results_are_converted_for_the_model():
    class Terse(ToolTexts):
        def empty(self) -> str:
            return "-"

    message = Message.assistant("hello")
    assert (await returning(lambda: {"天气": "晴"}).call({})).output == '{"天气":"晴"}'
    assert (await returning(lambda: ["a", PICTURE]).call({})).output == (TextPart(text="a"), PICTURE)
    assert (await returning(lambda: message).call({})) == ToolMessage(is_error=False, written=message)
    assert (await returning(lambda: "x" * 50, auto_truncate=10).call({})).output == "x" * 7 + "..."
    assert (await returning(lambda: None).call({})).output == "<system>Tool output is empty.</system>"
    assert (await returning(lambda: None).invoke({}, texts=Terse())).output == "-"


@pytest.mark.parametrize("auto_retry", [True, False])
async def test_bad_arguments_are_an_error_for_the_model(auto_retry: bool):
    function = AIFunction(add, auto_retry=auto_retry)
    with pytest.raises(ToolArgumentsError) as caught:
        await function.invoke({"a": "x", "c": 1})
    assert caught.value.retry is auto_retry
    assert str(caught.value).splitlines() == [
        'a: must be a valid integer, unable to parse string as an integer; got "x"',
        "c: unexpected; the parameters are: a, b",
    ]
    result = await function.call({"a": "x", "c": 1})
    assert result.is_error
    assert result.message == f"Error validating JSON arguments: {caught.value}"


@pytest.mark.parametrize("arguments", [None, [], "x", 5])
async def test_arguments_that_are_no_object_are_an_error_too(arguments: Any):
    assert "arguments: must be" in (await AIFunction(add).call(arguments)).message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("id"), "Error running tool: KeyError: 'id'"),
        (AssertionError(), "Error running tool: AssertionError"),
        (TimeoutError(), "Error running tool: TimeoutError"),
        (ModelRetry("Ask for a city."), "Ask for a city."),
        (ToolArgumentsError("from inside"), "Error running tool: ToolArgumentsError: from inside"),
        (asyncio.CancelledError("by itself"), "Error running tool: CancelledError: by itself"),
        (SystemExit(3), "Error running tool: SystemExit: 3"),
        (KeyboardInterrupt(), "Error running tool: KeyboardInterrupt"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("in_thread", [False, True])
async def test_whatever_a_function_raises_is_told_to_the_model(error: BaseException, message: str, in_thread: bool):
    def sync() -> None:
        raise error

    function = AIFunction(sync) if in_thread else raising(error)
    with pytest.raises(WrappedCallException) as caught:
        await function.invoke({})
    assert caught.value.original is caught.value.__cause__ is error
    assert caught.value.retry
    result = await function.call({})
    assert (result.is_error, result.message) == (True, message)


async def test_stop_iteration_and_errors_without_a_text_are_told_too():
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("mute")

    def stop() -> None:
        raise StopIteration

    assert "StopIteration" in (await AIFunction(stop).call({})).message
    assert "Mute: its text cannot be read" in (await raising(Mute()).call({})).message


def circular() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


class Unwritable:
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    "make", [circular, Unwritable, lambda: [PICTURE, Unwritable()], lambda: iter([1])], ids=["0", "1", "2", "3"]
)
async def test_a_result_that_cannot_be_converted_is_an_error_of_the_call(make: Callable[[], Any]):
    function = returning(make, auto_retry=False)
    with pytest.raises(WrappedCallException) as caught:
        await function.invoke({})
    assert not caught.value.retry
    assert (await function.call({})).is_error


async def test_a_mixed_list_and_a_message_without_content_are_no_errors():
    mixed = await returning(lambda: [PICTURE, 3]).call({})
    assert mixed.output == (PICTURE, TextPart(text="3"))
    empty = await returning(lambda: Message.assistant(None), auto_truncate=5).call({})
    assert not empty.is_error


async def test_a_validator_that_breaks_is_an_error_of_the_call():
    def broken(value: int) -> int:
        raise SystemExit("broken")

    def function(a: Annotated[int, BeforeValidator(broken)]) -> None: ...

    with pytest.raises(WrappedCallException, match="SystemExit: broken"):
        await AIFunction(function).invoke({"a": 1})


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_real_cancellation_goes_through(in_thread: bool):
    entered, leave = threading.Event(), threading.Event()

    def sync() -> None:
        entered.set()
        leave.wait(20)

    async def on_loop() -> None:
        entered.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(AIFunction(sync if in_thread else on_loop).call({}))
    async with asyncio.timeout(20):
        while not entered.is_set():
            await asyncio.sleep(0.001)
    call.cancel()
    await asyncio.wait([call])
    leave.set()
    assert call.cancelled()


async def test_closing_a_call_that_waits_closes_the_function():
    closed: list[str] = []

    async def function() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            closed.append("closed")

    call = AIFunction(function).invoke({})
    call.send(None)
    call.close()
    assert closed == ["closed"]


def test_functions_work_in_one_event_loop_after_another():
    function = AIFunction(add)
    assert [asyncio.run(function.call({"a": number})).output for number in (1, 2)] == ["2", "3"]


class Kind(enum.Enum):
    BIG = "big"


@dataclass
class Order:
    kind: Kind
    tags: list[str]


async def test_arguments_arrive_as_python_values():
    def order(what: Order, notes: Annotated[dict[str, int], Field(max_length=1)], *, kind: Kind = Kind.BIG) -> str:
        return f"{what.kind.name} {what.tags} {notes} {kind.name}"

    arguments = {"what": {"kind": "big", "tags": '["a"]'}, "notes": json.dumps({"n": 1})}
    assert (await AIFunction(order).call(arguments)).output == "BIG ['a'] {'n': 1} BIG"
