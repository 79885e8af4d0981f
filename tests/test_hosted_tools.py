"""Tools that run on the platform: formulas as functions of an agent, and the search that is built into Kimi."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kimi_agent import (
    Agent,
    AIFunction,
    Approval,
    ApprovalPending,
    FunctionSpecError,
    Kimi,
    Message,
    NotFoundError,
    RequestSent,
    SimpleToolset,
    Tool,
    ToolCall,
    ToolOk,
    ToolsPart,
    generate,
    step,
)
from kimi_agent.errors import ChatProviderError, StreamProtocolError
from kimi_agent.kimi.formulas import HostedTool, WebSearch, uri_of
from kimi_agent.kimi.models import model_info
from kimi_agent.kimi.request import ChatRequest
from kimi_agent.prompt import counting
from kimi_agent.prompt.exact import KimiTokenCounter
from kimi_agent.prompt.tokens import found_cost, message_cost, tools_cost
from kimi_agent.testing import (
    Call,
    Delivery,
    Failure,
    Formula,
    HangUp,
    KimiServer,
    RawBody,
    Reply,
    ScriptedKimi,
    call,
    check_request,
    say,
)
from kimi_agent.tools.context import ToolContext, in_context

BASE64, SEARCH = "moonshot/base64:latest", "moonshot/web-search:latest"
FIBERS = f"/formulas/{SEARCH}/fibers"
WRITTEN = '{ "query" :"caf\\u00e9",\t"query": "Bodø 天气",  "n": 1.0}'
"""Arguments as only this model writes them: no encoder gives the same bytes."""


@asynccontextmanager
async def kimi_with(
    script: Any = None, key: str | None = None, **options: Any
) -> AsyncGenerator[tuple[Kimi, KimiServer]]:
    async with KimiServer(script) as server:
        options = {"max_retries": 0, **options}
        async with Kimi(api_key=key or server.api_key, base_url=server.base_url, **options) as kimi:
            yield kimi, server


def calling(name: str, arguments: str) -> Reply:
    return Reply(tool_calls=[Call(name, arguments)])


def call_of(name: str, arguments: str) -> ToolCall:
    return ToolCall(id="c1", function=ToolCall.FunctionBody(name=name, arguments=arguments))


async def everything(agent: Agent, query: str = "Look it up.") -> list[Message]:
    return [message async for message in agent.full_round(query)]


def fibers(server: KimiServer) -> list[Any]:
    return [json.loads(each.body) for each in server.calls if each.path.endswith("/fibers")]


# ==== finding them ====


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("web-search", SEARCH),
        ("web-search:1.2", "moonshot/web-search:1.2"),
        ("ada/compass", "ada/compass:latest"),
        ("ada/compass:3", "ada/compass:3"),
        (SEARCH, SEARCH),
        (" base64 ", BASE64),
    ],
)
def test_what_a_name_leaves_out_is_that_of_the_platform(name: str, uri: str):
    assert uri_of(name) == uri


@pytest.mark.parametrize("name", ["", " ", "/base64", "ada/", ":latest", "base64:", "ada/:1"])
async def test_what_is_no_name_is_refused_before_anybody_is_asked(name: str):
    async with kimi_with() as (kimi, server):
        with pytest.raises(ValueError, match="is no formula"):
            await kimi.formulas.functions("base64", name)
        assert server.calls == []


async def test_the_tools_of_several_formulas_come_in_the_order_of_the_names():
    async with kimi_with() as (kimi, server):
        double = Formula([server.formulas[BASE64].tools[0], named("second")], lambda name, arguments: name)
        server.formulas = {**server.formulas, "ada/two:latest": double}
        functions = await kimi.formulas.functions("fetch", SEARCH, "ada/two", "fetch")
        assert [function.base.name for function in functions] == ["fetch", "web_search", "base64", "second"]
        assert [function.uri for function in functions] == [
            "moonshot/fetch:latest",
            SEARCH,
            "ada/two:latest",
            "ada/two:latest",
        ]
        assert sorted(each.path for each in server.calls) == [
            "/formulas/ada/two:latest/tools",
            "/formulas/moonshot/fetch:latest/tools",
            f"/formulas/{SEARCH}/tools",
        ]
        assert await kimi.formulas.functions() == []


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


async def test_a_formula_that_is_not_there_is_an_error_at_once():
    async with kimi_with() as (kimi, _):
        with pytest.raises(NotFoundError):
            await kimi.formulas.functions("base64", "nothing")


async def test_what_are_no_tools_is_an_error_at_once():
    async with kimi_with() as (kimi, server):
        server.failures[f"/formulas/{BASE64}/tools"] = [RawBody(b'{"tools": 5}', "application/json")]
        with pytest.raises(StreamProtocolError):
            await kimi.formulas.functions("base64", "fetch")


async def test_they_go_through_the_algebra_of_sets():
    async with kimi_with([call("my_base64", text="tea"), say("Done.")]) as (kimi, server):
        tools = SimpleToolset(await kimi.formulas.functions("base64", "fetch")).only("base64").prefixed("my_")
        agent = Agent(kimi, functions=tools)
        said = await everything(agent)
        assert said[1].text == "dGVh"
        assert [fiber["name"] for fiber in fibers(server)] == ["base64"]


async def test_two_formulas_with_tools_of_one_name_do_not_go_together():
    async with kimi_with() as (kimi, server):
        server.formulas = {**server.formulas, "ada/base64:1": server.formulas[BASE64]}
        functions = await kimi.formulas.functions("base64", "ada/base64:1")
        with pytest.raises(FunctionSpecError, match="two functions named 'base64'"):
            Agent(kimi, functions=functions)


# ==== running them ====


async def test_an_agent_runs_a_hosted_tool_with_the_arguments_as_the_model_wrote_them():
    async with kimi_with([calling("web_search", WRITTEN), say("It rains.")]) as (kimi, server):
        agent = Agent(kimi, functions=await kimi.formulas.functions("web-search"))
        said = await everything(agent)
        assert fibers(server) == [{"name": "web_search", "arguments": WRITTEN}]
        sealed = server.formulas[SEARCH].run("web_search", WRITTEN)
        assert said[1].text == sealed
        sent = server.requests[1].body["messages"]
        assert sent[2]["content"] == sealed
        assert sent[1]["tool_calls"][0]["function"]["arguments"] == WRITTEN
        assert said[2].text == "It rains."


async def test_an_encrypted_output_is_handed_back_to_the_byte():
    sealed = "----MOONSHOT ENCRYPTED BEGIN----\n \t\\u00e9 天\u2028 \x7f==  \n"
    async with kimi_with([call("web_search", query="a"), say("Fine.")]) as (kimi, server):
        server.formulas = {
            SEARCH: Formula(server.formulas[SEARCH].tools, lambda name, arguments: sealed, encrypted=True)
        }
        await everything(Agent(kimi, functions=await kimi.formulas.functions("web-search")))
        assert server.requests[1].body["messages"][2]["content"] == sealed


async def test_a_step_runs_a_hosted_tool_with_the_arguments_as_the_model_wrote_them():
    async with kimi_with([calling("web_search", WRITTEN)]) as (kimi, server):
        toolset = SimpleToolset(await kimi.formulas.functions("web-search"))
        result = await step(kimi, "", toolset, [Message.user("Look.")])
        (outcome,) = await result.tool_results()
        assert outcome.return_value == ToolOk(output=server.formulas[SEARCH].run("", WRITTEN))
        assert fibers(server) == [{"name": "web_search", "arguments": WRITTEN}]


async def test_a_call_of_the_program_has_its_arguments_as_json():
    async with kimi_with() as (kimi, server):
        (tool,) = await kimi.formulas.functions("web-search")
        await tool.call({"query": "Bodø"})
        with in_context(ToolContext(call_of("another", '{"query": "Oslo"}'))):
            await tool.call({"query": "Bodø"})
        with in_context(ToolContext(call_of("another", "broken"))):
            await tool.call({"query": "Bodø"})
        with in_context(ToolContext(call_of("web_search", '{"query":  "Bodø"}'))):
            await tool.call({"query": "Bodø"})
        written = [fiber["arguments"] for fiber in fibers(server)]
        assert written == ['{"query":"Bodø"}'] * 3 + ['{"query":  "Bodø"}']


async def test_calls_side_by_side_do_not_take_each_others_arguments():
    texts = [f'{{"query":{" " * number}"q{number}"}}' for number in range(20)]
    script = [Reply(tool_calls=[Call("web_search", text) for text in texts]), say("Done.")]
    async with kimi_with(script) as (kimi, server):
        await everything(Agent(kimi, functions=await kimi.formulas.functions("web-search")))
        assert sorted(fiber["arguments"] for fiber in fibers(server)) == sorted(texts)


async def test_arguments_that_are_no_json_are_the_models_mistake_and_not_sent():
    async with kimi_with([calling("web_search", '{"query": '), say("Sorry.")]) as (kimi, server):
        said = await everything(Agent(kimi, functions=await kimi.formulas.functions("web-search")))
        assert said[1].is_tool_call_error
        assert fibers(server) == []


# ==== when they fail ====

Break = Callable[[KimiServer], object]


def fail_with(*faults: Any) -> Break:
    return lambda server: server.failures.update({FIBERS: list(faults)})


def raising(server: KimiServer) -> None:
    def fail(name: str, arguments: str) -> str:
        raise RuntimeError("no such query")

    server.formulas = {SEARCH: Formula(server.formulas[SEARCH].tools, fail)}


FAILURES: dict[str, tuple[Break, str]] = {
    "the formula": (raising, "no such query"),
    "no output": (fail_with(RawBody(b'{"context": {}}', "application/json")), "failed"),
    "no JSON": (fail_with(RawBody(b"<html>", "text/html")), "no JSON"),
    "the connection": (fail_with(HangUp()), "failed"),
    "the server": (fail_with(Failure(500, "server_error", "out of order")), "out of order"),
    "too busy": (fail_with(Failure(429, "rate_limit_reached_error", "too busy")), "too busy"),
    "no money": (fail_with(Failure(429, "exceeded_current_quota_error", "recharge")), "recharge"),
    "gone": (lambda server: setattr(server, "formulas", {}), "not found"),
    "the key": (fail_with(Failure(401, "invalid_authentication_error", "Invalid")), "refuses the API key"),
    "the permission": (fail_with(Failure(403, "permission_denied_error", "Denied")), "refuses the API key"),
}


@pytest.mark.parametrize(("break_", "words"), FAILURES.values(), ids=FAILURES)
async def test_whatever_fails_is_told_to_the_model_and_the_round_goes_on(break_: Break, words: str):
    script = [Reply(tool_calls=[call("web_search", query="a"), call("add", a=2, b=3)]), say("Without it, then.")]
    async with kimi_with(script) as (kimi, server):
        agent = Agent(kimi, functions=[*await kimi.formulas.functions("web-search"), add])
        break_(server)
        _, searched, added, answer = await everything(agent)
        assert searched.is_tool_call_error
        assert words in searched.text
        assert "web_search" in searched.text
        assert server.api_key not in searched.text
        assert added.text == "5"
        assert answer.text == "Without it, then."


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


async def test_a_failure_is_a_value_for_who_calls_a_tool_without_an_agent():
    async with kimi_with() as (kimi, server):
        (tool,) = await kimi.formulas.functions("web-search")
        server.failures[FIBERS] = [HangUp()]
        value = await tool.call({"query": "a"})
        assert value.is_error
        assert value.brief == "web_search: APIConnectionError"
        assert (await tool.call({"query": object()})).is_error


async def test_what_the_model_is_told_may_be_said_differently():
    class Norwegian(HostedTool):
        def failed(self, error: Exception) -> str:
            return f"Det gikk ikke ({type(error).__name__})."

    async with kimi_with() as (kimi, server):
        (tool,) = await kimi.formulas.tools(SEARCH)
        server.failures[FIBERS] = [Failure(500, "server_error", "oops")]
        value = await Norwegian(kimi.formulas, SEARCH, tool).call({"query": "a"})
        assert value.message == "Det gikk ikke (ServerError)."


async def test_cancelling_a_call_cancels_its_request():
    async with kimi_with() as (kimi, server):
        (tool,) = await kimi.formulas.functions("web-search")
        server.failures[FIBERS] = [RawBody(b"{}", "application/json", delivery=Delivery(stop_after=1, stop="stall"))]
        task = asyncio.ensure_future(tool.call({"query": "a"}))
        await server.until(lambda: fibers(server))
        open_before = server.connections
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda: server.connections < open_before)


async def test_leaving_a_round_cancels_the_request_of_its_call():
    async with kimi_with([call("web_search", query="a")]) as (kimi, server):
        agent = Agent(kimi, functions=await kimi.formulas.functions("web-search"))
        server.failures[FIBERS] = [RawBody(b"{}", "application/json", delivery=Delivery(stop_after=1, stop="stall"))]
        round_ = agent.full_round("Look.")
        await anext(round_)
        waiting = asyncio.ensure_future(anext(round_))
        await server.until(lambda: fibers(server))
        waiting.cancel()
        await asyncio.wait([waiting])
        await round_.aclose()
        assert [message.role for message in agent.chat_history] == ["user", "assistant", "tool"]
        assert agent.chat_history[-1].is_tool_call_error


async def test_a_tool_has_the_timeout_that_it_was_given():
    async with kimi_with() as (kimi, _):
        patient, hasty = (
            (await kimi.formulas.functions("base64"))[0],
            (await kimi.formulas.functions("base64", timeout=2.5))[0],
        )
        assert (patient.timeout, hasty.timeout) == (None, 2.5)
        hasty.timeout = 4
        assert hasty.timeout == 4


async def test_a_call_of_a_hosted_tool_may_need_an_approval():
    async with kimi_with([calling("web_search", WRITTEN), say("It rains.")]) as (kimi, server):
        (tool,) = await kimi.formulas.functions("web-search")
        tool.approval = True
        agent = Agent(kimi, functions=[tool])
        with pytest.raises(ApprovalPending) as pending:
            await everything(agent)
        assert fibers(server) == []
        said = [message async for message in agent.resume([Approval.approve(each) for each in pending.value.calls])]
        assert said[-1].text == "It rains."
        assert fibers(server) == [{"name": "web_search", "arguments": WRITTEN}]


async def test_a_hosted_tool_that_takes_too_long_is_given_up():
    async with kimi_with([call("web_search", query="a"), say("Without it, then.")]) as (kimi, server):
        agent = Agent(kimi, functions=await kimi.formulas.functions("web-search", timeout=0.01))
        server.failures[FIBERS] = [RawBody(b"{}", "application/json", delivery=Delivery(stop_after=1, stop="stall"))]
        said = await everything(agent)
        assert said[1].is_tool_call_error
        assert said[2].text == "Without it, then."


async def test_a_hosted_tool_outlives_the_pool_of_its_client():
    async with kimi_with() as (kimi, _):
        (tool,) = await kimi.formulas.functions("base64")
        await kimi.aclose()
        assert not (await tool.call({"text": "tea"})).is_error


async def test_the_stand_ins_of_the_server_answer_an_offline_agent():
    async with kimi_with() as (kimi, server):
        agent = Agent(kimi, functions=await kimi.formulas.functions("web-search", "fetch", "base64"))
        said = await everything(agent, "What is Oslo in base64?")
        assert [message.role for message in said] == ["assistant", "tool", "assistant"]
        assert "T3Nsbw==" in said[2].text
        assert len(fibers(server)) == 1


# ==== the built-in search ====

FOUND = '{"search_result": {"search_id":"s-1"}, "usage":{"total_tokens": 2048}}'


def on_the_wire(model: str, tools: list[Tool], history: list[Message], **asked: Any) -> Any:
    return json.loads(ChatRequest(model_info(model), "", tools, history, asked).body())


@pytest.mark.parametrize("model", ["kimi-k3", "kimi-k2.6", "kimi-k2.7-code"])
@pytest.mark.parametrize("choice", ["auto", "none"])
def test_the_search_is_sent_by_its_name_alone_and_kimi_takes_it(model: str, choice: Any):
    body = on_the_wire(model, [WebSearch().base, AIFunction(add).base], [Message.user("a")], tool_choice=choice)
    assert body["tools"][0] == {"type": "builtin_function", "function": {"name": "$web_search"}}
    assert check_request(body) is None


@pytest.mark.parametrize("written", [FOUND, WRITTEN, "{}", '{"a":\t1}', '{"a": "\\ud83d"}', "null"])
async def test_the_arguments_of_a_search_go_back_to_the_byte(written: str):
    script = [calling("$web_search", written), say("It rains.")]
    async with kimi_with(script) as (kimi, server):
        agent = Agent(kimi, functions=[WebSearch()])
        said = await everything(agent)
        assert said[1].text == written
        assert not said[1].is_tool_call_error
        asked, answered = server.requests[1].body["messages"][1:]
        assert answered["content"] == asked["tool_calls"][0]["function"]["arguments"] == written
        assert server.requests[1].body["tools"] == [{"type": "builtin_function", "function": {"name": "$web_search"}}]


async def test_a_search_without_arguments_gives_back_what_is_sent_as_such():
    async with kimi_with([calling("$web_search", ""), say("Fine.")]) as (kimi, server):
        await everything(Agent(kimi, functions=[WebSearch()]))
        asked, answered = server.requests[1].body["messages"][1:]
        assert answered["content"] == asked["tool_calls"][0]["function"]["arguments"] == "{}"


async def test_a_step_gives_the_arguments_of_a_search_back_to_the_byte():
    result = await step(
        ScriptedKimi([calling("$web_search", FOUND)]), "", SimpleToolset([WebSearch()]), [Message.user("a")]
    )
    (outcome,) = await result.tool_results()
    assert outcome.return_value == ToolOk(output=FOUND)


async def test_a_search_and_functions_run_side_by_side():
    script = [Reply(tool_calls=[Call("$web_search", FOUND), call("add", a=2, b=3)]), say("Fine.")]
    said = await everything(Agent(ScriptedKimi(script), functions=[WebSearch(), add]))
    assert [message.text for message in said[1:3]] == [FOUND, "5"]


async def test_the_search_can_be_switched_off():
    provider = ScriptedKimi([say("Fine.")])
    toolset = SimpleToolset([WebSearch(), add]).disable("$web_search")
    await Agent(provider, functions=toolset).chat_round("Look.")
    assert [tool["function"]["name"] for tool in provider.requests[0].body["tools"]] == ["add"]


def test_the_search_has_a_name_that_cannot_be_changed():
    with pytest.raises(FunctionSpecError, match=r"'my_\$web_search'"):
        SimpleToolset([WebSearch()]).prefixed("my_")


@pytest.mark.parametrize("name", ["a.json", "a.kimi"])
async def test_a_conversation_with_a_search_is_saved_and_goes_on(tmp_path: Path, name: str):
    agent = Agent(ScriptedKimi([calling("$web_search", FOUND), say("It rains.")]), functions=[WebSearch()])
    await everything(agent)
    agent.save(tmp_path / name)
    provider = ScriptedKimi([say("Still.")])
    again = Agent(provider, functions=[WebSearch()])
    again.load(tmp_path / name)
    assert again.chat_history == agent.chat_history
    await again.chat_round("And now?")
    assert provider.requests[0].body["messages"][2]["content"] == FOUND


async def test_the_offline_stand_in_searches_when_it_is_asked_to():
    async with kimi_with() as (kimi, server):
        said = await everything(Agent(kimi, functions=[WebSearch(), add]), "Search the web for tea.")
        assert said[0].tool_calls is not None
        assert said[0].tool_calls[0].name == "$web_search"
        assert said[1].text == said[0].tool_calls[0].arguments
        assert "no web" in said[2].text
        said = await everything(Agent(kimi, functions=[WebSearch()]), "How are you?")
        assert len(said) == 1
        (only,) = [
            reply
            async for reply in Agent(kimi, functions=[WebSearch()]).full_round("Search the web", tool_choice="none")
        ]
        assert not only.tool_calls
        assert all(check_request(request.body) is None for request in server.requests)


# ==== counting ====


def test_the_search_is_estimated_as_what_is_sent():
    wordy = WebSearch.base.copy_with(description="word " * 1000)
    assert tools_cost([wordy]) == tools_cost([WebSearch.base]) < 80


def result(text: str, name: str = "$web_search") -> Message:
    return Message.tool(text, "c1", name=name)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (FOUND, 2048),
        ("{}", 0),
        ("", 0),
        ("broken", 0),
        ("[1]", 0),
        ("5", 0),
        ("null", 0),
        ('{"usage": 5}', 0),
        ('{"usage": {"total_tokens": true}}', 0),
        ('{"usage": {"total_tokens": "9"}}', 0),
        ('{"usage": {"total_tokens": -9}}', 0),
        ('{"usage": {"total_tokens": 1e99}}', 0),
        ('{"usage": {"total_tokens": 99999999999}}', 0),
        ("[" * 100_000, 0),
    ],
)
def test_what_a_search_found_is_counted_as_it_says(text: str, tokens: int):
    assert found_cost(result(text)) == tokens
    assert found_cost(result(text, name="web_search")) == 0
    assert found_cost(Message.user(text)) == 0


def test_the_estimate_of_a_result_has_what_was_found():
    assert message_cost(result(FOUND)) > 2048
    assert message_cost(result(FOUND, "other")) < 100


def test_the_exact_count_has_what_was_found_beside_the_text(data: Path, monkeypatch: pytest.MonkeyPatch):
    path = data / "tiktoken.model"
    monkeypatch.setenv("KIMI_AGENT_RANKS", str(path))
    monkeypatch.setattr(counting, "_known", {})
    for model in ("kimi-k3", "kimi-k2.6"):
        counter, plain = counting.counter_for(model), KimiTokenCounter.from_file(path, model)
        assert counter.is_exact
        assert counter.message_cost(result(FOUND)) == plain.count_message(result(FOUND)) + 2048
        assert counter.message_cost(result("{}")) == plain.count_message(result("{}"))
        body = on_the_wire(model, [WebSearch.base], [Message.user("a")])
        assert counter.overhead([WebSearch.base], {}) == plain.count_overhead({"tools": body["tools"]})


async def test_a_window_that_what_was_found_would_burst_keeps_less_of_the_history():
    provider = ScriptedKimi(
        [say("old " * 1_800), calling("$web_search", FOUND.replace("2048", "3000")), say("Fine.")], context_window=5_000
    )
    agent = Agent(provider, functions=[WebSearch()], desired_response_tokens=500)
    await agent.chat_round("Long ago?")
    await everything(agent)
    assert len(provider.requests[1].body["messages"]) == 3
    assert len(provider.requests[2].body["messages"]) == 3


async def test_an_event_has_the_search_in_the_body():
    bodies: list[Any] = []
    async with kimi_with([say("Fine.")]) as (kimi, _):
        agent = Agent(kimi, functions=[WebSearch()])
        agent.on(RequestSent, lambda event: bodies.append(json.loads(event.body)))
        await agent.chat_round("Look.")
    assert bodies[0]["tools"] == [{"type": "builtin_function", "function": {"name": "$web_search"}}]
    assert bodies[0]["tool_choice"] == "none"


async def test_a_search_may_be_declared_by_hand_as_kimi_writes_it():
    kimi = ScriptedKimi([say("Fine.")], check=False)
    await generate(kimi, "", [], [Message.system(ToolsPart(tools=[WebSearch.base])), Message.user("a")])
    assert kimi.requests[0].body["messages"][0]["tools"] == [
        {"type": "builtin_function", "function": {"name": "$web_search"}}
    ]


def test_the_errors_of_formulas_are_of_the_provider():
    assert issubclass(NotFoundError, ChatProviderError)
