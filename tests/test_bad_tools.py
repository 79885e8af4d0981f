"""Tools that do what no tool should, models that call what no model should: the round goes on, and so does the next.

Every test looks at what the model is told, at the history, and at the requests, which Kimi would have to take.
"""

import asyncio
import gc
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from rounds import read, results

from kimi_agent import (
    Agent,
    AIFunction,
    ApprovalPending,
    FunctionSpecError,
    LoopGuard,
    Message,
    RoundInProgressError,
    SimpleToolset,
    StreamProtocolError,
    ToolReturnValue,
    step,
)
from kimi_agent.history import problems
from kimi_agent.testing import Call, Recorded, Reply, ScriptedKimi, call, say
from kimi_agent.testing.checks import check_request
from kimi_agent.tools.threads import TOOL_THREADS

METHODS = ["full_round", "full_round_stream", "full_round_frames"]
LONG = 30.0


# ==== what is used here ====


def errors(agent: Agent) -> list[bool]:
    return [bool(message.is_tool_call_error) for message in agent.chat_history if message.role == "tool"]


def requests(agent: Agent) -> list[dict[str, Any]]:
    assert isinstance(agent.provider, ScriptedKimi)
    return [request.body for request in agent.provider.requests]


def kimi(*calls: Call, **options: Any) -> ScriptedKimi:
    return ScriptedKimi([Reply(tool_calls=calls), say("the end"), say("still here")], **options)


async def goes_on(agent: Agent) -> None:
    """The history can be sent, the next round works, and Kimi would have taken every request."""
    assert problems(agent.chat_history) == []
    async with asyncio.timeout(20):
        assert [message.text for message in await read(agent, query="and now?")] == ["still here"]
    assert [complaint for body in requests(agent) if (complaint := check_request(body))] == []
    assert len(asyncio.all_tasks()) == 1
    assert TOOL_THREADS.abandoned == ()


async def told(function: Any, method: str = "full_round", **options: Any) -> tuple[str, bool]:
    """What a model is told that calls the function once, and whether as an error. The round goes on, and so on."""
    function = function if isinstance(function, AIFunction) else AIFunction(function, name="act")
    agent = Agent(kimi(call("act")), functions=[function], **options)
    await read(agent, method)
    assert agent.chat_history[-1].text == "the end"
    (text,), (is_error,) = results(agent), errors(agent)
    await goes_on(agent)
    return text, is_error


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """No complaint of the loop, no warning of what nobody awaited."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    yield
    gc.collect(1)
    await asyncio.sleep(0)
    assert complaints == []


# ==== what a tool gives ====


@pytest.mark.parametrize("method", METHODS)
async def test_of_a_hundred_megabytes_the_model_gets_the_beginning(method: str):
    size = 100_000_000 if method == "full_round" else 1_000_000

    def read_all() -> str:
        return "The beginning. " + "x" * size

    agent = Agent(kimi(call("read_all")), functions=[read_all])
    await read(agent, method)
    text = results(agent)[0]
    assert text.startswith("The beginning. xxx")
    assert text.endswith("...")
    assert len(text) <= agent.provider.context_window
    assert max(len(json.dumps(body)) for body in requests(agent)) < 300_000
    await goes_on(agent)


async def test_of_an_error_that_says_a_megabyte_the_model_gets_the_beginning():
    def fail() -> str:
        raise ValueError("The beginning. " + "x" * 1_000_000)

    text, is_error = await told(fail)
    assert text.startswith("Error: ValueError: The beginning. xxx")
    assert len(text) <= 262_144
    assert is_error


async def test_a_long_text_of_rare_characters_is_cut_so_that_it_fits():
    text, _ = await told(lambda: "龘龍鬱" * 300_000)
    assert text.startswith("龘龍鬱")


async def test_several_long_results_are_cut_so_that_they_fit_together():
    def read_all() -> str:
        return "some words here. " * 60_000

    agent = Agent(kimi(*[call("read_all")] * 6), functions=[read_all])
    await read(agent)
    assert all(text.startswith("some words") for text in results(agent))
    await goes_on(agent)


class Unspeakable:
    def __str__(self) -> str:
        raise ValueError("it has no text")

    __repr__ = __str__


class Endless:
    def __str__(self) -> str:
        return str(self)

    __repr__ = __str__


def endless_dict() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["again"] = value
    return value


def deep_list() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


class Opaque:
    def __repr__(self) -> str:
        return "<opaque>"


GIVEN: list[tuple[Callable[[], Any], str]] = [
    (lambda: float("nan"), "nan"),
    (lambda: {"a": float("nan"), "b": [float("-inf")]}, '{"a":null,"b":[null]}'),
    (lambda: "half \ud800 of a pair", "half \ud800 of a pair"),
    (lambda: {"\udfff": ["\ud800"]}, '{"\udfff":["\ud800"]}'),
    (lambda: "\0\x1b[31m", "\0\x1b[31m"),
    (Opaque, "<opaque>"),
    (lambda: {"deep": [Opaque(), {1, 2}]}, '{"deep":["<opaque>",[1,2]]}'),
    (lambda: {1: None, (1, 2): b"\xff"}, '{"1":null,"[1, 2]":"/w=="}'),
    (lambda: b"\xff\xfe", "//4="),
    (lambda: None, "The function returned no output."),
    (lambda: "", "The function returned no output."),
    (lambda: [10**5000], "[1" + "0" * 5000 + "]"),
]


@pytest.mark.parametrize(("make", "wanted"), GIVEN)
@pytest.mark.parametrize("blocks", [False, True])
async def test_a_strange_value_is_said_as_well_as_it_can_be(make: Callable[[], Any], wanted: str, blocks: bool):
    async def give() -> Any:
        return make()

    def give_in_a_thread() -> Any:
        return make()

    text, is_error = await told(give_in_a_thread if blocks else give)
    assert not is_error
    if wanted != '{"1":null,"[1, 2]":"/w=="}':
        assert text == wanted
    else:
        assert json.loads(text)["1"] is None


NOT_GIVEN: list[tuple[Callable[[], Any], str]] = [
    (Unspeakable, "ValueError: it has no text"),
    (lambda: [Unspeakable()], "ValueError: it has no text"),
    (Endless, "RecursionError"),
    (endless_dict, "Circular reference"),
    (deep_list, "depth exceeded"),
    (lambda: 10**5000, "ValueError: Exceeds the limit"),
    (lambda: (number for number in range(3)), "TypeError: the function returned a generator"),
    (lambda: iter([1, 2]), "TypeError: the function returned a list_iterator"),
]


@pytest.mark.parametrize(("make", "wanted"), NOT_GIVEN)
@pytest.mark.parametrize("blocks", [False, True])
async def test_a_value_that_has_no_text_is_an_error(make: Callable[[], Any], wanted: str, blocks: bool):
    async def give() -> Any:
        return make()

    def give_in_a_thread() -> Any:
        return make()

    text, is_error = await told(give_in_a_thread if blocks else give)
    assert is_error
    assert wanted in text


async def test_an_async_generator_that_is_returned_is_an_error():
    async def numbers() -> AsyncIterator[int]:
        yield 1

    async def give() -> Any:
        return numbers()

    text, is_error = await told(give)
    assert (text.startswith("Error: TypeError"), is_error) == (True, True)


def test_a_generator_is_refused_before_it_is_called():
    async def numbers() -> AsyncIterator[int]:
        yield 1

    def more_numbers() -> Iterator[int]:
        yield 1

    for function in (numbers, more_numbers):
        with pytest.raises(FunctionSpecError, match="generator"):
            Agent(ScriptedKimi(), functions=[function])


async def test_a_coroutine_that_a_sync_function_returns_is_awaited():
    async def inner() -> str:
        return "inner"

    assert await told(lambda: inner()) == ("inner", False)


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize("make_task", [False, True])
async def test_an_awaitable_that_an_async_function_returns_is_awaited_or_an_error(make_task: bool):
    async def inner() -> str:
        return "inner"

    async def give() -> Any:
        return asyncio.create_task(inner()) if make_task else inner()

    text, is_error = await told(give)
    assert text == "inner" or is_error


async def test_a_tool_that_gives_no_tool_return_value_is_an_error():
    class Strange:
        base = AIFunction(deep_list, name="act").base

        async def call(self, arguments: Any) -> ToolReturnValue:
            return 5  # type: ignore[return-value]

    agent = Agent(kimi(call("act")), functions=[Strange()])
    await read(agent)
    assert "Invalid return type: int" in results(agent)[0]
    await goes_on(agent)


async def test_a_message_of_another_call_is_made_the_result_of_this_one():
    async def give() -> Message:
        return Message.tool("from elsewhere", "other-id", name="other")

    assert await told(give) == ("from elsewhere", False)


async def test_a_message_that_is_no_result_is_made_one():
    async def give() -> Message:
        return Message.assistant("as if I were the model", tool_calls=None)

    assert await told(give) == ("as if I were the model", False)


# ==== what a tool raises ====


class NoText(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


RAISED: list[tuple[BaseException, str]] = [
    (SystemExit(3), "Error: SystemExit: 3"),
    (KeyboardInterrupt(), "Error: KeyboardInterrupt"),
    (asyncio.CancelledError(), "Error: CancelledError"),
    (StopAsyncIteration("end"), "Error: StopAsyncIteration: end"),
    (
        BaseExceptionGroup("both", [KeyboardInterrupt(), SystemExit(1)]),
        "Error: BaseExceptionGroup: both (2 sub-exceptions)",
    ),
    (BaseExceptionGroup("all", [asyncio.CancelledError()]), "Error: BaseExceptionGroup: all (1 sub-exception)"),
    (ExceptionGroup("some", [ValueError("one")]), "Error: ExceptionGroup: some (1 sub-exception)"),
    (ValueError("lone \ud800"), "Error: ValueError: lone \ud800"),
    (NoText(), "Error: NoText: its text cannot be read"),
    (BaseException("base"), "Error: BaseException: base"),
    (RoundInProgressError("mine"), "Error: RoundInProgressError: mine"),
    (MemoryError(), "Error: MemoryError"),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize(("error", "wanted"), RAISED, ids=lambda value: type(value).__name__)
async def test_whatever_a_tool_raises_is_its_result(error: BaseException, wanted: str, blocks: bool, method: str):
    async def fail() -> str:
        raise error

    def fail_in_a_thread() -> str:
        raise error

    assert await told(fail_in_a_thread if blocks else fail, method) == (wanted, True)
    if method == "full_round":
        assert await told(fail_in_a_thread if blocks else fail, tool_timeout=LONG) == (wanted, True)


async def test_stop_iteration_is_a_result_too():
    async def fail() -> str:
        raise StopIteration("end")

    def fail_in_a_thread() -> str:
        return next(iter(()))

    for function in (fail, fail_in_a_thread):
        text, is_error = await told(function)
        assert ("StopIteration" in text, is_error) == (True, True)


async def test_generator_exit_in_a_thread_is_a_result_too():
    def fail_in_a_thread() -> str:
        raise GeneratorExit

    text, is_error = await told(fail_in_a_thread)
    assert ("GeneratorExit" in text, is_error) == (True, True)


@pytest.mark.parametrize("timeout", [None, LONG])
async def test_a_tool_that_calls_itself_for_ever_is_an_error(timeout: float | None):
    async def dig() -> str:
        return await dig()

    def dig_in_a_thread() -> str:
        return dig_in_a_thread()

    for function in (dig, dig_in_a_thread):
        text, is_error = await told(function, tool_timeout=timeout)
        assert (text.startswith("Error: RecursionError: maximum recursion depth"), is_error) == (True, True)


async def test_a_step_has_a_result_for_whatever_is_raised():
    async def fail(place: int) -> str:
        raise RAISED[place][0]

    calls = [call("fail", place=place) for place in range(len(RAISED))]
    toolset = SimpleToolset([fail])
    given = await (await step(kimi(*calls), "", toolset, [Message.user("go")])).tool_results()
    assert [result.return_value.is_error for result in given] == [True] * len(RAISED)
    wanted = [text.removeprefix("Error: ") for _, text in RAISED]
    assert [text in result.return_value.message for result, text in zip(given, wanted, strict=True)] == [True] * len(
        RAISED
    )


# ==== a tool that asks its own agent ====


@pytest.mark.parametrize("method", [*METHODS, "chat_round"])
async def test_a_tool_that_asks_its_own_agent_is_refused_and_the_round_goes_on(method: str):
    async def ask() -> str:
        if method == "chat_round":
            return (await agent.chat_round("inside")).text
        return str(await read(agent, method, "inside"))

    agent = Agent(kimi(call("ask")), functions=[ask])
    async with asyncio.timeout(20):
        await read(agent)
    assert results(agent)[0].startswith("Error: RoundInProgressError")
    assert "use another agent" in results(agent)[0]
    assert all(message.text != "inside" for message in agent.chat_history)
    await goes_on(agent)


async def test_a_tool_in_a_thread_that_asks_its_own_agent_is_refused_too():
    def ask() -> str:
        return asyncio.run(agent.chat_round_str("inside"))

    agent = Agent(kimi(call("ask")), functions=[ask])
    async with asyncio.timeout(20):
        await read(agent)
    assert results(agent)[0].startswith("Error: RoundInProgressError")
    await goes_on(agent)


async def test_a_tool_that_closes_its_own_round_is_refused():
    async def close() -> str:
        await round_.aclose()
        return "closed"

    agent = Agent(kimi(call("close")), functions=[close])
    round_ = agent.full_round("go")
    async with asyncio.timeout(20):
        async for _ in round_:
            pass
    assert results(agent)[0].startswith("Error: RoundInProgressError")
    await goes_on(agent)


@pytest.mark.parametrize("timeout", [None, LONG])
async def test_a_tool_that_cancels_itself_is_an_error_and_the_round_goes_on(timeout: float | None):
    async def give_up() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return "never"

    async def fine() -> str:
        return "fine"

    agent = Agent(kimi(call("give_up"), call("fine")), functions=[AIFunction(give_up, timeout=timeout), fine])
    async with asyncio.timeout(20):
        await read(agent)
    assert results(agent)[1] == "fine"
    assert errors(agent) == [True, False]
    await goes_on(agent)


async def test_a_tool_that_takes_functions_away_while_it_runs_breaks_nothing():
    async def forget() -> str:
        agent.functions.clear()
        return "forgotten"

    agent = Agent(kimi(call("forget"), call("forget")), functions=[forget], max_parallel_tools=1)
    await read(agent)
    assert results(agent)[0] == "forgotten"
    assert "there is no function 'forget'" in results(agent)[1]
    await goes_on(agent)


async def test_a_tool_that_clears_the_history_while_it_runs_sends_nothing_that_kimi_refuses():
    async def clear() -> str:
        agent.chat_history.clear()
        return "cleared"

    agent = Agent(kimi(call("clear")), "You are helpful.", functions=[clear])
    await read(agent)
    assert [message["role"] for message in requests(agent)[-1]["messages"]] == ["system"]
    assert agent.chat_history[-1].text == "the end"
    assert [complaint for body in requests(agent) if (complaint := check_request(body))] == []


# ==== a model that invents tools ====


async def fine() -> str:
    """It works."""
    return "fine"


async def test_a_model_that_invents_a_tool_is_told_and_may_try_again():
    script = [Reply(tool_calls=[call("invented", x=1), call("fine")]), call("fine"), say("the end"), say("still here")]
    agent = Agent(ScriptedKimi(script), functions=[fine])
    await read(agent)
    missing = "Error: there is no function 'invented'. Call only the functions that are listed."
    assert results(agent) == [missing, "fine", "fine"]
    assert errors(agent) == [True, False, False]
    await goes_on(agent)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("attempts", [0, 1, 2])
async def test_a_model_that_invents_tools_again_and_again_has_to_answer(attempts: int, method: str):
    script = [*[call("invented", n=n) for n in range(attempts + 1)], say("the end"), say("still here")]
    agent = Agent(ScriptedKimi(script), functions=[fine], retry_attempts=attempts)
    await read(agent, method)
    assert len(results(agent)) == attempts + 1
    assert requests(agent)[-1]["tool_choice"] == "none"
    await goes_on(agent)


async def test_a_model_that_calls_although_it_must_not_is_told_that_nothing_was_run():
    ran: list[int] = []

    async def act() -> str:
        ran.append(1)
        return "done"

    script = [call("invented"), Reply("I call all the same.", tool_calls=[call("act")]), say("still here")]
    agent = Agent(ScriptedKimi(script), functions=[act], retry_attempts=0)
    await read(agent)
    assert ran == []
    assert results(agent)[-1] == "Not run: the round ended before this call was started."
    await goes_on(agent)


async def test_a_model_without_any_tool_that_calls_one_is_told():
    agent = Agent(kimi(call("invented")))
    await read(agent)
    assert errors(agent) == [True]
    await goes_on(agent)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a b", "工具", "x" * 300, "$web_search", "__import__", "fine ", "FINE"]
)
async def test_a_tool_of_an_impossible_name_is_none(name: str):
    agent = Agent(kimi(Call(name, "{}", "id-1")), functions=[fine])
    await read(agent)
    assert errors(agent) == [True]
    assert "there is no function" in results(agent)[0]
    assert problems(agent.chat_history) == []
    assert [complaint for body in requests(agent) if (complaint := check_request(body))] == []


async def test_a_call_without_a_name_is_an_answer_that_is_none_and_leaves_nothing():
    agent = Agent(kimi(Call("", "{}", "id-1")), functions=[fine])
    with pytest.raises(StreamProtocolError, match="name"):
        await read(agent)
    assert [message.role for message in agent.chat_history] == ["user"]
    agent.provider = ScriptedKimi([say("still here")])
    await goes_on(agent)


# ==== ids ====


@pytest.mark.parametrize(
    "ids", [["", ""], ["same", "same", "same"], ["", "fine_0"], ["x" * 500, "x" * 500], [" ", " "]]
)
async def test_calls_whose_ids_are_equal_or_missing_each_have_their_own_result(ids: list[str]):
    opened = [asyncio.Event() for _ in ids]

    async def act(place: int) -> str:
        await opened[place].wait()
        return f"done {place}"

    calls = [Call("act", json.dumps({"place": place}), id) for place, id in enumerate(ids)]
    agent = Agent(kimi(*calls), functions=[act])
    task = asyncio.create_task(read(agent))
    for event in reversed(opened):
        for _ in range(30):
            await asyncio.sleep(0)
        event.set()
    await task
    assert results(agent) == [f"done {place}" for place in range(len(ids))]
    await goes_on(agent)


@pytest.mark.parametrize("first", [0, 1])
async def test_of_two_calls_with_one_id_each_says_what_became_of_itself_when_the_round_is_cancelled(first: int):
    async def act(place: int) -> str:
        if place != first:
            await asyncio.Event().wait()
        return f"done {place}"

    agent = Agent(kimi(*[Call("act", json.dumps({"place": n}), "same") for n in range(2)]), functions=[act])
    task = asyncio.create_task(read(agent))
    while not results(agent):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert results(agent)[first] == f"done {first}"
    assert results(agent)[1 - first].startswith("Interrupted")
    agent.provider = ScriptedKimi([say("still here")])
    await goes_on(agent)


async def test_calls_whose_beginning_has_no_id_are_told_apart():
    def chunk(index: int, **function: Any) -> dict[str, Any]:
        delta = {"tool_calls": [{"index": index, "function": function}]}
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}

    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    chunks = [chunk(0, name="fine", arguments="{}"), chunk(1, name="fine", arguments="{}"), end]
    agent = Agent(ScriptedKimi([Recorded(chunks), say("the end"), say("still here")]), functions=[fine])
    await read(agent)
    assert results(agent) == ["fine", "fine"]
    await goes_on(agent)


# ==== many calls ====


@pytest.mark.parametrize(
    ("count", "blocks", "most", "method"),
    [
        (500, False, None, "full_round"),
        (100, False, 3, "full_round_frames"),
        (500, True, None, "full_round_stream"),
        (100, True, 3, "full_round"),
    ],
)
async def test_hundreds_of_calls_of_one_message_all_have_their_result_in_order(
    count: int, blocks: bool, most: int | None, method: str
):
    lock, under_way, at_a_time = threading.Lock(), set[int](), list[int]()

    def enter(place: int) -> None:
        with lock:
            under_way.add(place)
            at_a_time.append(len(under_way))

    def act_in_a_thread(place: int) -> str:
        enter(place)
        with lock:
            under_way.remove(place)
        return f"done {place}"

    async def act(place: int) -> str:
        enter(place)
        for _ in range(place % 5):
            await asyncio.sleep(0)
        under_way.remove(place)
        return f"done {place}"

    function = AIFunction(act_in_a_thread if blocks else act, name="act")
    calls = [call("act", place=place) for place in range(count)]
    agent = Agent(kimi(*calls), functions=[function], max_parallel_tools=most)
    await read(agent, method)
    assert results(agent) == [f"done {place}" for place in range(count)]
    assert max(at_a_time) <= (most or (TOOL_THREADS._bound if blocks else count))
    await goes_on(agent)


async def test_five_hundred_calls_of_which_each_third_fails_and_each_seventh_is_invented():
    async def act(place: int) -> str:
        if place % 3 == 0:
            raise ValueError(place)
        return f"done {place}"

    calls = [call("act" if place % 7 else "invented", place=place) for place in range(500)]
    agent = Agent(kimi(*calls), functions=[act])
    await read(agent)
    wanted = ["no function" if n % 7 == 0 else f"ValueError: {n}" if n % 3 == 0 else f"done {n}" for n in range(500)]
    assert all(text in result for text, result in zip(wanted, results(agent), strict=True))
    await goes_on(agent)


async def test_five_hundred_calls_that_are_cancelled_leave_five_hundred_results():
    opened = threading.Event()

    def block(place: int) -> str:
        assert opened.wait(20)
        return f"done {place}"

    agent = Agent(kimi(*[call("block", place=place) for place in range(500)]), functions=[block])
    task = asyncio.create_task(read(agent))
    try:
        async with asyncio.timeout(20):
            while len(TOOL_THREADS.waiting) < 500 - TOOL_THREADS._bound:
                await asyncio.sleep(0.001)
        assert len(TOOL_THREADS.running) == TOOL_THREADS._bound
        task.cancel()
        await asyncio.wait([task])
        assert len(results(agent)) == 500
        assert TOOL_THREADS.waiting == ()
    finally:
        opened.set()
    async with asyncio.timeout(20):
        while TOOL_THREADS.running:
            await asyncio.sleep(0.001)
    agent.provider = ScriptedKimi([say("still here")])
    await goes_on(agent)


# ==== arguments ====


async def numbers(place: int, rest: list[int] | None = None) -> str:
    """Take numbers."""
    return f"{place} {rest}"


WRONG: list[tuple[str, str]] = [
    ("[]", "must be a JSON object, not an array"),
    ('"text"', "must be a JSON object, not a string"),
    ("3", "must be a JSON object, not a number"),
    ("true", "must be a JSON object, not a boolean"),
    ("null", "place: missing"),
    ("", "place: missing"),
    ("{}", "place: missing"),
    ('{"place": "many"}', "place: must be a valid integer"),
    ('{"place": null}', "place: must be a valid integer"),
    ('{"place": {"place": 1}}', "place: must be a valid integer"),
    ('{"plac": 1}', "plac: unexpected; the parameters are: place, rest"),
    ('{"place": 1, "rest": [1, "x"]}', "rest[1]"),
    ('{"place": 1}}', "not valid JSON"),
    ('{"place": 1', "not valid JSON"),
    ("{'place': 1}", "not valid JSON"),
    ("place=1", "not valid JSON"),
    ("\0", "not valid JSON"),
    ('{"place": NaN}', "place: must be a finite number"),
    ('{"place": 1e400}', "place: must be a finite number"),
    ('{"place": ' + "9" * 5000 + "}", "digits"),
    ('{"place": "\\ud800"}', "place:"),
    ("[" * 20_000, "nested too deeply"),
    ('{"place": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    ('{"place": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}", "nested too deeply"),
]


@pytest.mark.parametrize(("arguments", "wanted"), WRONG, ids=lambda value: value[:20])
async def test_arguments_of_the_wrong_shape_are_explained_to_the_model(arguments: str, wanted: str):
    script = [Call("numbers", arguments), call("numbers", place=1), say("the end"), say("still here")]
    agent = Agent(ScriptedKimi(script), functions=[numbers])
    await read(agent)
    assert results(agent)[0].startswith("Error: ")
    assert wanted in results(agent)[0]
    assert len(results(agent)[0]) < 1000
    assert (results(agent)[1], errors(agent)) == ("1 None", [True, False])
    await goes_on(agent)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("attempts", [1, 9, 20])
async def test_a_model_that_never_finds_the_right_shape_has_to_answer(attempts: int, method: str):
    wrong = [Call("numbers", json.dumps({"place": "x" * number})) for number in range(1, 11)]
    script = [*wrong[: attempts + 1], say("the end"), say("still here")]
    agent = Agent(ScriptedKimi(script), functions=[numbers], retry_attempts=attempts)
    await read(agent, method)
    assert len(results(agent)) == min(attempts + 1, 10)
    assert errors(agent) == [True] * len(results(agent))
    assert requests(agent)[-1].get("tool_choice") == ("none" if attempts < 10 else None)
    await goes_on(agent)


async def test_a_model_that_sends_the_same_wrong_arguments_ten_times_is_stopped():
    script = [*[Call("numbers", '{"place": "x"}')] * 6, say("the end"), say("still here")]
    agent = Agent(ScriptedKimi(script), functions=[numbers], retry_attempts=20)
    await read(agent)
    assert errors(agent) == [True] * 6
    assert results(agent)[-1].startswith("Not run: this is call 6")
    assert requests(agent)[-1]["tool_choice"] == "none"
    await goes_on(agent)


async def test_ten_wrong_calls_of_one_message_spend_one_attempt():
    wrong = Reply(tool_calls=[Call("numbers", json.dumps({"place": "x" * n})) for n in range(1, 11)])
    script = [wrong, call("numbers", place=1), say("the end"), say("still here")]
    agent = Agent(ScriptedKimi(script), functions=[numbers], retry_attempts=1)
    await read(agent)
    assert (errors(agent), results(agent)[-1]) == ([True] * 10 + [False], "1 None")
    await goes_on(agent)


@pytest.mark.parametrize("chunk_size", [64, 1_000_000])
async def test_a_megabyte_of_arguments_reaches_the_function(chunk_size: int):
    async def length(text: str) -> int:
        return len(text)

    reply = Reply(tool_calls=[call("length", text="long " * 200_000)], chunk_size=chunk_size)
    provider = ScriptedKimi([reply, say("the end"), say("still here")], context_window=1_048_576)
    agent = Agent(provider, functions=[length])
    await read(agent)
    assert results(agent) == ["1000000"]
    await goes_on(agent)


async def test_hundreds_of_wrong_arguments_are_explained_in_short():
    arguments = json.dumps({"place": 1, "rest": ["x" * 500] * 400})
    provider = kimi(Call("numbers", arguments), context_window=1_048_576)
    agent = Agent(provider, functions=[numbers])
    await read(agent)
    assert errors(agent) == [True]
    assert len(results(agent)[0]) < 5000
    await goes_on(agent)


async def test_a_guard_against_loops_takes_arguments_of_any_kind():
    odd = [
        "[" * 20_000,
        '{"place": ' + "9" * 5000 + "}",
        '{"place": NaN}',
        '{"place": "\\ud800"}',
        "\0",
        "[1, 2]",
        '""',
    ]
    script = [*(Reply(tool_calls=[Call("numbers", text) for text in odd]) for _ in range(3)), say("the end")]
    agent = Agent(
        ScriptedKimi([*script, say("still here")]), functions=[numbers], retry_attempts=9, loop_guard=LoopGuard(2, 3)
    )
    await read(agent)
    assert [text.startswith("Not run: this is call 3") for text in results(agent)[14:]] == [True] * 7
    await goes_on(agent)


# ==== rules and hooks that do what no tool should ====


@pytest.mark.parametrize("error", [ValueError("no"), RecursionError(), ExceptionGroup("some", [ValueError()])])
async def test_a_rule_for_approval_that_fails_lets_nothing_run(error: Exception):
    ran: list[int] = []

    async def act() -> str:
        ran.append(1)
        return "done"

    def rule(_: Any) -> bool:
        raise error

    agent = Agent(kimi(call("act")), functions=[AIFunction(act, approval=rule)])
    with pytest.raises(ApprovalPending):
        await read(agent)
    assert ran == []
    assert problems(agent.chat_history) == []


@pytest.mark.parametrize("where", ["rule", "approver", "hook"])
async def test_a_rule_or_a_hook_that_raises_cancelled_error_itself_cancels_nobody(where: str):
    async def raises(*_: Any) -> Any:
        raise asyncio.CancelledError

    class Raising(Agent):
        pass

    if where == "approver":
        Raising.approve_function_call = raises  # type: ignore[method-assign]
    if where == "hook":
        Raising.do_function_call = raises  # type: ignore[method-assign]
    rule: Any = {"rule": raises, "approver": True}.get(where, False)
    agent = Raising(kimi(call("fine")), functions=[AIFunction(fine, approval=rule)])
    try:
        await read(agent)
    except Exception:  # an error of whatever kind, and no cancellation
        pass
    except asyncio.CancelledError:
        pytest.fail("nobody was cancelled")
    assert problems(agent.chat_history) == []
