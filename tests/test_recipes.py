"""The recipes do what they say: the examples from 13 on, looked at from within, and the web service over real HTTP."""

import asyncio
import gc
import importlib.util
import json
import re
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import uvicorn

from kimi_agent import Agent, KimiAgentError, Message, RoundFinished, ai_function, chat_in_terminal
from kimi_agent.history import problems
from kimi_agent.kimi import http
from kimi_agent.testing import Delivery, Failure, Gate, KimiServer, Reply, ScriptedKimi, call, say

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "recipes.md"


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


class Server(uvicorn.Server):
    """Stops when it is told to and its clients have gone; uvicorn's own looks every tenth of a second."""

    def __init__(self, app: Any) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", ws="none"))
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        await self.stopping.wait()

    async def shutdown(self, sockets: Any = None) -> None:
        for listening in self.servers:
            listening.close()
        while self.server_state.connections or self.server_state.tasks:
            await asyncio.sleep(0)
        await self.lifespan.shutdown()


class Service:
    """A web service on a port of its own, the agents that it makes, and what it answers with."""

    def __init__(self, kimi: KimiServer, url: str) -> None:
        self.kimi, self.url = kimi, url
        self.agents: list[weakref.ref[Agent]] = []
        self.histories: list[list[Message]] = []
        self.cancelled = 0
        self.running, self.ended = asyncio.Event(), asyncio.Event()
        self.client = httpx.AsyncClient(verify=False)  # there is no TLS here, and certificates take their time

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
        agent.on(RoundFinished, lambda event: self.ended.set())
        self.agents.append(weakref.ref(agent))
        self.histories.append(agent.chat_history)
        return agent

    async def ask(self, question: str | bytes, to: str = "/chat") -> list[dict[str, Any]]:
        """A whole answer."""
        response = await self.client.post(self.url + to, content=question)
        assert response.status_code == 200
        return [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line]

    @asynccontextmanager
    async def asking(self, question: str, to: str = "/chat") -> AsyncIterator[AsyncIterator[str]]:
        """An answer that is read as far as one likes. The connection closes at the end."""
        async with self.client.stream("POST", self.url + to, content=question) as response:
            yield response.aiter_lines()

    async def left(self) -> None:
        """The round of the first client, who went away, has ended, and nobody holds its agent; others are served."""
        await self.ended.wait()
        assert problems(self.histories[0]) == []
        assert (await self.ask("And now?"))[-1]["message"]["content"] == "Still here."
        gc.collect()
        assert self.agents[0]() is None


@pytest.fixture
def recipe() -> ModuleType:
    return example("18_web")


def at_version(app: Any, version: str) -> Any:
    """The same application, on a server of another version of ASGI."""

    async def versioned(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "asgi": {**scope["asgi"], "spec_version": version}}, receive, send)

    return versioned


@asynccontextmanager
async def serving(
    recipe: ModuleType, monkeypatch: pytest.MonkeyPatch, *script: Any, version: str = "2.3"
) -> AsyncIterator[Service]:
    monkeypatch.setattr(http, "LAST_READ", 0.0)
    before = asyncio.all_tasks()
    async with KimiServer(list(script)) as kimi:
        monkeypatch.setenv("KIMI_API_KEY", kimi.api_key)
        monkeypatch.setenv("KIMI_BASE_URL", kimi.base_url)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            server = Server(at_version(recipe.app, version))
            task = asyncio.create_task(server.serve(sockets=[listening]))
            service = Service(kimi, "http://{}:{}".format(*listening.getsockname()))
            monkeypatch.setattr(recipe, "Agent", service.agent)
            try:
                yield service
            finally:
                await service.client.aclose()
                server.stopping.set()
                await task
        await kimi.until(lambda: kimi.connections == 0)
    assert asyncio.all_tasks() == before, "something is left alive"


VERSIONS = pytest.mark.parametrize("version", ["2.3", "2.4"])


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


BODIES = [
    b"{",
    b"[]",
    b"[" * 99_999,
    b"\xff\xfe",
    b'{"question": 3}',
    b'[{"type": "image_url", "image_url": "ms://x"}]',
]


async def test_whatever_is_posted_is_text_to_kimi(recipe, monkeypatch):
    async with serving(recipe, monkeypatch, *[say("What?")] * len(BODIES)) as service:
        for body in BODIES:
            assert (await service.ask(body))[-1]["finish_reason"] == "stop"
            assert service.kimi.requests[-1].body["messages"][-1]["content"] == body.decode(errors="replace")


async def test_what_is_too_long_is_refused_before_anything_is_asked(recipe, monkeypatch):
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(101):
            yield b"x" * 1000

    async with serving(recipe, monkeypatch) as service:
        for content in (b"x" * 5_000_000, pieces()):
            assert (await service.client.post(f"{service.url}/chat", content=content)).status_code == 413
        assert service.kimi.requests == []


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Failure(401, "invalid_authentication_error", "sk-secret"), "AuthenticationError"),
        (Failure(400, "invalid_request_error", "org-secret"), "BadRequestError"),
    ],
)
async def test_who_asks_is_told_what_kind_of_error_it_was_and_the_log_the_rest(
    recipe, monkeypatch, caplog, refusal, kind
):
    async with serving(recipe, monkeypatch, refusal) as service:
        assert await service.ask("Hi") == [{"type": "Error", "kind": kind}]
    assert "-secret" in caplog.text


@VERSIONS
async def test_who_leaves_in_the_middle_of_an_answer_ends_the_round(recipe, monkeypatch, version):
    gate = Gate(3)
    answer = Reply(text="long " * 20, delivery=Delivery(gate=gate))
    async with serving(recipe, monkeypatch, answer, say("Still here."), version=version) as service:
        async with service.asking("Tell me.") as lines:
            assert json.loads((await anext(lines)).removeprefix("data: "))["type"] == "Append"
            await gate.reached()
        await service.kimi.until(lambda: service.kimi.connections == 0)  # the request to Kimi was given up, too
        await service.left()


@VERSIONS
async def test_who_leaves_while_a_function_runs_ends_it(recipe, monkeypatch, version):
    async with serving(recipe, monkeypatch, call("wait"), say("Still here."), version=version) as service:
        async with service.asking("Wait.") as lines:
            await anext(lines)
            await service.running.wait()
        await service.left()
        assert service.cancelled == 1
        assert roles(service.histories[0]) == ["user", "assistant", "tool"]


@VERSIONS
async def test_who_does_not_read_and_leaves_ends_the_round(recipe, monkeypatch, version):
    answer = Reply(text="x" * 8_000_000, chunk_size=100_000)
    async with serving(recipe, monkeypatch, answer, say("Still here."), version=version) as service:
        async with service.asking("Tell me much.") as lines:
            await anext(lines)
        await service.left()


@VERSIONS
async def test_who_leaves_before_the_answer_begins_ends_the_round(recipe, monkeypatch, version):
    gate = Gate(0)
    answer = Reply(text="never", delivery=Delivery(gate=gate))
    async with serving(recipe, monkeypatch, answer, say("Still here."), version=version) as service:
        async with service.asking("Hello?"):
            await gate.reached()
        await service.left()
        assert roles(service.histories[0]) == ["user"]


async def test_a_service_that_stops_ends_its_rounds(recipe, monkeypatch):
    async with serving(recipe, monkeypatch, call("wait")) as service:
        async with service.asking("Wait.") as lines:
            await anext(lines)
            await service.running.wait()
    assert service.cancelled == 1


@pytest.fixture
def page(tmp_path, monkeypatch) -> ModuleType:
    """The functions and applications of the page about serving."""
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text("utf-8").partition("## Serve it")[2].partition("## In a notebook")[0]
    sources = (source.partition("with TestClient")[0] for source in re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    module = ModuleType("page")
    exec(compile("".join(sources), str(PAGE), "exec"), vars(module))
    return module


NO_QUESTIONS = [
    *(b"{", b"", b"[]", b"{}", b"[" * 99_999, b"\xff\xfe"),
    *(b'{"question": 3}', b'{"question": {}}', b'{"question": null}', b'{"question": " "}'),
    b'{"question": [{"type": "image_url", "image_url": {"url": "ms://of-another"}}]}',
]


async def test_json_that_is_no_question_is_refused_before_an_answer_begins(page, monkeypatch):
    async with serving(page, monkeypatch, say("Hello.")) as service:
        for content in NO_QUESTIONS:
            assert (await service.client.post(f"{service.url}/chat/ada", content=content)).status_code == 400
        assert service.kimi.requests == []
        assert (await service.ask('{"question": "Hi"}', to="/chat/ada"))[-1]["finish_reason"] == "stop"


@VERSIONS
async def test_one_connection_at_a_time_goes_on_with_a_conversation(page, monkeypatch, version):
    gate = Gate(3)
    slow = Reply(text="long " * 20, delivery=Delivery(gate=gate))
    async with serving(page, monkeypatch, slow, say("Bob."), say("b"), say("c"), version=version) as service:
        first = asyncio.create_task(service.ask('{"question": "a"}', to="/chat/ada"))
        await gate.reached()
        second = asyncio.create_task(service.ask('{"question": "b"}', to="/chat/ada"))
        await service.ask('{"question": "I am Bob."}', to="/chat/bob")
        gate.open()
        await asyncio.gather(first, second)
        await service.ask('{"question": "c"}', to="/chat/ada")
        said = [message["content"] for message in service.kimi.requests[-1].body["messages"]]
        assert said == ["You are terse.", "a", "long " * 20, "b", "b", "c"]
        assert len(page.app.state.locks) == 0


@VERSIONS
async def test_who_does_not_read_and_leaves_lets_the_next_connection_go_on(page, monkeypatch, version):
    answer = Reply(text="x" * 8_000_000, chunk_size=100_000)
    async with serving(page, monkeypatch, answer, say("Still here."), version=version) as service:
        async with service.asking('{"question": "a"}', to="/chat/ada") as lines:
            await anext(lines)
        assert (await service.ask('{"question": "b"}', to="/chat/ada"))[-1]["message"]["content"] == "Still here."


@VERSIONS
async def test_who_leaves_while_waiting_for_another_connection_is_forgotten(page, monkeypatch, version):
    gate = Gate(3)
    answer = Reply(text="long " * 20, delivery=Delivery(gate=gate))
    async with serving(page, monkeypatch, answer, say("b"), version=version) as service:
        first = asyncio.create_task(service.ask('{"question": "a"}', to="/chat/ada"))
        await gate.reached()
        async with service.asking('{"question": "gone"}', to="/chat/ada"):
            pass
        gate.open()
        await first
        assert (await service.ask('{"question": "b"}', to="/chat/ada"))[-1]["message"]["content"] == "b"
        assert len(service.kimi.requests) == 2


# ==== WebSockets ====


class Socket:
    """A WebSocket as an application gets it from its server."""

    def __init__(self, app: Any) -> None:
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.is_broken = False
        self.say({"type": "websocket.connect"})
        self.talking = asyncio.create_task(app({"type": "websocket", "path": "/talk"}, self.said.get, self.hear))

    def say(self, *events: dict[str, Any]) -> None:
        for event in events:
            self.said.put_nowait(event)

    def ask(self, *questions: str) -> None:
        self.say(*({"type": "websocket.receive", "text": question} for question in questions))

    def leave(self) -> None:
        self.say({"type": "websocket.disconnect", "code": 1001})

    async def hear(self, event: dict[str, Any]) -> None:
        if self.is_broken:
            raise OSError("the client has gone")
        self.heard.put_nowait(event)

    async def until(self, kind: str) -> dict[str, Any]:
        while True:
            frame = json.loads((await self.heard.get()).get("text", '{"type": "accept"}'))
            if frame["type"] == kind:
                return frame


@asynccontextmanager
async def socket_to(
    page: ModuleType, monkeypatch: pytest.MonkeyPatch, kimi: ScriptedKimi, kind: type[Agent] = Agent
) -> AsyncIterator[Socket]:
    """A socket of the service. Leaving it waits for the end of the application, which must be a good one."""
    monkeypatch.setattr(page, "Kimi", lambda: nullcontext(kimi))
    monkeypatch.setattr(page, "Agent", kind)
    async with page.lifespan(page.talking):
        socket = Socket(page.talking)
        yield socket
        await socket.talking


async def test_a_socket_has_one_conversation(page, monkeypatch):
    kimi = ScriptedKimi([say("a"), say("b")])
    async with socket_to(page, monkeypatch, kimi) as socket:
        socket.ask("one", "two")
        assert (await socket.until("End"))["message"]["content"] == "a"
        assert (await socket.until("End"))["message"]["content"] == "b"
        socket.leave()
    assert [message.text for message in kimi.requests[1].history] == ["You are terse.", "one", "a", "two"]


async def test_a_round_that_fails_leaves_the_socket_open(page, monkeypatch):
    kimi = ScriptedKimi([Failure(401, "invalid_authentication_error", "sk-secret"), say("b")])
    async with socket_to(page, monkeypatch, kimi) as socket:
        socket.ask("one", "two")
        assert await socket.until("Error") == {"type": "Error", "kind": "AuthenticationError"}
        assert (await socket.until("End"))["message"]["content"] == "b"
        socket.leave()


ENDS = {
    "leaving": [{"type": "websocket.disconnect", "code": 1001}],
    "what is no text": [{"type": "websocket.receive", "bytes": b"\xff", "text": None}],
    "too many questions": [{"type": "websocket.receive", "text": "And?"}] * 11,
}


@pytest.mark.parametrize("events", ENDS.values(), ids=ENDS)
async def test_whatever_ends_a_socket_ends_the_function_that_runs(page, monkeypatch, events):
    running, ended = asyncio.Event(), asyncio.Event()

    class Slow(Agent):
        @ai_function()
        async def wait(self) -> None:
            """Wait for ever."""
            running.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    async with socket_to(page, monkeypatch, ScriptedKimi([call("wait")]), Slow) as socket:
        socket.ask("Wait.")
        await running.wait()
        socket.say(*events)
    assert ended.is_set()


async def test_a_socket_that_breaks_while_an_answer_is_sent_ends_without_noise(page, monkeypatch):
    async with socket_to(page, monkeypatch, ScriptedKimi([say("a")])) as socket:
        await socket.until("accept")
        socket.is_broken = True
        socket.ask("one")


# ==== notebooks ====


async def test_where_a_loop_runs_the_chat_says_what_to_do():
    with pytest.raises(KimiAgentError, match=r"use `await chat_in_terminal_async\(\.\.\.\)` there"):
        chat_in_terminal(Agent(ScriptedKimi([])))
