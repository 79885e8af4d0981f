"""What a prompt pipeline says of mistakes: in how it is built, in what it is given, in functions that it runs."""

from collections.abc import Callable
from enum import Enum
from functools import partial
from traceback import format_exception
from typing import Any

import pytest

from kimi_agent import Agent
from kimi_agent.errors import PromptError
from kimi_agent.message import ImageURLPart, MediaURL, Message, ToolCall
from kimi_agent.prompt.pipeline import PipelineStep, PromptPipeline
from kimi_agent.testing import ScriptedKimi
from kimi_agent.tools.base import Tool

PICTURE = ImageURLPart(image_url=MediaURL(url="data:image/gif;base64,R0lGODlh"))
USER, ASSISTANT = Message.user("u"), Message.assistant("a")
CALLING = Message.assistant("a", tool_calls=[ToolCall.from_function("f", call_id_="c", x=1)])
HISTORY = [Message.system("s"), USER, Message.user("v"), CALLING, Message.tool("t", "c")]
pipe: Any = PromptPipeline()


class Speaker(Enum):
    USER = "user"


class Waiting:
    """A function that waits, as an object."""

    async def __call__(self, *arguments: Any) -> None: ...


async def waiting(*arguments: Any) -> None: ...


def nothing() -> None: ...


# ==== arguments ====

TEXTS: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "translate_role": (partial(pipe.translate_role, to="user"), ["warn?"]),
    "wrap": (pipe.wrap, ["prefix?", "suffix?"]),
    "merge_consecutive": (partial(pipe.merge_consecutive, role="user"), ["sep"]),
    "function_call_fmt": (partial(pipe.function_call_fmt, str), ["prefix", "sep", "suffix"]),
    "conversation_fmt": (
        pipe.conversation_fmt,
        [
            *["prefix", "sep", "suffix", "generation_suffix", "assistant_suffix_if_last?"],
            *["user_prefix", "user_suffix", "assistant_prefix", "assistant_suffix"],
            *["system_prefix", "system_suffix", "function_prefix?", "function_suffix?"],
        ],
    ),
    "conversation_dict": (pipe.conversation_dict, ["system_role", "user_role", "assistant_role", "function_role"]),
}
"""The arguments that are texts; those with a question mark may be `None`."""
EACH_TEXT = [
    pytest.param(build, name.rstrip("?"), name.endswith("?"), id=f"{step}-{name}")
    for step, (build, names) in TEXTS.items()
    for name in names
]


@pytest.mark.parametrize(("build", "name", "optional"), EACH_TEXT)
def test_a_text_that_is_none_is_refused_when_the_pipeline_is_built(
    build: Callable[..., Any], name: str, optional: bool
):
    for wrong in (5, b"", ["x"]):
        with pytest.raises(TypeError, match=f"^{name} has to be a text, not "):
            build(**{name: wrong})
    if optional:
        build(**{name: None})
    else:
        with pytest.raises((TypeError, ValueError), match=f"^{name} has to be a text, not None|either sep or joiner"):
            build(**{name: None})


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "predicate": lambda func: pipe.remove(predicate=func),
    "joiner": lambda func: pipe.merge_consecutive(role="user", joiner=func),
    "func": lambda func: pipe.function_call_fmt(func),
    "id_translator": lambda func: pipe.ensure_bound_function_calls(func),
    "func of apply": lambda func: pipe.apply(func),
    "func of macro_apply": lambda func: pipe.macro_apply(func),
    "content_transform": lambda func: pipe.conversation_dict(content_transform=func),
    "additional_keys": lambda func: pipe.conversation_dict(additional_keys=func),
}
"""The arguments that are functions."""


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("user", "'user' is no function"),
        (waiting, r"waiting\(\) is async; a pipeline waits for nothing"),
        (Waiting(), r"Waiting\(\) is async"),
        (partial(waiting, 1), r"waiting\(\) is async"),
        (nothing, r"nothing\(\) takes \(\) -> .*; it is called with "),
        (lambda a, b, c: a, r"a lambda takes \(a, b, c\); it is called with "),
        (lambda message, *, width: 0, "it is called with "),
    ],
)
def test_a_function_that_cannot_do_it_is_refused_when_the_pipeline_is_built(name: str, wrong: Any, why: str):
    with pytest.raises(TypeError, match=f"^{name.partition(' ')[0]}: .*{why}"):
        FUNCTIONS[name](wrong)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_does_not_say_what_it_takes_is_taken(name: str):
    FUNCTIONS[name](str)
    FUNCTIONS[name](lambda *arguments: arguments)


@pytest.mark.parametrize("wrong", [5, b"user", Speaker.USER, "", ["user", 5], [None], [b"user"]])
@pytest.mark.parametrize(
    "build",
    [
        lambda role: pipe.remove(role=role),
        lambda role: pipe.translate_role(to=role),
        lambda role: pipe.merge_consecutive(sep="", role="user", out_role=role),
    ],
    ids=["role", "to", "out_role"],
)
def test_a_role_that_is_none_is_refused_when_the_pipeline_is_built(build: Callable[[Any], Any], wrong: Any):
    with pytest.raises(ValueError, match="is no role; there are 'system', 'user', 'assistant', 'tool'"):
        build(wrong)


def test_a_step_that_is_async_is_refused():
    class Slow(PipelineStep[Any]):
        async def execute(self, messages: list[Message], functions: list[Tool]) -> None: ...  # pyright: ignore

    with pytest.raises(TypeError, match=r"Slow.execute: execute\(\) is async"):
        pipe.then(Slow())


# ==== messages and functions ====


async def test_messages_that_nobody_awaited_are_refused():
    agent = Agent(ScriptedKimi([]))
    for run in (pipe, pipe.execute, pipe.explain_text, partial(pipe.execute, deepcopy=True)):
        with pytest.raises(PromptError, match=r"of type coroutine; await it first, as in `await agent\.get_prompt"):
            run(agent.get_prompt())
    assert pipe(await agent.get_prompt()) == []


@pytest.mark.parametrize("wrong", [None, 5, USER])
def test_what_is_no_list_of_messages_is_refused(wrong: Any):
    name = type(wrong).__name__
    with pytest.raises(PromptError, match=f"is no list of messages but of type {name}; give it a list of Message"):
        pipe(wrong)


def test_the_names_of_functions_are_not_the_functions():
    with pytest.raises(TypeError, match=r"'f' is no function of a model; .* as agent.functions.values\(\) are"):
        pipe([], {"f": 1})


# ==== where an error came up ====


def fails(*arguments: Any) -> Any:
    raise KeyError("city")


def on(position: int, func: Callable[..., Any] = fails) -> Callable[..., Any]:
    """Fails at one message of the history."""
    return lambda message: func(message) if message == HISTORY[position] else message


@pytest.mark.parametrize(
    ("add", "notes"),
    [
        (lambda p: p.remove(predicate=on(3)), ["at message 2 (assistant)", "in step 2, Remove"]),
        (lambda p: p.ensure_start(predicate=fails), ["at message 0 (user)", "in step 2, EnsureStart"]),
        (lambda p: p.translate_role(to="user", predicate=on(4)), ["at message 3 (tool)", "in step 2, TranslateRole"]),
        (lambda p: p.wrap(prefix="<", predicate=on(4)), ["at message 3 (tool)", "in step 2, Wrap"]),
        (
            lambda p: p.merge_consecutive(sep="", out_role="user", predicate=on(2)),
            ["at message 1 (user)", "in step 2, MergeConsecutive"],
        ),
        (
            lambda p: p.merge_consecutive(role=["assistant", "tool"], out_role="user", joiner=fails),
            ["at message 2 (assistant)", "in step 2, MergeConsecutive"],
        ),
        (lambda p: p.function_call_fmt(fails), ["at message 2 (assistant)", "in step 2, FunctionCallFmt"]),
        (
            lambda p: p.ensure_bound_function_calls(fails),
            ["at message 2 (assistant)", "in step 2, EnsureBoundFunctionCalls"],
        ),
        (lambda p: p.apply(on(4)), ["at message 3 (tool)", "in step 2, Apply"]),
        (lambda p: p.apply(fails, predicate=lambda m: m.role == "tool"), ["at message 3 (tool)", "in step 2, Apply"]),
        (lambda p: p.macro_apply(fails), ["in step 2, MacroApply"]),
        (
            lambda p: p.conversation_dict(content_transform=on(2)),
            ["at message 1 (user)", "in step 2, ConversationDict"],
        ),
        (lambda p: p.conversation_dict(additional_keys=fails), ["at message 0 (user)", "in step 2, ConversationDict"]),
    ],
)
def test_an_error_says_where_it_came_up(add: Callable[[Any], Any], notes: list[str]):
    with pytest.raises(KeyError) as caught:
        add(pipe.remove(role="system"))(HISTORY)
    assert caught.value.__notes__ == notes
    assert format_exception(caught.value)[-len(notes) - 1 :] == ["KeyError: 'city'\n", *(f"{note}\n" for note in notes)]


def test_an_error_while_a_message_is_measured_says_where_it_came_up():
    with pytest.raises(KeyError) as caught:
        pipe.ensure_bound_function_calls(fails).execute([CALLING], for_measurement=True)
    assert caught.value.__notes__ == ["at message 0 (assistant)", "in step 1, EnsureBoundFunctionCalls"]


# ==== what functions give ====


@pytest.mark.parametrize("given", [5, {"type": "text"}, ["a", None], [5], object(), {"a"}])
def test_a_joiner_gives_content(given: Any):
    merging = pipe.merge_consecutive(role="user", joiner=lambda messages: given)
    with pytest.raises(
        PromptError, match=r"a lambda gives something of type \w+; it has to give text, parts,"
    ) as caught:
        merging(HISTORY)
    assert caught.value.__notes__ == ["at message 1 (user)", "in step 1, MergeConsecutive"]


@pytest.mark.parametrize("given", ["a", None, PICTURE, ["a", PICTURE], (PICTURE,), []])
def test_whatever_a_message_can_be_made_of_is_content(given: Any):
    [_, merged, *_] = pipe.merge_consecutive(role="user", joiner=lambda messages: given)(HISTORY)
    assert merged == Message.user(given)


@pytest.mark.parametrize(
    ("building", "given", "wanted"),
    [
        (pipe.function_call_fmt, 3, r"str \| None"),
        (pipe.function_call_fmt, ["x"], r"str \| None"),
        (pipe.ensure_bound_function_calls, None, "str"),
        (pipe.ensure_bound_function_calls, 7, "str"),
        (lambda func: pipe.conversation_dict(additional_keys=func), None, "Mapping"),
        (lambda func: pipe.conversation_dict(additional_keys=func), [("a", 1)], "Mapping"),
    ],
)
def test_what_a_step_cannot_use_is_refused(building: Callable[..., Any], given: Any, wanted: str):
    kind = type(given).__name__
    with pytest.raises(
        PromptError, match=f"a lambda gives something of type {kind}; it has to give {wanted}"
    ) as caught:
        building(lambda argument: given)(HISTORY)
    assert len(caught.value.__notes__) == 2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_coroutine_is_nothing_that_a_step_can_use(name: str):
    with pytest.raises(PromptError, match="a lambda gives a coroutine; a pipeline waits for nothing") as caught:
        FUNCTIONS[name](lambda *arguments: waiting())(HISTORY)
    assert caught.value.__notes__[-1].startswith("in step 1, ")
