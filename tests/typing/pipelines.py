"""What a type checker knows of prompt pipelines. Not run: type checkers read it."""

from typing import Any, assert_type

from kimi_agent import Agent, AIFunction, ApplyContext, PipelineStep, PromptPipeline
from kimi_agent.message import Message, Role
from kimi_agent.tools.base import Tool


class Count(PipelineStep[int]):
    def execute(self, messages: list[Message], functions: list[Tool]) -> int:
        return len(messages)


class Newest(PipelineStep[list[Message]]):
    def execute(self, messages: list[Message], functions: list[Tool]) -> list[Message]:
        return messages[-3:]


def text_of(message: Message) -> str:
    return message.text


def text_in(message: Message, ctx: ApplyContext) -> str | None:
    return None if ctx.is_last else message.text


def text_if(message: Message, ctx: ApplyContext | None = None) -> str:
    return message.text if ctx else ""


def shout(message: Message) -> Message | None:
    return message.copy_with(content=message.text.upper()) if message.text else None


def joined(group: list[Message]) -> str:
    return " ".join(message.text for message in group)


def backwards(messages: list[Message], functions: list[Tool]) -> list[Message]:
    return messages[::-1]


def lengths(messages: list[Message], functions: list[Tool]) -> list[int]:
    return [len(message.text) for message in messages]


def pipelines(messages: list[Message], functions: list[Tool]) -> None:
    pipe = PromptPipeline()
    assert_type(pipe, PromptPipeline[list[Message]])
    assert_type(pipe(messages), list[Message])
    assert_type(PromptPipeline([Newest()]), PromptPipeline[list[Message]])
    steps = (
        pipe.wrap(role="system", prefix="<", suffix=">")
        .translate_role(role=("system", "tool"), to="user", warn="no")
        .merge_consecutive(role="user", sep="")
        .merge_consecutive(joiner=lambda group: [message.text for message in group], out_role="user")
        .function_call_fmt(lambda call: call.name)
        .ensure_start(role={"user"})
        .ensure_bound_function_calls(lambda call_id: call_id[:9])
        .remove(predicate=lambda message: not message.content)
    )
    assert_type(steps, PromptPipeline[list[Message]])
    assert_type(steps.conversation_fmt(sep="\n")(messages, functions), str)
    assert_type(steps.conversation_dict().execute(messages, deepcopy=True), list[dict[str, Any]])
    assert_type(steps.explain(messages), None)
    assert_type(steps.explain_text(all_cases=True), str)


def the_functions_of_an_agent(agent: Agent, functions: list[AIFunction], messages: list[Message]) -> None:
    pipe = PromptPipeline(None).conversation_fmt()
    assert_type(pipe(messages, functions), str)
    assert_type(pipe.execute(messages, agent.functions.values()), str)
    assert_type(pipe.explain_text(messages, functions=agent.functions.values()), str)


RESULTS: frozenset[Role] = frozenset({"user", "tool"})


def any_collection_of_roles(pipe: PromptPipeline[list[Message]]) -> None:
    assert_type(pipe.remove(role=["user"]).remove(role={"user": 1}), PromptPipeline[list[Message]])
    assert_type(pipe.remove(role=RESULTS).remove(role=frozenset(("user", "tool"))), PromptPipeline[list[Message]])


def functions_of_your_own(messages: list[Message]) -> None:
    pipe = PromptPipeline()
    assert_type(pipe.apply(text_of)(messages), list[str])
    assert_type(pipe.apply(text_in)(messages), list[str])
    assert_type(pipe.apply(text_if)(messages), list[str])
    assert_type(pipe.apply(lambda message: message.text)(messages), list[str])  # type: ignore[assert-type]
    numbered = pipe.apply(lambda message, ctx: (ctx.idx, message.text))(messages)
    assert_type(numbered, list[tuple[int, str]])  # type: ignore[assert-type]
    assert_type(pipe.apply(text_of, role="user")(messages), list[str | Message])
    assert_type(pipe.apply(text_of, predicate=lambda message: bool(message.content))(messages), list[str | Message])
    assert_type(pipe.apply(shout)(messages), list[Message])
    assert_type(pipe.apply(shout, role="user").conversation_fmt()(messages), str)
    assert_type(pipe.macro_apply(backwards).wrap(prefix="-")(messages), list[Message])
    assert_type(pipe.macro_apply(lengths)(messages), list[int])
    assert_type(pipe.then(Newest()).then(Count())(messages), int)


def mistakes(pipe: PromptPipeline[list[Message]]) -> None:
    pipe.conversation_fmt().wrap(prefix="-")  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    pipe.conversation_dict().remove()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    pipe.apply(text_of).conversation_fmt()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    pipe.then(Count()).then(Count())  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    pipe.wrap("user", prefix="-")  # type: ignore[misc]  # pyright: ignore[reportCallIssue]
    pipe.remove(role="function")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pipe.merge_consecutive(role="user")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    pipe.merge_consecutive(role="user", sep="", joiner=joined)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
