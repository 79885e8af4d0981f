"""Who overrides a hook wrongly learns which one, and what it has to give; nothing is lost."""

from typing import Any

import pytest

from kimi_agent import Agent, Approval, FunctionCallResult, ai_function
from kimi_agent.history import problems
from kimi_agent.testing import ScriptedKimi, call, say


class Working(Agent):
    @ai_function()
    async def act(self) -> str:
        return "done"

    @ai_function()
    async def fail(self) -> str:
        raise ValueError("no")


def overridden(hook: str, answer: Any, *, is_async: bool) -> Agent:
    async def later(*_: Any, **__: Any) -> Any:
        return answer

    def at_once(*_: Any, **__: Any) -> Any:
        return answer

    kind = type("Mine", (Working,), {hook: later if is_async else at_once})
    return kind(ScriptedKimi([call("act"), call("fail"), say("The end.")]))


WRONG: list[tuple[str, Any, str]] = [
    ("get_prompt", None, "None, which is no Sequence"),
    ("get_enabled_functions", 3, "3, which is no Sequence"),
    ("add_completion_to_history", None, "None, which is no Message"),
    ("get_model_completion", "Hello.", "'Hello.', which is no GenerateResult"),
    ("get_model_stream", "Hello.", "'Hello.', which is no AsyncIterable"),
    ("handle_function_call_exception", "sorry", "'sorry', which is no ExceptionHandleResult"),
]


@pytest.mark.parametrize(("hook", "answer", "complaint"), WRONG)
async def test_a_hook_that_gives_something_else_is_named(hook: str, answer: Any, complaint: str):
    agent = overridden(hook, answer, is_async=True)
    with pytest.raises(TypeError, match=rf"^Mine\.{hook} gave {complaint}$"):
        async for _ in agent.full_round("Go."):
            pass
    assert problems(agent.chat_history) == []
    assert agent.chat_history[0].text == "Go."


@pytest.mark.parametrize("hook", [*(hook for hook, *_ in WRONG), "add_to_history"])
async def test_a_hook_that_is_not_async_is_named(hook: str):
    agent = overridden(hook, [], is_async=False)
    with pytest.raises(TypeError, match=rf"^Mine\.{hook} cannot be awaited: make it `async def {hook}\(\.\.\.\)`$"):
        async for _ in agent.full_round("Go."):
            pass
    assert problems(agent.chat_history) == []


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_hook_that_streams_is_named_too(is_async: bool):
    agent = overridden("get_model_stream", 3, is_async=is_async)
    with pytest.raises(TypeError, match=r"^Mine\.get_model_stream (gave 3, which is no AsyncIterable|cannot be)"):
        async for stream in agent.full_round_stream("Go."):
            await stream.message()
    assert problems(agent.chat_history) == []


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [("done", "gave 'done', which is no FunctionCallResult"), (FunctionCallResult, "cannot be awaited")],
)
async def test_a_wrong_answer_to_a_call_is_the_result_of_the_call(answer: Any, complaint: str):
    agent = overridden("do_function_call", answer, is_async=answer == "done")
    results = [message.text async for message in agent.full_round("Go.") if message.role == "tool"]
    assert all(f"Mine.do_function_call {complaint}" in text for text in results)
    assert len(results) == 2
    value = await agent.call_tool("act")
    assert value.return_value.is_error


async def test_approving_need_not_be_async():
    class Mine(Agent):
        @ai_function(approval=True)
        async def act(self) -> str:
            return "done"

        def approve_function_call(self, call: Any, function: Any) -> Any:
            return Approval.approve()

    agent = Mine(ScriptedKimi([call("act"), say("The end.")]))
    assert [message.text async for message in agent.full_round("Go.")] == ["", "done", "The end."]


async def test_a_hook_that_gives_what_can_be_awaited_need_not_be_async():
    class Mine(Working):
        def get_prompt(self, include_functions: bool = True, **overrides: Any) -> Any:
            return super().get_prompt(include_functions, **overrides)

    assert await Mine(ScriptedKimi([say("Hello.")])).chat_round_str("Hi") == "Hello."


async def test_functions_may_be_any_sequence():
    class Mine(Working):
        async def get_enabled_functions(self) -> Any:
            return tuple(await super().get_enabled_functions())

    agent = Mine(ScriptedKimi([call("act"), say("The end.")]))
    assert [message.role async for message in agent.full_round("Go.")] == ["assistant", "tool", "assistant"]
