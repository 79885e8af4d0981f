"""Tools of MCP servers. The servers are real: those of the `mcp` package, over stdio and HTTP, and one that is scripted
to do wrong what a server can do wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from loguru import logger

from kimi_agent import (
    Agent,
    AudioURLPart,
    FunctionSpecError,
    ImageURLPart,
    MCPServerError,
    MCPTool,
    MCPToolset,
    SimpleToolset,
    TextPart,
    ToolCall,
    VideoURLPart,
    mcp_tools,
)
from kimi_agent.kimi.schema import to_mfjs
from kimi_agent.message import MediaURL
from kimi_agent.testing import ScriptedKimi, say
from kimi_agent.testing import call as model_calls
from kimi_agent.tools.base import is_safe_name
from kimi_agent.tools.mcp import connection
from kimi_agent.tools.mcp.configs import hidden, read_servers
from kimi_agent.tools.mcp.content import Limits, result_from
from kimi_agent.tools.mcp.messages import Lines, Surrogates, TooLong, mended
from kimi_agent.tools.mcp.names import named_tools, safe_name

SERVERS = Path(__file__).parent / "mcp_servers"
COUNTER = [sys.executable, str(SERVERS / "counter.py")]
PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
        "0000000d49444154789c6360f8cf0000000300010005fed4ef0000000049454e44ae426082"
    )
).decode()


# ==== what the tests need ====


async def until(condition: Callable[[], Any]) -> None:
    """Wait for a state."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": words}], **more}


class Scripted:
    """A scripted server: its config, and what it was told."""

    def __init__(self, folder: Path, answers: Mapping[str, Any] | None = None, **script: Any) -> None:
        self._log = folder / f"{len(list(folder.iterdir()))}.log"
        self.script = {"answers": answers or {}, **script}
        self.secret: dict[str, str] = {}

    @property
    def config(self) -> dict[str, Any]:
        env = {"SCRIPT": json.dumps(self.script), "LOG": str(self._log), **self.secret}
        return {"command": sys.executable, "args": ["-I", str(SERVERS / "scripted.py")], "env": env}

    @property
    def lines(self) -> list[str]:
        return self._log.read_text("utf-8").split("\n")[:-1] if self._log.exists() else []

    @property
    def pids(self) -> list[int]:
        return [int(line.removeprefix("pid ")) for line in self.lines if line.startswith("pid ")]

    def heard(self, method: str) -> list[Any]:
        messages = [json.loads(line) for line in self.lines if not line.startswith("pid ")]
        return [message.get("params") for message in messages if message.get("method") == method]

    def __call__(self, **options: Any) -> AbstractAsyncContextManager[MCPToolset]:
        return mcp_tools({"scripted": self.config}, **options)


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[..., Scripted]:
    return lambda answers=None, **script: Scripted(tmp_path, answers, **script)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")
    except (ProcessLookupError, FileNotFoundError):
        return False


def tool_of(tools: MCPToolset, name: str) -> MCPTool:
    return next(tool for tool in tools if isinstance(tool, MCPTool) and name in (tool.original_name, tool.base.name))


async def result_of(tools: MCPToolset, name: str, /, **arguments: Any) -> Any:
    return await tool_of(tools, name).call(arguments)


def names_of(tools: MCPToolset) -> list[str]:
    return [tool.name for tool in tools.tools]


def tasks_and_threads() -> tuple[set[Any], set[Any]]:
    """What is alive of ours."""
    tasks = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    threads = {thread for thread in threading.enumerate() if thread.name.startswith("stderr of")}
    return tasks, threads


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """What is started within ends within."""
    tasks, _ = tasks_and_threads()
    yield
    await until(lambda: not tasks_and_threads()[1] and tasks_and_threads()[0] <= tasks)


def iter_once(event: Any, receive: Any) -> Callable[[], Any]:
    """A channel that gives an event that was taken from it, and goes on."""
    events = [event]

    async def again() -> Any:
        return events.pop() if events else await receive()

    return again


class HttpServer:
    """A server of the `mcp` package over HTTP, in a thread with a loop of its own. It can end and come back."""

    def __init__(self) -> None:
        import counter
        import uvicorn

        self.headers: list[dict[str, str]] = []
        self.options: dict[str, Any] = {}
        self.stuck_at = ""
        self.refuses = self.cuts_off = False
        self.raw: dict[str, tuple[str, str]] = {}  # kind and body of answers, with the id of the request for ID
        self.counter = counter
        self.port = 0
        self._uvicorn = uvicorn
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def start(self) -> None:
        app = self.counter.server.streamable_http_app(**self.options)

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
                if self.stuck_at == scope["method"]:
                    await asyncio.Event().wait()
                if self.cuts_off:
                    receive.__self__.transport.abort()
                    return
                if self.refuses:
                    await send({"type": "http.response.start", "status": 401, "headers": []})
                    await send({"type": "http.response.body", "body": b"who are you?"})
                    return
            if scope["type"] == "http" and scope["method"] == "POST" and self.raw:
                event = await receive()
                message = json.loads(event["body"])
                if raw := self.raw.get(message["method"]):
                    await answer(send, *raw, message["id"])
                    return
                receive = iter_once(event, receive)
            await app(scope, receive, send)

        async def answer(send: Any, kind: str, body: str, request: Any) -> None:
            content = body.replace("ID", json.dumps(request)).encode()
            headers = [(b"content-type", kind.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for byte in range(0, len(content), size := 7 if len(content) < 10_000 else 100_000):
                await send({"type": "http.response.body", "body": content[byte : byte + size], "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        config = self._uvicorn.Config(
            noting, host="127.0.0.1", port=self.port, log_level="critical", timeout_graceful_shutdown=1, ws="none"
        )
        self._server = self._uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def end(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def http() -> Generator[HttpServer]:
    sys.path.insert(0, str(SERVERS))
    server = HttpServer()
    yield server
    server.end()
    sys.path.remove(str(SERVERS))


@contextmanager
def log_records(level: str) -> Generator[list[str]]:
    """What this package logs meanwhile."""
    lines: list[str] = []
    logger.enable("kimi_agent")
    sink = logger.add(lines.append, level=level, format="{message}")
    try:
        yield lines
    finally:
        logger.remove(sink)
        logger.disable("kimi_agent")


# ==== a server of the package, over both transports ====


@pytest.fixture(params=["stdio", "http"])
def server(request: pytest.FixtureRequest) -> Any:
    return COUNTER if request.param == "stdio" else request.getfixturevalue("http").url


async def test_tools_of_a_server_are_listed_called_and_closed(server: Any):
    async with nothing_left(), mcp_tools({"counter": server}, timeout=10) as tools:
        assert tools.errors == {}
        assert names_of(tools) == ["count", "cancelled", "wait", "fail", "picture", "environment_of", "repeat", "die"]
        assert tools.tools[0].description == "Count on."
        assert tools.tools[0].parameters["properties"]["by"]["type"] == "integer"

        before = await result_of(tools, "count", by=0)
        assert (await result_of(tools, "count", by=5)).output == str(int(before.output) + 5)

        failed = await result_of(tools, "fail")
        assert failed.is_error
        assert "Error executing tool fail" in failed.output

        pixel = await result_of(tools, "picture")
        assert pixel.output == (ImageURLPart(image_url=MediaURL(url=f"data:image/png;base64,{PNG}")),)

        assert (await result_of(tools, "environment_of", name="KIMI_AGENT_TEST")).output == ""

        refused = await result_of(tools, "count", by="many")
        assert refused.is_error
        assert "by" in refused.output


async def cancelled_calls(tools: MCPToolset, number: int) -> None:
    """Wait until the server has noticed so many cancellations."""
    async with asyncio.timeout(10):
        while int((await result_of(tools, "cancelled")).output) < number:
            await asyncio.sleep(0.005)


async def test_a_call_that_is_cancelled_or_late_ends_alone_and_the_server_is_told(server: Any):
    async with mcp_tools({"counter": server}, timeout=10) as tools:
        before = int((await result_of(tools, "cancelled")).output)
        tool_of(tools, "wait").timeout = 0.1
        late = await result_of(tools, "wait")
        assert late.is_error
        assert "within 0.1 seconds" in late.message
        await cancelled_calls(tools, before + 1)

        tool_of(tools, "wait").timeout = None
        waiting = [asyncio.create_task(result_of(tools, "wait")) for _ in range(2)]
        assert (await result_of(tools, "count")).is_error is False
        await until(lambda: not any(task.done() for task in waiting))
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        await cancelled_calls(tools, before + 2)
        assert not waiting[1].done()
        assert (await result_of(tools, "count")).is_error is False
    result = await waiting[1]
    assert result.is_error
    assert "counter" in result.message


async def test_an_agent_uses_the_tools_of_a_server(http: HttpServer):
    async with mcp_tools({"counter": http.url}) as tools:
        kimi = ScriptedKimi([model_calls("count", by=2), say("Done.")])
        agent = Agent(kimi, functions=tools)
        messages = [message async for message in agent.full_round("Count.")]
        assert [message.role for message in messages] == ["assistant", "tool", "assistant"]
        assert messages[1].text.isdigit()


async def test_the_headers_of_a_url_are_sent_with_every_request(http: HttpServer):
    http.headers.clear()
    async with mcp_tools({"counter": {"url": http.url, "headers": {"X-Key": "abc123"}}}) as tools:
        await result_of(tools, "count")
    assert len(http.headers) >= 4
    assert all(headers.get("x-key") == "abc123" for headers in http.headers)


async def test_the_environment_and_the_folder_of_a_process_are_as_configured(
    scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KIMI_API_KEY", "of nobody's business")
    server = scripted({"where": {"do": "where"}})
    server.secret = {"GREETING": "hello"}
    async with mcp_tools({"server": {**server.config, "cwd": tmp_path}}) as tools:
        said = json.loads((await result_of(tools, "where")).output)
    assert said["folder"] == str(tmp_path)
    assert said["environment"]["GREETING"] == "hello"
    assert said["environment"]["PATH"] == os.environ["PATH"]
    assert "KIMI_API_KEY" not in said["environment"]


# ==== opening and closing ====


async def test_tools_may_be_left_in_another_task_than_the_one_that_entered_them(scripted: Any):
    server = scripted({"add": text("5")})
    opened = server()
    async with nothing_left():
        tools = await asyncio.create_task(opened.__aenter__())
        assert (await result_of(tools, "add")).output == "5"
        await asyncio.create_task(opened.__aexit__(None, None, None))
    assert not any(map(is_running, server.pids))
    late = await result_of(tools, "add")
    assert late.is_error
    assert "is closed" in late.message


@pytest.mark.parametrize("ending", [ValueError, asyncio.CancelledError, KeyboardInterrupt])
async def test_processes_and_tasks_end_however_the_body_ends(scripted: Any, ending: type[BaseException]):
    server = scripted({"add": text("5")})
    async with nothing_left():
        with pytest.raises(ending):
            async with server():
                raise ending
    assert len(server.pids) == 1
    assert not is_running(server.pids[0])


async def test_who_is_cancelled_while_a_server_starts_leaves_nothing_behind(scripted: Any):
    server = scripted(mute=True)
    async with nothing_left():
        entering = asyncio.create_task(server(connect_timeout=60).__aenter__())
        await until(lambda: server.heard("initialize"))
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
    assert not is_running(server.pids[0])


async def test_who_is_cancelled_while_leaving_still_closes_everything(scripted: Any):
    server = scripted({"add": text("5")})

    async def use() -> None:
        async with server():
            pass

    async with nothing_left():
        using = asyncio.create_task(use())
        await until(lambda: server.heard("tools/list"))
        await until(lambda: using.cancel() and server.pids)
        with pytest.raises(asyncio.CancelledError):
            await using
    assert not is_running(server.pids[0])


def test_two_event_loops_in_a_row_work(scripted: Any, http: HttpServer):
    server = scripted({"add": text("5")})

    async def use() -> str:
        async with mcp_tools({"scripted": server.config, "counter": http.url}) as tools:
            await result_of(tools, "count")
            return (await result_of(tools, "add")).output

    assert [asyncio.run(use()) for _ in range(2)] == ["5", "5"]


async def test_a_call_from_another_event_loop_is_an_error_result(scripted: Any):
    async with scripted({"add": text("5")})() as tools:
        result = await asyncio.to_thread(lambda: asyncio.run(result_of(tools, "add")))
        assert result.is_error
        assert "another event loop" in result.message


async def test_a_process_that_does_not_end_by_itself_is_killed(scripted: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kimi_agent.tools.mcp.process.END_SECONDS", 0.1)
    server = scripted({"add": text("5")}, stubborn=True)
    async with nothing_left(), server():
        assert is_running(server.pids[0])
    assert not is_running(server.pids[0])


async def test_a_url_that_does_not_say_goodbye_is_left_all_the_same(http: HttpServer, monkeypatch: pytest.MonkeyPatch):
    from kimi_agent.tools.mcp import sdk

    monkeypatch.setattr(sdk, "CLOSE_SECONDS", 0.05)
    async with nothing_left(), mcp_tools(http.url) as tools:
        monkeypatch.setattr(http, "stuck_at", "DELETE")
        assert not (await result_of(tools, "count")).is_error


def test_a_loop_that_ends_without_leaving_ends_the_process(scripted: Any):
    server = scripted({"add": text("5")})
    kept: list[Any] = []

    async def forget() -> None:
        kept.append(server())
        await kept[0].__aenter__()

    asyncio.run(forget())
    assert not is_running(server.pids[0])


# ==== servers that cannot be reached ====


def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_a_server_that_cannot_be_reached_is_an_error_for_that_server_only(scripted: Any):
    port = unused_port()
    servers = {
        "good": scripted({"add": text("5")}).config,
        "missing": {"command": "no-such-command", "args": ["--port", "7"]},
        "refused": f"http://127.0.0.1:{port}/mcp",
        "mute": scripted(mute=True).config,
        "ended": scripted(**{"last words": "the file config.toml is missing"}).config,
        "elsewhere": {**scripted().config, "cwd": "/no/such/folder"},
    }
    async with nothing_left(), mcp_tools(servers, connect_timeout=1.0) as tools:
        said = {name: str(error) for name, error in tools.errors.items()}
        assert (await result_of(tools, "add")).output == "5"
        assert names_of(tools) == ["add"]
    assert said.keys() == {"missing", "refused", "mute", "ended", "elsewhere"}
    assert "'missing' (no-such-command --port 7)" in said["missing"]
    assert "No such file" in said["missing"]
    assert f"http://127.0.0.1:{port}/mcp" in said["refused"]
    assert "could not be reached" in said["refused"]
    assert "did not answer within 1 seconds" in said["mute"]
    assert "the file config.toml is missing" in said["ended"]
    assert "/no/such/folder" in said["elsewhere"]


async def test_the_only_server_that_cannot_be_reached_raises():
    with pytest.raises(MCPServerError, match="no-such-command"):
        async with mcp_tools("no-such-command --flag"):
            pass


async def test_all_servers_that_cannot_be_reached_raise_together():
    with pytest.raises(MCPServerError, match=r"(?s)'a'.*'b'"):
        async with mcp_tools({"a": "no-such-command", "b": "neither-this"}):
            pass


async def test_no_servers_are_no_tools():
    async with mcp_tools({"mcpServers": {"off": {"command": "no-such-command", "disabled": True}}}) as tools:
        assert tools.tools == []
        assert tools.errors == {}


async def test_a_server_that_does_not_speak_mcp_says_what_it_said(http: HttpServer):
    with pytest.raises(MCPServerError, match=r"404|Not Found"):
        async with mcp_tools(http.url.replace("/mcp", "/other")):
            pass


async def test_a_server_that_refuses_says_with_what_status(http: HttpServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "refuses", True)
    with pytest.raises(MCPServerError, match="HTTP 401 Unauthorized"):
        async with mcp_tools(http.url):
            pass


async def test_a_url_that_never_answers_is_given_up(http: HttpServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "stuck_at", "POST")
    async with nothing_left():
        with pytest.raises(MCPServerError, match=r"did not answer within 0.2 seconds"):
            async with mcp_tools(http.url, connect_timeout=0.2):
                pass


@pytest.mark.parametrize("options", [{"json_response": True}, {"stateless_http": True}], ids=["json", "stateless"])
async def test_other_kinds_of_servers_at_urls_work_too(http: HttpServer, options: Any):
    http.end()
    http.options = options
    http.start()
    try:
        async with mcp_tools(http.url) as tools:
            assert not (await result_of(tools, "count")).is_error
    finally:
        http.end()
        http.options = {}
        http.start()


async def test_a_server_that_could_not_be_reached_is_tried_again_by_refresh(scripted: Any, tmp_path: Path):
    late = scripted({"late": text("here")})
    command = tmp_path / "late-server"
    servers = {"good": scripted({"add": text("5")}).config, "late": {**late.config, "command": str(command)}}
    async with mcp_tools(servers) as tools:
        assert list(tools.errors) == ["late"]
        command.symlink_to(sys.executable)
        await tools.refresh()
        assert tools.errors == {}
        assert (await result_of(tools, "late")).output == "here"


# ==== servers that die, hang, or talk nonsense ====


async def test_a_server_that_dies_in_a_call_is_started_again_by_the_next_one(scripted: Any):
    server = scripted({"die": {"do": "die"}, "add": text("5")})
    async with nothing_left(), server() as tools:
        died = await result_of(tools, "die")
        assert died.is_error
        assert "ended in the middle of the call" in died.message
        assert len(server.heard("tools/call")) == 1, "a call that may have run is not sent again"
        assert (await result_of(tools, "add")).output == "5"
        assert len(server.pids) == 2
        assert [call["name"] for call in server.heard("tools/call")] == ["die", "add"]


async def test_a_server_that_died_between_two_calls_is_started_again_without_an_error(scripted: Any):
    server = scripted({"add": text("5")})
    async with server() as tools:
        os.kill(server.pids[0], 9)
        await until(lambda: not is_running(server.pids[0]))
        await until(lambda: not tool_of(tools, "add")._connection._is_good())
        results = await asyncio.gather(*(result_of(tools, "add") for _ in range(5)))
        assert [result.output for result in results] == ["5"] * 5
        assert len(server.pids) == 2, "all calls wait for one new process"


async def test_a_server_that_closes_its_output_and_lives_on_has_ended(scripted: Any):
    server = scripted({"close": {"do": "close"}, "add": text("5")})
    async with nothing_left(), server() as tools:
        assert "ended in the middle" in (await result_of(tools, "close")).message
        assert (await result_of(tools, "add")).output == "5"


async def test_a_server_that_dies_again_and_again_is_left_alone_for_a_while(
    scripted: Any, monkeypatch: pytest.MonkeyPatch
):
    server = scripted({"die": {"do": "die"}, "add": text("5")})
    async with server() as tools:
        results = [await result_of(tools, "die") for _ in range(connection.MOST_FAILURES + 3)]
        assert all(result.is_error for result in results)
        assert len(server.pids) == connection.MOST_FAILURES
        assert "failed 3 times in a row; it is tried again in" in results[-1].message
        monkeypatch.setattr(tool_of(tools, "add")._connection, "_rests_until", 0.0)
        assert (await result_of(tools, "add")).output == "5"


async def test_a_cancelled_call_does_not_cancel_the_new_start_that_others_wait_for(scripted: Any):
    server = scripted({"die": {"do": "die"}, "add": text("5")})
    async with server() as tools:
        await result_of(tools, "die")
        calls = [asyncio.create_task(result_of(tools, "add")) for _ in range(3)]
        await asyncio.sleep(0)
        calls[0].cancel()
        assert [result.output for result in await asyncio.gather(*calls[1:])] == ["5", "5"]


async def test_a_server_at_a_url_that_comes_back_has_a_new_session(http: HttpServer):
    async with mcp_tools({"counter": http.url}, timeout=10) as tools:
        waiting = asyncio.create_task(result_of(tools, "wait"))
        await until(lambda: http.counter.state["waiting"])
        await asyncio.to_thread(http.end)
        gone = await waiting
        assert gone.is_error
        assert "counter" in gone.message
        refused = await result_of(tools, "count")
        assert refused.is_error
        assert "could not be reached: All connection attempts failed" in refused.message
        http.start()
        assert not (await result_of(tools, "count")).is_error


async def test_one_broken_connection_ends_one_call(http: HttpServer, monkeypatch: pytest.MonkeyPatch):
    async with mcp_tools({"counter": http.url}, timeout=10) as tools:
        waiting = asyncio.create_task(result_of(tools, "wait"))
        await until(lambda: http.counter.state["waiting"])
        monkeypatch.setattr(http, "cuts_off", True)
        cut = await result_of(tools, "count")
        assert "could not be reached" in cut.message
        monkeypatch.setattr(http, "cuts_off", False)
        assert not (await result_of(tools, "count")).is_error
        assert not waiting.done()


async def test_many_calls_run_at_a_time(http: HttpServer):
    async with mcp_tools({"counter": http.url}, timeout=30) as tools:
        waiting = [asyncio.create_task(result_of(tools, "wait")) for _ in range(105)]
        results = await asyncio.gather(*(result_of(tools, "count") for _ in range(10)))
        assert not any(result.is_error for result in results)
        assert len({result.output for result in results}) == 10
        for task in waiting:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*waiting, return_exceptions=True)
        )


async def test_a_server_that_forgot_the_session_gets_the_call_in_a_new_one(http: HttpServer):
    async with mcp_tools({"counter": http.url}) as tools:
        before = int((await result_of(tools, "count", by=0)).output)
        http.end()
        http.start()
        assert (await result_of(tools, "count")).output == str(before + 1)


async def test_rubbish_on_stdout_is_ignored_and_not_shown(scripted: Any, capfd: pytest.CaptureFixture[str]):
    async with scripted({"rubbish": {"do": "rubbish"}})() as tools:
        assert (await result_of(tools, "rubbish")).output == "rubbish"
    assert capfd.readouterr() == ("", "")


async def test_what_a_server_writes_to_stderr_goes_to_the_log(scripted: Any, capfd: pytest.CaptureFixture[str]):
    server = scripted({"stderr": {"do": "stderr"}})
    server.secret = {"TOKEN": "s3cr3t-t0ken"}
    with log_records("DEBUG") as lines:
        async with nothing_left(), server() as tools:
            assert (await result_of(tools, "stderr")).output == "stderr"
    assert sum("xxxx" in line for line in lines) == 3_000
    assert any(line.strip() == "scripted: token ***" for line in lines)
    assert "x" not in capfd.readouterr().err


async def test_an_error_of_the_protocol_is_an_error_result(scripted: Any):
    async with scripted({"broken": {"do": "error", "message": "out of order"}})() as tools:
        result = await result_of(tools, "broken")
        assert result.is_error
        assert "answers with an error: out of order" in result.message
        assert (await result_of(tools, "broken")).is_error


async def test_a_server_that_does_not_read_holds_up_nobody(scripted: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kimi_agent.tools.mcp.process.END_SECONDS", 0.05)
    server = scripted({"stop": {"do": "stop"}, "add": text("5")})
    async with nothing_left(), server(timeout=0.1) as tools:
        await result_of(tools, "stop")
        started = time.monotonic()
        results = [await tool_of(tools, "add").call({"x": "y" * 300_000}) for _ in range(2)]
        assert all("within 0.1 seconds" in result.message for result in results)
        assert time.monotonic() - started < 4
    assert not is_running(server.pids[0])


@pytest.mark.skipif(os.name != "posix", reason="groups of processes")
@pytest.mark.parametrize("at_term", ["SIG_DFL", "SIG_IGN"])
async def test_children_of_a_server_end_with_it(scripted: Any, at_term: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kimi_agent.tools.mcp.process.END_SECONDS", 0.3)
    server = scripted({"child": {"do": "child", "at term": at_term}, "die": {"do": "die"}, "add": text("5")})
    async with nothing_left(), server() as tools:
        of_one_that_died = int((await result_of(tools, "child")).output)
        await result_of(tools, "die")
        child = int((await result_of(tools, "child")).output)
        assert is_running(child)
    await until(lambda: not is_running(of_one_that_died) and not is_running(child))


@pytest.mark.skipif(os.name != "posix", reason="groups of processes")
async def test_a_server_that_dies_is_gone_though_its_child_holds_its_output(scripted: Any):
    child = {"do": "child", "at term": "SIG_DFL", "inherits": True}
    async with scripted({"child": child, "die": {"do": "die"}})(timeout=10) as tools:
        child = int((await result_of(tools, "child")).output)
        assert "ended in the middle of the call" in (await result_of(tools, "die")).message
        await until(lambda: not is_running(child))


async def test_a_process_ends_also_when_its_end_is_cancelled(scripted: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "CLOSE_GRACE", 0.05)
    server = scripted({"add": text("5")}, stubborn=True)
    async with nothing_left(), server():
        pass
    await until(lambda: not is_running(server.pids[0]))


# ==== answers that are hard to read ====

DEEP = '{"a":' * 400 + "1" + "}" * 400
TOO_DEEP = "[" * 50_000 + "]" * 50_000


def raw(line: str) -> dict[str, Any]:
    return {"do": "raw", "line": line}


def answering(result: str) -> str:
    return f'{{"jsonrpc":"2.0","id":ID,"result":{result}}}'


def listing(description: str = "", schema: str = "{}") -> str:
    tool = f'{{"name":"add","description":"{description}","inputSchema":{schema}}}'
    return answering(f'{{"tools":[{tool},{{"name":"other"}}]}}')


async def test_a_lone_surrogate_in_a_result_is_replaced(scripted: Any):
    said = r"\ud83d x \uDe00 \ud83d\ude00 \\ud83d \n"
    answers = {
        "text": raw(answering(f'{{"content":[{{"type":"text","text":"{said}"}}]}}')),
        "latin": raw(answering('{"content":[{"type":"text","text":"caf\xe9 \\ud83d"}]}')),
    }
    async with scripted(answers)() as tools:
        assert (await result_of(tools, "text")).output == "\ufffd x \ufffd 😀 \\ud83d \n"
        assert (await result_of(tools, "latin")).output == "caf\ufffd \ufffd"


async def test_a_lone_surrogate_or_a_deep_schema_in_a_list_costs_no_tool(scripted: Any):
    answers = {"add": text("5"), "other": text("6")}
    for line in (listing(r"\ud83d Add."), listing("Add.", f'{{"properties":{{"x":{DEEP}}}}}')):
        async with scripted(answers, raw={"tools/list": line})(connect_timeout=10) as tools:
            assert names_of(tools) == ["add", "other"]
            assert tools["add"].base.description.endswith("Add.")
            json.dumps(tools["add"].base.parameters)
            assert (await result_of(tools, "add")).output == "5"


async def test_a_deep_result_is_cut_where_it_is_too_deep(scripted: Any):
    deep = raw(answering(f'{{"structuredContent":{DEEP}}}'))
    beside = raw(answering(f'{{"content":[{{"type":"text","text":"said"}}],"_meta":{DEEP}}}'))
    async with scripted({"deep": deep, "beside": beside})() as tools:
        result = await result_of(tools, "deep")
        assert not result.is_error
        assert "nested too deeply" in result.output
        assert (await result_of(tools, "beside")).output == "said"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f'{{"jsonrpc":"2.0","id":ID,"result":{TOO_DEEP}}}', "nested too deeply"),
        (f'{{"id":ID, "jsonrpc":"2.0", "result":{TOO_DEEP}}}', "nested too deeply"),
        (f'{{"result":{TOO_DEEP},"jsonrpc":"2.0","id":ID}}', "nested too deeply"),
        (f'{{"result":{TOO_DEEP},"id":ID,"jsonrpc":"2.0"}}', "nested too deeply"),
        ('{"jsonrpc":"2.0","id":ID,"result":{"content":[}}', "no JSON"),
        ('{"jsonrpc":"2.0","id":ID,"result":[]}', "neither a result nor an error"),
        ('{"jsonrpc":"2.0","id":ID,"error":{"message":"x"}}', "neither a result nor an error"),
        ('{"jsonrpc":"2.0","id":ID}', "neither a result nor an error"),
        (answering('{"x":' + "1" * 5_000 + "}"), "no JSON"),
    ],
    ids=["head", "other head", "tail", "other tail", "broken", "list", "error", "nothing", "number"],
)
async def test_an_answer_that_cannot_be_read_is_an_error_of_its_call_at_once(scripted: Any, line: str, says: str):
    async with scripted({"bad": raw(line), "hang": {"do": "hang"}, "add": text("5")})(timeout=None) as tools:
        waiting = asyncio.create_task(result_of(tools, "hang"))
        result = await result_of(tools, "bad")
        assert result.is_error
        assert "has answered the call, but the answer cannot be read" in result.message
        assert says in result.message
        assert (await result_of(tools, "add")).output == "5"
        assert not waiting.done()


async def test_a_list_that_cannot_be_read_is_told_at_once(scripted: Any):
    unreadable = scripted(raw={"tools/list": answering(TOO_DEEP)})
    with pytest.raises(MCPServerError, match="the answer cannot be read: it is nested too deeply"):
        async with unreadable(connect_timeout=60):
            pass


@pytest.mark.parametrize(
    "line",
    [
        '{"jsonrpc":"2.0","id":ID,"method":"ping","params":[}',
        '{"method":"ping","params":[},"jsonrpc":"2.0","id":ID}',
        '{"level":"error","error":"x","id":ID}',
        '{"result":{"id":ID}',
        '{"jsonrpc":"2.0","id":0ID,"result":[}',
        '{"jsonrpc":"2.0","id":"\x07ID","result":[}',
        '"jsonrpc" {"id":ID,"result":{}',
    ],
)
async def test_what_is_no_answer_ends_no_call(line: str):
    assert mended(line.replace("ID", "1").encode()) is None


async def test_a_line_that_is_too_long_is_an_error_of_its_call(scripted: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kimi_agent.tools.mcp.process.Lines", lambda: Lines(20_000))
    long = {"do": "long", "length": 30_000}
    first = raw('{"result":{"content":[{"type":"text","text":"' + "x" * 30_000 + '"}]},"jsonrpc":"2.0","id":ID}')
    async with scripted({"long": long, "first": first, "add": text("5")})(timeout=None) as tools:
        for name in ("long", "first"):
            assert "cannot be read: it is longer than 64 MiB" in (await result_of(tools, name)).message
            assert (await result_of(tools, "add")).output == "5"


def test_lines_come_in_any_chunks_and_take_linear_time():
    content = b"one\n\ntwo\r\n" + b"x" * 50 + b"\nend\n"
    for size in (1, 2, 7, 100):
        lines = Lines(40)
        found = [line for at in range(0, len(content), size) for line in lines.feed(content[at : at + size])]
        assert found[:3] + found[4:] == [b"one", b"", b"two\r", b"end"]
        assert isinstance(found[3], TooLong)
    lines, started = Lines(), time.monotonic()
    assert not [line for _ in range(8_000) for line in lines.feed(b"x" * 4_000)]
    assert [len(line) for line in lines.feed(b"\n") if isinstance(line, bytes)] == [32_000_000]
    assert time.monotonic() - started < 5


def test_surrogates_are_replaced_in_any_chunks():
    content = rb'"\ud83d x \uDe00 \ud83d\ude00 \\ud83d \\\ud83d\n \u00fc \ude00\ud83d" \ud83d\\ud83d'
    expected = rb'"\ufffd x \ufffd \ud83d\ude00 \\ud83d \\\ufffd\n \u00fc \ufffd\ufffd" \ufffd\\ud83d'
    for size in range(1, len(content) + 1):
        surrogates = Surrogates()
        parts = [surrogates.feed(content[at : at + size]) for at in range(0, len(content), size)]
        assert b"".join(parts) + surrogates.close() == expected, size


def body(kind: str, line: str) -> tuple[str, str]:
    return kind, line if kind == "application/json" else f"event: message\ndata: {line}\n\n"


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_answers_at_a_url_are_read_leniently_too(http: HttpServer, monkeypatch: pytest.MonkeyPatch, kind: str):
    said = answering(r'{"content":[{"type":"text","text":"\ud83d x \ud83d\ude00 \\ud83d"}]}')
    answers = {"tools/list": body(kind, listing(r"\ud83d Add.")), "tools/call": body(kind, said)}
    monkeypatch.setattr(http, "raw", answers)
    async with mcp_tools(http.url, timeout=10) as tools:
        assert tools["add"].base.description == "\ufffd Add."
        assert (await result_of(tools, "add")).output == "\ufffd x 😀 \\ud83d"
        for line, says in (
            (answering(TOO_DEEP), "it is no JSON: recursion limit"),
            (answering('{"content":[}'), "it is no JSON"),
            (answering("[]"), "it is no message of the protocol"),
        ):
            answers["tools/call"] = body(kind, line)
            result = await result_of(tools, "add")
            assert f"has answered the call, but the answer cannot be read: {says}" in result.message
            assert "pydantic" not in result.message
        answers["tools/call"] = body(kind, said)
        assert not (await result_of(tools, "add")).is_error


async def test_an_answer_at_a_url_that_is_too_long_is_an_error_of_its_call(
    http: HttpServer, monkeypatch: pytest.MonkeyPatch
):
    from kimi_agent.tools.mcp import sdk

    async with mcp_tools(http.url, timeout=10) as tools:
        monkeypatch.setattr(sdk, "_BOUNDS", {"application/json": 10_000})
        long = answering('{"content":[{"type":"text","text":"' + "x" * 20_000 + '"}]}')
        monkeypatch.setattr(http, "raw", {"tools/call": ("application/json", long)})
        assert "longer than 64 MiB" in (await result_of(tools, "count")).message
        monkeypatch.setattr(http, "raw", {})
        assert not (await result_of(tools, "count")).is_error


# ==== arguments ====


async def test_arguments_are_sent_as_the_object_that_they_are(scripted: Any):
    server = scripted({"add": text("5")})
    arguments = {"ü": [1, 2.5, None, True, {"x": "\u2028\n"}], "big": 10**30}
    async with server() as tools:
        await tool_of(tools, "add").call(arguments)
        await tool_of(tools, "add").call(None)
        sent = [params["arguments"] for params in server.heard("tools/call")]
        assert sent == [arguments, {}]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"x": value}
    return value


@pytest.mark.parametrize(
    "arguments",
    [
        [1],
        "text",
        3,
        {"x": float("nan")},
        {"x": [float("inf")]},
        {"x": "\ud800"},
        {"x": {1, 2}},
        nested(250),
        nested(100_000),
    ],
    ids=["list", "text", "number", "nan", "infinite", "surrogate", "set", "deep", "very deep"],
)
async def test_arguments_that_cannot_be_sent_are_an_error_result(stable: MCPToolset, arguments: Any):
    result = await tool_of(stable, "add").call(arguments)
    assert result.is_error
    assert "arguments" in result.message
    assert (await result_of(stable, "add")).output == "5"


@pytest.fixture
async def stable(scripted: Any) -> AsyncIterator[MCPToolset]:
    async with scripted({"add": text("5")})() as tools:
        yield tools


async def test_a_toolset_runs_calls_of_a_model(stable: MCPToolset):
    for arguments, ok in (("{}", True), ("[1]", False), ("NaN", False), ('{"x": NaN}', False), ("{", False)):
        function = ToolCall.FunctionBody(name="add", arguments=arguments)
        handled = stable.handle(ToolCall(id="1", function=function))
        result = await handled if isinstance(handled, asyncio.Future) else handled
        assert result.return_value.is_error is not ok, arguments


# ==== results ====

LIMITS = Limits(text=1_000, media=10_000)


def converted(*blocks: Any, limits: Limits = LIMITS, **answer: Any) -> Any:
    """The output for an answer of these blocks."""
    return result_from({"content": list(blocks), **answer}, limits).output


def block(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def resource(**fields: Any) -> dict[str, Any]:
    return {"type": "resource", "resource": fields}


def test_one_text_is_a_text_and_several_are_parts():
    assert converted(block("one")) == "one"
    assert converted(block("one"), block(""), block("two")) == (TextPart(text="one"), TextPart(text="two"))
    assert converted() == ""


def test_media_are_parts_with_data_urls():
    sound = {"type": "audio", "mimeType": "audio/wav; rate=8000", "data": base64_of(b"RIFF")}
    film = resource(uri="file:///a.mp4", mimeType="video/mp4", blob=base64_of(b"film"))
    shown = converted(block("See:"), {"type": "image", "mimeType": "image/png", "data": PNG}, sound, film)
    assert shown == (
        TextPart(text="See:"),
        ImageURLPart(image_url=MediaURL(url=f"data:image/png;base64,{PNG}")),
        AudioURLPart(audio_url=MediaURL(url="data:audio/wav;base64,UklGRg==")),
        VideoURLPart(video_url=MediaURL(url="data:video/mp4;base64,ZmlsbQ==")),
    )


def test_a_picture_is_what_its_bytes_are_and_what_kimi_refuses_is_told_in_words():
    assert converted({"type": "image", "mimeType": "image/jpeg", "data": PNG})[0].image_url.url.startswith(
        "data:image/png;"
    )
    assert converted(resource(uri="a", blob=PNG))[0].type == "image_url"
    tiff = {"type": "image", "mimeType": "image/tiff", "data": base64_of(b"II*\0")}
    assert converted(tiff) == "[image: 4 bytes of image/tiff]"
    svg = {"type": "image", "mimeType": "image/svg+xml", "data": base64_of(b"<svg/>")}
    assert converted(svg) == "<svg/>"
    assert converted({"type": "image", "mimeType": "image/png", "data": "no base64!"}) == "[image: damaged]"


def test_resources_are_their_text_their_media_or_words():
    assert converted(resource(uri="file:///a.txt", text="inside")) == "inside"
    assert converted(resource(uri="a", mimeType="application/json", blob=base64_of(b"{}"))) == "{}"
    assert converted(resource(uri="a.zip", mimeType="application/zip", blob=base64_of(b"PK"))) == (
        "[resource a.zip: 2 bytes of application/zip]"
    )
    link = {
        "type": "resource_link",
        "uri": "file:///a.txt",
        "name": "a",
        "mimeType": "text/plain",
        "description": "Text.",
    }
    assert converted(link) == "[resource a file:///a.txt (text/plain): Text.]"


def test_structured_content_is_shown_when_there_is_nothing_else():
    assert converted(structuredContent={"a": [1, "ü"]}) == '{"a":[1,"ü"]}'
    assert result_from({"structuredContent": [1]}, LIMITS).output == "[1]"
    assert converted(block("said"), structuredContent={"a": 1}) == "said"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"content": None},
        {"content": "text"},
        {"content": [None, 3, "x", [], {}, {"type": None}, {"type": ["x"]}, {"type": "hologram", "data": 1}]},
        {"content": [{"type": kind} for kind in ("text", "image", "audio", "resource", "resource_link")]},
        {"content": [{"type": "text", "text": 3}, {"type": "image", "mimeType": 3, "data": 4}]},
        {"content": [{"type": "resource", "resource": 3}, {"type": "resource", "resource": {"blob": None}}]},
        {"content": [{"type": "image", "mimeType": "image/png\r\nX: y", "data": "AAAA"}]},
        {"isError": "yes", "content": []},
        {"resultType": "input_required", "inputRequests": {}},
    ],
)
def test_whatever_a_server_answers_is_a_result(answer: Any):
    result = result_from(answer, LIMITS)
    assert result.is_error is (answer.get("resultType") == "input_required")
    assert len(str(result.output)) < 2_000


async def test_blocks_that_nobody_knows_come_through_a_session(scripted: Any):
    answers = {
        "new": {"content": [{"type": "hologram", "rays": 3}, block("and text")], "isError": False},
        "odd": {"content": "text"},
        "none": {},
        "structured": {"structuredContent": {"a": 1}, "content": []},
        "error": {"content": [block("no such file")], "isError": True},
    }
    async with scripted(answers)() as tools:
        assert [part.text for part in (await result_of(tools, "new")).output] == [
            "[a block that cannot be shown: hologram]",
            "and text",
        ]
        assert (await result_of(tools, "odd")).output == ""
        assert (await result_of(tools, "none")).output == ""
        assert (await result_of(tools, "structured")).output == '{"a":1}'
        error = await result_of(tools, "error")
        assert (error.is_error, error.output, error.message) == (True, "no such file", "The tool reports an error.")
        assert error.brief == "no such file"


def test_a_long_text_is_cut_with_a_note():
    limits = Limits(text=100, media=0)
    shown = converted(block("x" * 250), limits=limits)
    assert shown.startswith("x" * 90)
    assert shown.endswith("[cut: the result has 150 more characters]")
    picture = {"type": "image", "mimeType": "image/png", "data": PNG}
    first, second = converted(block("x" * 60), block("y" * 60), block("z" * 60), picture, limits=Limits(100, 10_000))
    assert first.text == "x" * 60
    assert second.text.endswith("[cut: the result has 80 more characters and 1 more parts]")


def test_media_beyond_the_limit_are_told_in_words():
    picture = {"type": "image", "mimeType": "image/png", "data": PNG}
    size = len(base64.b64decode(PNG))
    kept = converted(picture, picture, limits=Limits(1_000, size + 10))
    assert [part.type for part in kept] == ["image_url", "text"]
    assert "too large to be shown" in kept[1].text


async def test_the_limits_of_a_result_can_be_changed(scripted: Any):
    server = scripted({"long": {"do": "long", "length": 200_000}})
    async with server() as tools:
        assert 100_000 <= len((await result_of(tools, "long")).output) < 100_100
    async with server(max_text=300_000) as tools:
        assert len((await result_of(tools, "long")).output) == 200_000


@pytest.mark.skipif(metadata.version("mcp") < "2.3", reason="mcp takes 1 MiB at most")
async def test_a_result_of_megabytes_comes_through(http: HttpServer):
    async with mcp_tools(http.url, max_text=10_000_000) as tools:
        assert (await result_of(tools, "repeat", word="ü", times=2_000_000)).output == "ü" * 2_000_000


# ==== names ====


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("read_file", "read_file"),
        ("read-file", "read-file"),
        ("files.read", "files_read"),
        ("files/read/all", "files_read_all"),
        ("ls", "tool_ls"),
        ("x", "tool_x"),
        ("2nd", "tool_2nd"),
        ("-rm", "tool_-rm"),
        ("a b  c!", "a_b_c_"),
        ("天气", "tool_4d947325"),
        ("天气_weather", "weather_"),
        ("...", "tool_"),
        ("x" * 65, "x" * 55 + "_"),
    ],
)
def test_a_name_is_made_safe_always_in_the_same_way(name: str, safe: str):
    assert safe_name(name).startswith(safe)
    assert is_safe_name(safe_name(name))
    assert safe_name(name) == safe_name(name)


def test_names_of_other_scripts_stay_apart():
    assert len({safe_name(name) for name in ("天气", "时间", "ü", "...", "..", "/")}) == 6


def names_for(*tools: tuple[str, str], prefix: bool | None = None, known: Mapping[Any, str] | None = None) -> list[str]:
    named = named_tools(list(tools), prefix, known or {})
    assert len(set(named.values())) == len(named)
    assert all(map(is_safe_name, named.values()))
    return [named[tool] for tool in tools]


def test_a_name_of_two_servers_is_prefixed_for_both():
    assert names_for(("a", "find"), ("b", "find"), ("b", "get")) == ["a_find", "b_find", "get"]
    assert names_for(("b", "find"), ("a", "find")) == ["b_find", "a_find"]
    assert names_for(("a", "x.y"), ("b", "x_y")) == ["a_x_y", "b_x_y"]


def test_prefixes_can_be_forced_and_forbidden():
    assert names_for(("my server", "ls"), ("a", "x" * 64), prefix=True)[0] == "my_server_ls"
    with pytest.raises(FunctionSpecError, match="'find'"):
        names_for(("a", "find"), ("b", "find"), prefix=False)


def test_names_that_become_the_same_stay_apart_in_whatever_order():
    names = names_for(("a", "x.y"), ("a", "x/y"), ("a", "x_y"))
    assert names[2] == "x_y"
    assert names == names_for(("a", "x_y"), ("a", "x/y"), ("a", "x.y"))[::-1]
    tricky = names_for(("a", "find"), ("b", "find"), ("c", "a_find"), ("a.b", "z"), ("a_b", "z"), ("a/b", "z"))
    assert tricky[2] == "a_find"


def test_a_name_that_was_given_stays():
    assert names_for(("b", "find"), known={("a", "find"): "find"}) == ["b_find"]


async def test_servers_with_the_same_tools_answer_by_their_own_names(scripted: Any):
    servers = {name: scripted({"who.am.i": text(name)}).config for name in ("left", "right")}
    async with mcp_tools(servers) as tools:
        assert names_of(tools) == ["left_who_am_i", "right_who_am_i"]
        assert [(await tool.call({})).output for tool in tools] == ["left", "right"]
    async with mcp_tools({"left": servers["left"]}, prefix=True) as tools:
        assert names_of(tools) == ["left_who_am_i"]


# ==== allow and block ====


@pytest.fixture
def files(scripted: Any) -> Scripted:
    return scripted({name: text(name) for name in ("files.read", "files.write", "search")})


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"allow": ["files.read"]}, ["files_read"]),
        ({"allow": {"files_read", "search"}}, ["files_read", "search"]),
        ({"block": ["files.write", "search"]}, ["files_read"]),
        ({"allow": []}, []),
        ({"allow": ["scripted_search"], "prefix": True}, ["scripted_search"]),
    ],
)
async def test_only_tools_that_are_wanted_are_taken(files: Scripted, options: Any, names: list[str]):
    async with files(**options) as tools:
        assert names_of(tools) == names


def test_allow_and_block_together_are_refused(files: Scripted):
    with pytest.raises(ValueError, match="not both"):
        files(allow=["search"], block=["search"])
    with pytest.raises(ValueError, match="a list of names"):
        files(allow="search")


async def test_a_wanted_name_that_is_that_of_no_tool_is_refused(files: Scripted):
    for option in ("allow", "block"):
        async with nothing_left():
            with pytest.raises(ValueError, match=r"no tool is named 'find', 'see'; there are files_read, files_write"):
                async with files(**{option: ["see", "search", "find"]}):
                    pass
    assert not any(map(is_running, files.pids))


async def test_a_wanted_name_may_be_that_of_a_server_that_is_not_there(files: Scripted):
    async with mcp_tools({"files": files.config, "gone": "no-such-command"}, allow=["search", "other"]) as tools:
        assert names_of(tools) == ["search"]


# ==== what a server lists ====


def listed(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "inputSchema": {"type": "object"}} for name in names]


async def test_a_list_of_many_pages_is_read_to_its_end(scripted: Any):
    names = [f"tool{number}" for number in range(25)]
    server = scripted({"tool7": text("7")}, tools=listed(*names), pages=10)
    async with server() as tools:
        assert names_of(tools) == names
        assert [(params or {}).get("cursor") for params in server.heard("tools/list")] == [None, "10", "20"]


async def test_a_list_without_an_end_ends_all_the_same(scripted: Any, monkeypatch: pytest.MonkeyPatch):
    from kimi_agent.tools.mcp import sdk

    monkeypatch.setattr(sdk, "MOST_PAGES", 20)
    async with scripted(tools=listed("one", "two", "two"), pages=1, endless=True)() as tools:
        assert names_of(tools) == ["one", "two"]


SCHEMAS: list[Any] = [
    {},
    {"type": "object"},
    {"properties": {"x": {"type": "string"}}},
    {"type": "object", "properties": {"x": {"$ref": "#/$defs/X"}}, "$defs": {"X": {"enum": [1, "a"]}}},
    {"type": "object", "additionalProperties": False, "properties": {}, "required": []},
    {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": {"type": "number"},
    },
    {"type": ["object", "null"], "properties": {"x": {"type": ["string", "null"], "default": None}}},
    {"anyOf": [{"properties": {"x": {}}, "required": ["x"]}, {"properties": {"y": True}}]},
    {"type": "object", "properties": {"x.y": {"const": 1}, "": {"format": "date"}}, "required": ["missing"]},
    {"type": "object", "properties": {"self": {"$ref": "#"}, "gone": {"$ref": "#/$defs/Gone"}}},
    {"type": "object", "properties": None, "required": None},
    {"type": "object", "properties": []},
    None,
    True,
    [],
]


async def test_odd_tools_are_tools_and_do_not_spoil_the_others(scripted: Any):
    tools = [{"name": f"tool{number}", "inputSchema": schema} for number, schema in enumerate(SCHEMAS)]
    nameless: list[Any] = [{"inputSchema": {}}, {"name": ""}, {"name": 3}, None, "tool", []]
    bare = {"name": "bare", "description": None, "annotations": None, "title": "A title"}
    async with scripted(tools=[*nameless, *tools, bare])() as taken:
        assert names_of(taken) == [*(f"tool{number}" for number in range(len(SCHEMAS))), "bare"]
        for tool in taken.tools:
            assert tool.parameters["type"] == "object"
            sent = to_mfjs(tool.parameters)
            json.dumps(sent)
        assert tool_of(taken, "tool3").base.parameters["$defs"]["X"]["enum"] == (1, "a")
        assert tool_of(taken, "tool4").base.parameters["additionalProperties"] is False
        assert tool_of(taken, "bare").base.description == "A title"
        assert tool_of(taken, "tool0").base.description == ""


async def test_the_tools_reach_the_wire(scripted: Any):
    from kimi_agent import Kimi
    from kimi_agent.testing import KimiServer

    tools = [{"name": f"tool{number}", "inputSchema": schema} for number, schema in enumerate(SCHEMAS)]
    async with scripted(tools=tools)() as taken, KimiServer([say("Hello.")]) as kimi:
        async with Agent(Kimi(api_key=kimi.api_key, base_url=kimi.base_url), functions=taken) as agent:
            assert (await agent.chat_round_str("Hi.")) == "Hello."
        assert len(kimi.requests[0].body["tools"]) == len(SCHEMAS)


async def test_annotations_and_options_are_on_each_tool(scripted: Any):
    hints = {"readOnlyHint": True, "destructiveHint": False}
    tools = [{"name": "look", "annotations": hints}, {"name": "erase"}]

    def ask(arguments: Mapping[str, Any]) -> bool:
        return bool(arguments)

    async with scripted(tools=tools)() as taken:
        assert tool_of(taken, "look").annotations == hints
        assert tool_of(taken, "erase").annotations == {}
        assert [(tool.timeout, tool.approval, tool.server) for tool in taken] == [(60.0, False, "scripted")] * 2
        assert repr(tool_of(taken, "look")) == "<MCPTool 'look' of 'scripted'>"
    async with scripted(tools=tools)(timeout=None, approval=ask) as taken:
        assert [(tool.timeout, tool.approval) for tool in taken] == [(None, ask)] * 2


async def test_a_call_that_is_not_approved_does_not_reach_the_server(scripted: Any):
    from kimi_agent.tools.approval import Approval

    asked: list[Any] = []

    class Careful(Agent):
        async def approve_function_call(self, call: ToolCall, function: Any) -> Approval:
            asked.append((call.name, function.annotations))
            return Approval.reject("not today")

    server = scripted({"erase": text("erased"), "look": text("seen")})
    script = [model_calls("erase", all=True), model_calls("erase", all=False), say("Done.")]
    async with server(approval=lambda arguments: arguments["all"]) as tools:
        agent = Careful(ScriptedKimi(script), functions=tools)
        said = [message.text async for message in agent.full_round("Erase.") if message.role == "tool"]
    assert asked == [("erase", {})]
    assert "not today" in said[0]
    assert said[1] == "erased"
    assert [params["arguments"] for params in server.heard("tools/call")] == [{"all": False}]


async def test_a_server_that_knows_only_the_new_greeting_is_greeted_so(scripted: Any):
    beside = {"resultType": "complete", "ttlMs": 0, "cacheScope": "public"}
    discover = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, **beside}
    asking = {"resultType": "input_required", "inputRequests": {}, "requestState": "x"}
    server = scripted({"add": text("5"), "ask": asking}, discover=discover, beside=beside)
    async with server() as tools:
        assert (await result_of(tools, "add")).output == "5"
        assert "asks for input" in (await result_of(tools, "ask")).message


async def test_the_progress_of_a_call_is_reported(scripted: Any, monkeypatch: pytest.MonkeyPatch):
    from kimi_agent.tools import context as contexts

    told: list[Any] = []
    monkeypatch.setattr(
        contexts.ToolContext, "report", lambda self, words, fraction=None: told.append((words, fraction))
    )
    async with scripted({"progress": {"do": "progress"}})() as tools:
        assert (await result_of(tools, "progress")).output == "progress"
        await until(lambda: len(told) == 2)
    assert sorted(told) == [("step 1", 0.25), ("step 2", 0.5)]


# ==== refresh ====


async def test_a_changed_list_is_noticed_and_taken_over_by_refresh(scripted: Any):
    after = [*listed("new", "change"), {"name": "keep", "description": "Now described."}]
    answers = {"change": {"do": "change", "tools": after}, "keep": text("kept"), "gone": text("x"), "new": text("new")}
    server = scripted(answers, tools=listed("keep", "change", "gone"))
    async with server(timeout=7.0) as tools:
        kept = tool_of(tools, "keep")
        kept.timeout = 1.0
        assert tools.stale == []
        await result_of(tools, "change")
        await until(lambda: tools.stale == ["scripted"])
        assert names_of(tools) == ["keep", "change", "gone"]
        await tools.refresh()
        assert tools.stale == []
        assert names_of(tools) == ["keep", "change", "new"]
        assert tool_of(tools, "keep") is kept
        assert (kept.base.description, kept.timeout) == ("Now described.", 1.0)
        assert (await result_of(tools, "new")).output == "new"


async def test_refresh_of_a_server_that_died_starts_it_again_and_one_that_is_gone_keeps_its_tools(scripted: Any):
    died, gone = scripted({"die": {"do": "die"}, "add": text("5")}), scripted({"exit": {"do": "die"}})
    async with mcp_tools({"died": died.config, "gone": gone.config}, connect_timeout=5) as tools:
        await asyncio.gather(result_of(tools, "die"), result_of(tools, "exit"))
        gone_connection = tool_of(tools, "exit")._connection
        object.__setattr__(gone_connection.config, "command", "no-such-command")
        await tools.refresh()
        assert list(tools.errors) == ["gone"]
        assert names_of(tools) == ["die", "add", "exit"]
        assert (await result_of(tools, "add")).output == "5"


async def test_a_tool_that_was_taken_out_stays_out_after_refresh(scripted: Any):
    async with scripted({"add": text("5"), "erase": text("x")})() as tools:
        tools.remove("erase")
        await tools.refresh()
        assert names_of(tools) == ["add"]


async def test_only_the_set_that_was_given_is_refreshed(scripted: Any):
    server = scripted({"grow": {"do": "change", "tools": listed("other", "grow", "more")}, "gone": text("x")})
    async with server() as tools:
        derived = [
            tools.only("grow"),
            tools.without("gone"),
            tools.prefixed("x_"),
            tools | SimpleToolset(),
            tools + one_more,
        ]
        names = [names_of(some) for some in derived]
        await result_of(tools, "grow")
        for some in derived:
            with pytest.raises(RuntimeError, match="refresh the one that mcp_tools gave"):
                await some.refresh()
        assert [names_of(some) for some in derived] == names
        await tools.refresh()
        assert names_of(tools) == ["grow", "other", "more"]


def one_more() -> None:
    """Do nothing."""


async def test_tools_are_found_by_their_names_and_are_those_of_servers(scripted: Any):
    async with scripted({"add": text("5"), "erase.all": text("x")})() as tools:
        assert [tool.name for tool in tools] == ["add", "erase_all"]
        assert tools["erase_all"].original_name == "erase.all"
        for tool in tools:
            tool.approval = not tool.annotations.get("readOnlyHint", False)
        assert tools["add"].approval is True


# ==== secrets ====

SECRETS = ("pa55w0rd-1", "t0ken-2", "he4der-3", "query-4", "v4lue-5", "a-long-key-in-the-path-6", "flag-7")


def assert_no_secret(*texts: Any) -> None:
    for words in texts:
        assert not [secret for secret in SECRETS if secret in str(words)], words


async def test_secrets_are_in_no_error_log_or_repr(scripted: Any, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    leaking = scripted({"leak": {"do": "error", "message": "bad value v4lue-5"}, "die": {"do": "die"}})
    leaking.secret = {"API_KEY": "v4lue-5"}
    ended = scripted(**{"last words": "cannot log in with t0ken-2"})
    ended.secret = {"TOKEN": "t0ken-2"}
    url = f"http://user:pa55w0rd-1@127.0.0.1:{unused_port()}/s/a-long-key-in-the-path-6/mcp?key=query-4"
    servers = {
        "leaking": leaking.config,
        "ended": ended.config,
        "refused": {"url": url, "headers": {"Authorization": "Bearer he4der-3"}},
        "missing": ["no-such-command", "--api-key", "flag-7", "--token=flag-7", url],
    }
    with log_records("TRACE") as lines:
        async with mcp_tools(servers) as tools:
            assert tools.errors.keys() == {"ended", "refused", "missing"}
            result = await result_of(tools, "leak")
            assert "bad value ***" in result.message
            died = await result_of(tools, "die")
            assert_no_secret(result, died, tools, repr(list(tools)), vars(tool_of(tools, "leak")))
            for error in tools.errors.values():
                assert_no_secret(error, repr(error), error.__cause__, error.__context__)
    assert_no_secret(*lines, *map(repr, read_servers(servers)))
    assert len(lines) > 3
    assert "cannot log in with ***" in str(tools.errors["ended"])
    assert "no-such-command --api-key *** --token=***" in str(tools.errors["missing"])


@pytest.mark.parametrize(
    "said",
    [json.dumps, lambda it: json.dumps(it, ensure_ascii=False), quote, lambda it: quote(it, safe=""), quote_plus],
    ids=["json", "plain json", "path", "url", "form"],
)
async def test_a_secret_is_hidden_also_where_it_is_quoted(scripted: Any, said: Callable[[str], str]):
    secret = 'pass"w\\ord/ü &1'
    server = scripted({"leak": {"do": "error", "message": f"bad value <{said(secret).strip(chr(34))}>"}})
    server.secret = {"API_KEY": secret}
    async with server() as tools:
        assert "bad value <***>" in (await result_of(tools, "leak")).message


def test_a_secret_that_is_quoted_in_the_url_is_hidden_also_where_it_is_not():
    [server] = read_servers("http://me:pa%20ss%2F1@example.org/mcp?key=v%26alue")
    assert hidden(server, "pa%20ss%2F1, pa ss/1, v%26alue, v&alue") == "***, ***, ***, ***"


# ==== what is written ====


def test_servers_are_read_from_all_their_forms():
    shown = [
        (server.name, server.shown)
        for servers in (
            "https://example.org/mcp",
            "my-server postgres://me:pw@db/x --url=http://me:pw@h/?a=b --password pw --auth=pw K=v",
            "my-server --root '/a b'",
            ["my-server", "--root", "/a b"],
            {"files": "my-server x", "web": "http://localhost:8000/mcp"},
            {"mcpServers": {"files": {"command": "my-server", "args": ["x"], "alwaysAllow": []}}},
            {"web": {"type": "http", "url": "https://example.org/mcp", "headers": {"X": "y"}}},
            {"files": {"type": "stdio", "command": Path("/bin/my-server"), "cwd": Path("/tmp"), "env": {"A": "b"}}},
        )
        for server in read_servers(servers)
    ]
    assert shown == [
        ("example.org", "https://example.org/mcp"),
        ("my-server", "my-server postgres://db/x --url=http://h/?*** --password *** --auth=*** K=v"),
        ("my-server", "my-server --root '/a b'"),
        ("my-server", "my-server --root '/a b'"),
        ("files", "my-server x"),
        ("web", "http://localhost:8000/mcp"),
        ("files", "my-server x"),
        ("web", "https://example.org/mcp"),
        ("files", "/bin/my-server"),
    ]


@pytest.mark.parametrize(
    ("servers", "says"),
    [
        ("", "empty command"),
        ([], "empty command"),
        ("ws://example.org", "neither http nor https"),
        ("http://", "no http or https URL"),
        ("unclosed 'quote", "cannot be split"),
        (3, "not a int"),
        ({"a": None}, "'a' is a URL, a command or a mapping"),
        ({}, "there is no server"),
        ({"a": {}}, "'a' needs either a command or a url, and has nothing"),
        ({"a": {"cmd": "x", "arg": 1}}, "'a' needs either a command or a url, and has 'cmd', 'arg'$"),
        ({"a": {"command": "x", "url": "http://y"}}, "'a' needs either a command or a url, and has both"),
        ({"a": {"url": "ftp://x"}}, "'a' has a url that is no http"),
        ({"a": {"type": "sse", "url": "http://x"}}, "'a': with a url, type is http"),
        ({"a": {"transport": "http", "command": "x"}}, "'a': with a command, transport is stdio"),
        ({"a": {"command": "x", "cwd": 3}}, "'a': cwd is no text"),
        ({"a": {"command": "x", "args": "y"}}, "'a': args is a list"),
        ({"a": {"command": "x", "args": [1]}}, r"'a': args\[0\] is no text"),
        ({"a": {"command": 3}}, "'a': command is a list of texts"),
        ({"a": {"command": "x", "env": {"KEY": 12345}}}, r"'a': env\[KEY\] is no text$"),
        ({"a": {"url": "http://x", "headers": ["y"]}}, "'a': headers is a mapping"),
        ({"command": "x", "args": []}, "has a name"),
        ({"mcpServers": 3}, "mcpServers is a mapping"),
    ],
)
def test_servers_that_are_written_wrongly_are_refused_at_once(servers: Any, says: str):
    with pytest.raises(ValueError, match=says):
        mcp_tools(servers)


# ==== the extra ====


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'kimi_agent\[mcp\]'"):
        mcp_tools("my-server")


def test_with_an_old_mcp_the_error_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mcp_types", None)
    with pytest.raises(ModuleNotFoundError, match="older than 2"):
        mcp_tools("my-server")


def test_the_package_and_this_room_open_without_mcp():
    code = "import kimi_agent, kimi_agent.tools.mcp, sys; assert not {'mcp', 'mcp_types'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("approval", [None, "yes", 1, {}])
def test_an_approval_is_a_bool_or_a_function(approval: Any):
    with pytest.raises(ValueError, match="approval= is a bool or a function"):
        mcp_tools("my-server", approval=approval)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"connect_timeout": -1.0}, {"max_text": -1}, {"max_media": -1}])
def test_numbers_out_of_their_range_are_refused_at_once(options: Any):
    with pytest.raises(ValueError, match=next(iter(options))):
        mcp_tools("my-server", **options)
