"""The recipes do what they say: the examples from 13 on, looked at from within, and the web service over real HTTP."""

import asyncio
import gc
import importlib.util
import json
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import uvicorn

from kimi_agent import Agent, KimiAgentError, Message, ai_function, chat_in_terminal
from kimi_agent.history import problems
from kimi_agent.testing import Delivery, Gate, KimiServer, Reply, ScriptedKimi, call, say

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> ModuleType:
    """An example as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def roles(messages: Any) -> list[str]:
    return [message.role for message in messages]


# ==== few-shot ====


async def test_the_model_sees_the_example_before_everything_and_it_is_not_in_the_history():
    recipe = example("13_few_shot")
    kimi = ScriptedKimi([call("convert", amount=200, currency="SEK"), say("200 SEK = 17.40 EUR"), say("Yes.")])
    agent = recipe.Exchange(kimi, "You are terse.", always_included_messages=recipe.EXAMPLE)
    answers = [message.text async for message in agent.full_round("Convert 200 SEK.")]
    assert answers == ["", "17.40 EUR", "200 SEK = 17.40 EUR"]
    await agent.chat_round("Sure?")
    for request in kimi.requests:
        assert list(request.history[:5]) == [Message.system("You are terse."), *recipe.EXAMPLE]
    assert roles(agent.chat_history) == ["user", "assistant", "tool", "assistant", "user", "assistant"]
    assert problems(recipe.EXAMPLE) == []


# ==== the last four ====


async def test_the_model_sees_what_is_pinned_and_four_messages():
    kimi = ScriptedKimi([say("1"), say("2"), say("3")])
    agent = example("14_last_four").Forgetful(kimi, "You are terse.")
    for said in ("a", "b", "c"):
        await agent.chat_round(said)
    assert [message.text for message in kimi.requests[2].history] == ["You are terse.", "1", "b", "2", "c"]
    assert len(agent.chat_history) == 6


async def test_many_results_stay_with_the_message_that_called():
    def look(where: str) -> str:
        """Look around."""
        return f"{where}: dark"

    calls = [call("look", where=str(number)) for number in range(6)]
    kimi = ScriptedKimi([say("Hi."), Reply(tool_calls=calls), say("Dark.")])
    agent = example("14_last_four").Forgetful(kimi, functions=[look])
    await agent.chat_round("Hello.")
    assert [message.text async for message in agent.full_round("Look.")][-1] == "Dark."
    sent = kimi.requests[2].history
    assert roles(sent) == ["assistant", *["tool"] * 6]
    assert [message.text for message in sent[1:]] == [f"{number}: dark" for number in range(6)]


# ==== errors ====


async def test_an_error_for_a_person_is_not_told_to_the_model_and_not_tried_again(capsys):
    kimi = ScriptedKimi([call("get_stock", item="tea"), say("Call the shop.")])
    agent = example("15_errors").Stock(kimi, retry_attempts=5)
    messages = [message async for message in agent.full_round("Tea?")]
    assert messages[1].text == "The stock list is closed today. Tell the user to call the shop."
    assert messages[1].is_tool_call_error
    assert "db-3" in capsys.readouterr().out
    assert not any("db-3" in message.text for message in agent.chat_history)


async def test_any_other_error_is_told_as_always():
    kimi = ScriptedKimi([call("get_stock", item="milk"), call("get_stock", item="coffee"), say("Coffee.")])
    agent = example("15_errors").Stock(kimi)
    texts = [message.text async for message in agent.full_round("Milk?")]
    assert texts == ["", "Error: KeyError: 'milk'", "", "12", "Coffee."]


# ==== the log ====


async def test_every_message_is_a_line_as_soon_as_it_is_said(tmp_path):
    kimi = ScriptedKimi([call("get_weather", city="Oslo"), say("Rain. \u2028 天气 \ud83d")])
    agent = example("16_log").Logged(kimi)
    agent.log = tmp_path / "log.jsonl"
    seen = []
    async for message in agent.full_round("Oslo?"):
        lines = [json.loads(line) for line in agent.log.read_text("utf-8").split("\n") if line]
        seen.append(len(lines))
        assert Message.model_validate({key: value for key, value in lines[-1].items() if key != "at"}) == message
    assert seen == [2, 3, 4]


# ==== retrieval ====


async def test_what_is_found_is_what_the_model_reads():
    kimi = ScriptedKimi([call("search", query="late books", limit=1), call("search", query="xyzzy"), say("0.20 EUR.")])
    agent = example("17_retrieval").Librarian(kimi)
    texts = [message.text async for message in agent.full_round("What do late books cost?")]
    assert json.loads(texts[1]) == [{"page": "fees", "text": "A late book costs 0.20 EUR a day, and 10 EUR at most."}]
    assert texts[3] == "[]"


# ==== the web service ====


class Service:
    """The web service of the example, on a port of its own, and what it answers with."""

    def __init__(self, recipe: ModuleType, kimi: KimiServer, url: str) -> None:
        self.recipe, self.kimi, self.url = recipe, kimi, url
        self.agents: list[weakref.ref[Agent]] = []
        self.histories: list[list[Message]] = []
        self.cancelled = 0
        self.running = asyncio.Event()
        self.client = httpx.AsyncClient()

    def agent(self, *args: Any, **kwargs: Any) -> Agent:
        service = self

        class Slow(Agent):
            @ai_function()
            async def wait(self) -> str:
                """Wait for ever."""
                service.running.set()
                try:
                    return await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    service.cancelled += 1
                    raise

        agent = Slow(*args, **kwargs)
        self.agents.append(weakref.ref(agent))
        self.histories.append(agent.chat_history)
        return agent

    def first_is_gone(self) -> bool:
        """Whether nobody holds the first agent any more."""
        gc.collect()
        return self.agents[0]() is None

    async def ask(self, question: str) -> list[dict[str, Any]]:
        """A whole answer."""
        response = await self.client.post(self.url, json={"question": question})
        return [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line]

    @asynccontextmanager
    async def asking(self, question: str) -> AsyncIterator[AsyncIterator[str]]:
        """An answer that is read as far as one likes. The connection closes at the end."""
        async with self.client.stream("POST", self.url, json={"question": question}) as response:
            yield response.aiter_lines()


@pytest.fixture
def recipe() -> ModuleType:
    return example("18_web")


@asynccontextmanager
async def serving(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch, *script: Any) -> AsyncIterator[Service]:
    before = asyncio.all_tasks()
    async with KimiServer(list(script)) as kimi:
        monkeypatch.setenv("KIMI_API_KEY", kimi.api_key)
        monkeypatch.setenv("KIMI_BASE_URL", kimi.base_url)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            server = uvicorn.Server(uvicorn.Config(recipe.app, log_level="warning", ws="none"))
            task = asyncio.create_task(server.serve(sockets=[listening]))
            service = Service(recipe, kimi, "http://{}:{}/chat".format(*listening.getsockname()))
            monkeypatch.setattr(recipe, "Agent", service.agent)
            try:
                yield service
            finally:
                await service.client.aclose()
                server.should_exit = True
                await task
        await kimi.until(lambda: kimi.connections == 0)
    assert asyncio.all_tasks() == before, "something is left alive"


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_round_arrives_as_events(recipe, monkeypatch):
    async with serving(recipe, monkeypatch, say("Hello.")) as service:
        frames = await service.ask("Hi")
        assert "".join(frame["text"] for frame in frames if frame["type"] == "Append") == "Hello."
        assert frames[-1]["type"] == "End"


async def test_each_connection_has_a_conversation_of_its_own(recipe, monkeypatch):
    async with serving(recipe, monkeypatch, say("a"), say("b")) as service:
        await service.ask("one")
        await service.ask("two")
        assert [message["content"] for message in service.kimi.requests[1].body["messages"]] == [
            "You are terse.",
            "two",
        ]


async def test_connections_are_served_at_the_same_time(recipe, monkeypatch):
    gates = [Gate(2), Gate(2)]
    script = [Reply(text="long " * 20, delivery=Delivery(gate=gate)) for gate in gates]
    async with serving(recipe, monkeypatch, *script) as service:
        asked = [asyncio.create_task(service.ask(f"question {number}")) for number in range(2)]
        for gate in gates:
            await gate.reached()
        for gate in gates:
            gate.open()
        for frames in await asyncio.gather(*asked):
            assert frames[-1]["finish_reason"] == "stop"


async def test_who_leaves_in_the_middle_of_an_answer_ends_the_round(recipe, monkeypatch):
    gate = Gate(3)
    answer = Reply(text="long " * 20, delivery=Delivery(gate=gate))
    async with serving(recipe, monkeypatch, answer, say("Still here.")) as service:
        async with service.asking("Tell me.") as lines:
            assert json.loads((await anext(lines)).removeprefix("data: "))["type"] == "Append"
            await gate.reached()
        async with asyncio.timeout(20):
            await service.kimi.until(lambda: service.kimi.connections == 0)  # the request to Kimi was given up, too
        await until(service.first_is_gone)
        assert problems(service.histories[0]) == []
        assert (await service.ask("And now?"))[-1]["message"]["content"] == "Still here."


async def test_who_leaves_while_a_function_runs_ends_it(recipe, monkeypatch):
    async with serving(recipe, monkeypatch, call("wait"), say("Still here.")) as service:
        async with service.asking("Wait.") as lines:
            await anext(lines)
            async with asyncio.timeout(20):
                await service.running.wait()
        await until(lambda: service.cancelled == 1)
        await until(service.first_is_gone)
        assert roles(service.histories[0]) == ["user", "assistant", "tool"]
        assert problems(service.histories[0]) == []
        assert (await service.ask("And now?"))[-1]["message"]["content"] == "Still here."


async def test_who_does_not_read_and_leaves_ends_the_round(recipe, monkeypatch):
    answer = Reply(text="x" * 8_000_000, chunk_size=100_000)
    async with serving(recipe, monkeypatch, answer, say("Still here.")) as service:
        async with service.asking("Tell me much.") as lines:
            await anext(lines)
        await until(service.first_is_gone)
        assert (await service.ask("And now?"))[-1]["message"]["content"] == "Still here."


async def test_who_leaves_before_the_answer_begins_ends_the_round(recipe, monkeypatch):
    gate = Gate(0)
    answer = Reply(text="never", delivery=Delivery(gate=gate))
    async with serving(recipe, monkeypatch, answer, say("Still here.")) as service:
        async with service.asking("Hello?"):
            await gate.reached()
        await until(service.first_is_gone)
        assert roles(service.histories[0]) == ["user"]
        assert (await service.ask("And now?"))[-1]["message"]["content"] == "Still here."


async def test_a_service_that_stops_ends_its_rounds(recipe, monkeypatch):
    async with serving(recipe, monkeypatch, call("wait")) as service:
        async with service.asking("Wait.") as lines:
            await anext(lines)
            await service.running.wait()
    assert service.cancelled == 1


# ==== notebooks ====


async def test_where_a_loop_runs_the_chat_says_what_to_do():
    with pytest.raises(KimiAgentError, match=r"use `await chat_in_terminal_async\(\.\.\.\)` there"):
        chat_in_terminal(Agent(ScriptedKimi([])))
